"""Mine."""

from __future__ import annotations

import torch
from torch import Tensor

from plexp import Metrics, Networks, ReplayLearner, Terms, Trajectory, Transitions, UnitInterval, losses, register


@register("algo", "mine")
class Mine:
    """The plainest Q-learning from replayed transitions (Mnih et al. 2015): `loss` is the place to change.

    Args:
        epsilon: ε, the share of random actions; larger: explores more.
    """

    complete_episodes = False

    def __init__(self, networks: Networks, learner: ReplayLearner, *, epsilon: UnitInterval) -> None:
        self.learner, self.num_steps, self.epsilon = learner, learner.num_steps, epsilon
        self.policy = networks.q_policy(dueling=False, random_steps=1)  # acts; ε-greedy in Q(s, ·)
        self.optimizer = learner.optimizer(self.policy)
        self.target = learner.target(self.policy)  # follows the policy slowly

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        self.policy.explore(self.epsilon)
        for batch in self.learner.batches(trajectory, progress):  # none before algo.learning_starts
            self.optimizer.minimize(self.loss, batch)
        return self.learner.metrics()

    def loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        values = losses.pick(self.policy.policy(batch.observations), batch.actions)  # Q(s, a), with gradients
        with torch.no_grad():
            targets = batch.rewards + batch.discounts * self.target.policy(batch.next_observations).amax(-1)
        loss = (batch.weights * losses.huber_error(values, targets)).mean()
        return loss, {"loss": loss.detach(), "td_errors": targets - values.detach()}
