"""The algorithm DQN, deep Q-network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
        target_update_every: gradient steps between two moves of the target network.
        target_tau: share of the way that it moves; 1: a copy.
        epsilon_start, epsilon_end: ε at first, and from `exploration_fraction` of the training budget on.
        exploration_fraction: share of the budget over which ε falls linearly.
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
        target_update_every: PositiveInt,
        target_tau: PositiveFraction,
        epsilon_start: UnitInterval,
        epsilon_end: UnitInterval,
        exploration_fraction: PositiveFraction,
    ) -> None:
        self.policy, self.learner, self.num_steps = networks.q_policy(dueling=dueling), learner, learner.num_steps
        self.target = copy.deepcopy(self.policy).requires_grad_(False)
        self.double, self.error = double, ERRORS[loss]
        self.target_update_every, self.target_tau, self.updates = target_update_every, target_tau, 0
        self.epsilon_start, self.epsilon_end, self.fraction = epsilon_start, epsilon_end, exploration_fraction
        both = nn.ModuleDict({"policy": self.policy, "target": self.target})
        self.optimizer = learner.optimizer(both, self.policy.parameters(), frozen=self.target.parameters())
        self._explore(0.0)

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        epsilon = self._explore(progress)
        if not self.learner.add(trajectory):
            return {"epsilon": epsilon}
        return {**self.learner.minimize(self.optimizer, self.loss, self._follow), "epsilon": epsilon}

    def loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        values = self.policy.policy(batch.observations).gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            following = self.target.policy(batch.next_observations)
            chooser = self.policy.policy(batch.next_observations) if self.double else following
            best = following.gather(-1, chooser.argmax(-1, keepdim=True)).squeeze(-1)
            targets = batch.rewards + batch.discounts * best
        loss = (batch.weights * self.error(values, targets)).mean()
        return loss, {"loss": loss.detach(), "q_value": values.detach().mean()}

    def _explore(self, progress: float) -> float:
        """Set ε for the share of the budget that has been used, and return it."""
        share = min(1.0, progress / self.fraction)
        epsilon = self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)
        self.policy.distribution.epsilon.fill_(epsilon)
        return epsilon

    def _follow(self) -> None:
        """Move the target network after a gradient step, if it is due."""
        self.updates += 1
        if self.updates % self.target_update_every == 0:
            self.optimizer.frozen.lerp_(self.optimizer.flat, self.target_tau)

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "optimizer": self.optimizer.state_dict(),
            "target": self.optimizer.frozen,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.updates = state_dict["updates"]
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.optimizer.frozen.copy_(state_dict["target"])
