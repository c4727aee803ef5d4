"""Simple policy optimisation."""

from __future__ import annotations

from plexp_spo.objective import simple_surrogate
from torch import Tensor

from plexp import Agent, Fraction, Learner, Metrics, Minibatch, PositiveInt, Terms, Trajectory, losses, register


@register("algo", "spo")
class SPO:
    """Simple Policy Optimization: a penalty instead of PPO's clipping (Xie et al. 2024, arXiv 2401.16025).

    Args:
        num_steps: T, steps of each environment in a rollout; larger: less bias, fewer updates.
        update_epochs: passes over each rollout; more: more from each step, and further from the old policy.
        num_minibatches: gradient steps in each pass; more: smaller, noisier steps.
        epsilon: how far one update moves the policy's probabilities.
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
        epsilon: Fraction,
    ) -> None:
        self.agent, self.learner, self.epsilon = agent, learner, epsilon
        self.num_steps, self.update_epochs, self.num_minibatches = num_steps, update_epochs, num_minibatches

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        return self.learner.fit(
            trajectory, self.loss, progress, epochs=self.update_epochs, num_minibatches=self.num_minibatches
        )

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        output = self.agent.evaluate(minibatch)
        log_ratios = output.log_probs - minibatch.log_probs
        policy_losses = simple_surrogate(log_ratios.exp(), minibatch.advantages, self.epsilon)
        approx_kl = losses.approximate_kl(log_ratios.detach())
        return self.learner.total_loss(policy_losses, output, minibatch, approx_kl=approx_kl)
