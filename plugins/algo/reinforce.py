"""The algorithm REINFORCE."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from plexp import Agent, Learner, Metrics, Minibatch, Terms, Trajectory, losses, register


@register("algo", "reinforce")
class REINFORCE:
    """REINFORCE: one update after each complete episode (Williams 1992; Sutton and Barto 2018, ch. 13.3).

    Minimises −Σ_t Φ_t log π(a_t|s_t), summed over the steps of an episode and averaged over the N episodes of a rollout,
    one of each environment. As in most implementations, γ^t is left out of the gradient.
    """

    num_steps = 1
    complete_episodes = True
    refused: ClassVar = {
        "num_steps": "an update takes one complete episode of each environment; use algo=a2c for n steps",
        "update_epochs": "its gradient holds only for the policy that acted; use algo=ppo",
        "num_minibatches": "an update is one step on complete episodes; use algo=a2c or algo=ppo",
        "clip_eps": "it has no ratio to clip; use algo=ppo",
        "target_kl": "it makes one pass; use algo=ppo",
    }

    def __init__(self, agent: Agent, learner: Learner) -> None:
        self.agent, self.learner = agent, learner

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        steps = trajectory.num_valid / trajectory.rewards.shape[1]
        return self.learner.fit(trajectory, self.loss, progress, arguments={"steps_per_episode": steps})

    def loss(self, minibatch: Minibatch, steps_per_episode: float | Tensor) -> tuple[Tensor, Terms]:
        output = self.agent.evaluate(minibatch)
        policy_losses = losses.policy_gradient(output.log_probs, minibatch.advantages, minibatch.importance_weights)
        return self.learner.total_loss(policy_losses, output, minibatch, weight=steps_per_episode)
