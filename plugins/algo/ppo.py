"""The algorithm PPO, proximal policy optimization."""

from __future__ import annotations

import math

from torch import Tensor

from plexp import (
    Agent,
    Fraction,
    Learner,
    Metrics,
    Minibatch,
    PositiveFloat,
    PositiveInt,
    Terms,
    Trajectory,
    losses,
    register,
)


@register("algo", "ppo")
class PPO:
    """Proximal Policy Optimization with a clipped surrogate (Schulman et al. 2017, eq. 7 and 9).

    Minimises −min(r A, clip(r, 1 − ε, 1 + ε) A) − ent_coef · H + vf_coef · ½ (V − target)², means over a minibatch, with
    r = π(a|s)/π_old(a|s); the paper maximises the negative, with the coefficients c₂ and 2 c₁.

    Args:
        num_steps: T, steps of each environment in a rollout; larger: less bias, fewer updates.
        update_epochs: passes over each rollout; more: more from each step, and further from the old policy.
        num_minibatches: gradient steps in each pass; more: smaller, noisier steps.
        clip_eps: ε, how far one update may move the policy's probabilities; null: without limit (eq. 6).
        anneal_clip: ε falls linearly to 0 over the training budget.
        target_kl: no further pass once the mean approx_kl of one exceeds it, in nats; null: never.
    """

    complete_episodes = False

    def __init__(
        self,
        agent: Agent,
        learner: Learner,
        *,
        num_steps: PositiveInt,
        update_epochs: PositiveInt,
        num_minibatches: PositiveInt,
        clip_eps: Fraction | None,
        anneal_clip: bool,
        target_kl: PositiveFloat | None,
    ) -> None:
        self.agent, self.learner = agent, learner
        self.num_steps, self.update_epochs, self.num_minibatches = num_steps, update_epochs, num_minibatches
        self.clip_eps = math.inf if clip_eps is None else clip_eps
        self.anneal_clip, self.target_kl = anneal_clip and clip_eps is not None, target_kl

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        return self.learner.fit(
            trajectory,
            self.loss,
            progress,
            arguments={"clip_eps": self.clip_eps * (1 - progress if self.anneal_clip else 1)},
            epochs=self.update_epochs,
            num_minibatches=self.num_minibatches,
            target_kl=self.target_kl,
        )

    def loss(self, minibatch: Minibatch, clip_eps: float | Tensor) -> tuple[Tensor, Terms]:
        output = self.agent.evaluate(minibatch)
        log_ratios = output.log_probs - minibatch.log_probs
        ratios = log_ratios.exp()
        policy_losses = losses.clipped_surrogate(ratios, minibatch.advantages, clip_eps)
        change = ratios.detach()
        return self.learner.total_loss(
            policy_losses,
            output,
            minibatch,
            approx_kl=losses.approximate_kl(log_ratios.detach()),
            clip_fraction=((change - 1).abs() > clip_eps).float().mean(),
        )
