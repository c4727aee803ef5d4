"""Mine."""

from __future__ import annotations

from torch import Tensor

from plexp import Agent, Learner, Metrics, Minibatch, PositiveInt, Terms, Trajectory, losses, register


@register("algo", "mine")
class Mine:
    """The plainest policy gradient on n steps (Sutton et al. 2000): `loss` is the place to change.

    Args:
        num_steps: T, steps of each environment in a rollout; larger: less bias, fewer updates.
    """

    complete_episodes = False

    def __init__(self, agent: Agent, learner: Learner, *, num_steps: PositiveInt) -> None:
        self.agent, self.learner, self.num_steps = agent, learner, num_steps

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        return self.learner.fit(trajectory, self.loss, progress)

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        output = self.agent.evaluate(minibatch)  # log π(a|s), entropy, V(s), with gradients
        policy_losses = losses.policy_gradient(output.log_probs, minibatch.advantages, minibatch.importance_weights)
        return self.learner.total_loss(policy_losses, output, minibatch)  # with entropy bonus and value loss
