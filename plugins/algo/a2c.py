"""The algorithm A2C, advantage actor-critic."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from plexp import Agent, Learner, Metrics, Minibatch, PositiveInt, Terms, Trajectory, losses, register


@register("algo", "a2c")
class A2C:
    """Advantage actor-critic: n steps of N environments, one pass (Mnih et al. 2016, algorithm S3, synchronous).

    Minimises −A log π(a|s) − ent_coef · H + vf_coef · ½ (V − target)², means over the rollout. With its usual `gae`,
    λ = 1, A is the paper's longest available n-step advantage.

    Args:
        num_steps: n, steps of each environment in a rollout; larger: less bias, fewer updates.
        num_minibatches: gradient steps in the one pass over a rollout.
    """

    complete_episodes = False
    refused: ClassVar = {
        "update_epochs": "its gradient holds only for the policy that acted; use algo=ppo, or algo.replay_rollouts",
        "clip_eps": "it has no ratio to clip; use algo=ppo",
        "target_kl": "it makes one pass; use algo=ppo",
    }

    def __init__(self, agent: Agent, learner: Learner, *, num_steps: PositiveInt, num_minibatches: PositiveInt) -> None:
        self.agent, self.learner, self.num_steps, self.num_minibatches = agent, learner, num_steps, num_minibatches

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        return self.learner.fit(trajectory, self.loss, progress, num_minibatches=self.num_minibatches)

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        output = self.agent.evaluate(minibatch)
        policy_losses = losses.policy_gradient(output.log_probs, minibatch.advantages, minibatch.importance_weights)
        return self.learner.total_loss(policy_losses, output, minibatch)
