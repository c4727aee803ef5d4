"""The algorithm DQN, deep Q-network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from plexp import (
    Metrics,
    Networks,
    PositiveFraction,
    PositiveInt,
    ReplayLearner,
    Terms,
    Trajectory,
    Transitions,
    UnitInterval,
    losses,
    register,
)

ERRORS = {"huber": losses.huber_error, "squared": losses.squared_error}


@register("algo", "dqn")
class DQN:
    """Deep Q-network (Mnih et al. 2015), with double (van Hasselt et al. 2016) and dueling (Wang et al. 2016) values.

    Minimises the mean over replayed transitions of w · ℓ(Q(s, a), y) with the n-step target

        y = Σ_{k<n} γ^k r_{t+k} + γ^n (1 − terminated) Q⁻(s', argmax_a' Q(s', a'))          (double)
        y = Σ_{k<n} γ^k r_{t+k} + γ^n (1 − terminated) max_a' Q⁻(s', a')                    (otherwise)

    Q⁻ is the target network, and ℓ half the squared error, or Huber's, which is linear beyond 1. The policy is ε-greedy.

    Args:
        double: the online network chooses the target's action; false: the target network does.
        dueling: Q(s, a) = V(s) + A(s, a) − mean A(s, ·).
        loss: huber, or squared.
        epsilon_start, epsilon_end: ε at first, and from `exploration_fraction` of the training budget on.
        exploration_fraction: share of the budget over which ε falls linearly.
        random_steps: steps that a random action lasts on average (Dabney et al. 2021).
    """

    complete_episodes = False

    def __init__(
        self,
        networks: Networks,
        learner: ReplayLearner,
        *,
        double: bool,
        dueling: bool,
        loss: Literal["huber", "squared"],
        epsilon_start: UnitInterval,
        epsilon_end: UnitInterval,
        exploration_fraction: PositiveFraction,
        random_steps: PositiveInt,
    ) -> None:
        self.learner, self.num_steps = learner, learner.num_steps
        self.double, self.error = double, ERRORS[loss]
        self.epsilon_start, self.epsilon_end, self.fraction = epsilon_start, epsilon_end, exploration_fraction
        self.policy = networks.q_policy(dueling=dueling, random_steps=random_steps)
        self.optimizer = learner.optimizer(self.policy)
        self.target = learner.target(self.policy)

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        epsilon = losses.interpolate(self.epsilon_start, self.epsilon_end, progress / self.fraction)
        self.policy.explore(epsilon)
        for batch in self.learner.batches(trajectory, progress):
            self.optimizer.minimize(self.loss, batch)
        return {**self.learner.metrics(), "epsilon": epsilon}

    def loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        values = losses.pick(self.policy.policy(batch.observations), batch.actions)
        with torch.no_grad():
            following = self.target.policy(batch.next_observations)
            chooser = self.policy.policy(batch.next_observations) if self.double else following
            targets = batch.rewards + batch.discounts * losses.pick(following, chooser.argmax(-1))
        loss = (batch.weights * self.error(values, targets)).mean()
        return loss, {"loss": loss.detach(), "q_value": values.detach().mean(), "td_errors": targets - values.detach()}
