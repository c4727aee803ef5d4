"""The one-step actor-critic algorithm."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from plexp import Agent, Learner, Metrics, Minibatch, Terms, Trajectory, losses, register


@register("algo", "actor_critic")
class ActorCritic:
    """One-step actor-critic: an update of actor and critic after every step (Sutton and Barto 2018, ch. 13.5).

    Minimises −δ_t log π(a_t|s_t) and ½ (V(s_t) − r_t − γ V(s_{t+1}))². As in most implementations, γ^t is left out.
    """

    num_steps = 1
    complete_episodes = False
    updates_every_step = True
    refused: ClassVar = {
        "num_steps": "an update takes one step; use algo=a2c for n steps",
        "update_epochs": "its gradient holds only for the policy that acted; use algo=ppo",
        "num_minibatches": "an update takes one step; use algo=a2c or algo=ppo",
        "clip_eps": "it has no ratio to clip; use algo=ppo",
        "target_kl": "it makes one pass; use algo=ppo",
    }

    def __init__(self, agent: Agent, learner: Learner) -> None:
        self.agent, self.learner = agent, learner

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        return self.learner.fit(trajectory, self.loss, progress)

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        output = self.agent.evaluate(minibatch)
        policy_losses = losses.policy_gradient(output.log_probs, minibatch.advantages, minibatch.importance_weights)
        return self.learner.total_loss(policy_losses, output, minibatch)
