"""The algorithm QR-DQN, quantile regression DQN."""

from __future__ import annotations

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


@register("algo", "qr_dqn")
class QRDQN:
    """DQN that learns K quantiles θ_i(s, a) of the return instead of its mean (Dabney et al. 2018).

    Minimises the mean over replayed transitions of w · Σ_i mean_j ρ_i(y_j − θ_i(s, a)), where ρ_i is the quantile Huber
    error (eq. 10) and

        y_j = Σ_{k<n} γ^k r_{t+k} + γ^n (1 − terminated) θ⁻_j(s', a*),   a* = argmax_a' mean_i θ_i(s', a')

    with the θ⁻ of the target network, which chooses a* too unless `double` is on. The policy is ε-greedy in the means.

    Args:
        quantiles: K.
        double: the online network chooses the target's action; false: the target network does.
        dueling: each quantile is V(s) + A(s, a) − mean A(s, ·).
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
        quantiles: PositiveInt,
        double: bool,
        dueling: bool,
        epsilon_start: UnitInterval,
        epsilon_end: UnitInterval,
        exploration_fraction: PositiveFraction,
        random_steps: PositiveInt,
    ) -> None:
        self.learner, self.num_steps = learner, learner.num_steps
        self.quantiles, self.double = quantiles, double
        self.epsilon_start, self.epsilon_end, self.fraction = epsilon_start, epsilon_end, exploration_fraction
        self.policy = networks.q_policy(dueling=dueling, random_steps=random_steps, quantiles=quantiles)
        self.optimizer = learner.optimizer(self.policy)
        self.target = learner.target(self.policy)

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        epsilon = losses.interpolate(self.epsilon_start, self.epsilon_end, progress / self.fraction)
        self.policy.explore(epsilon)
        for batch in self.learner.batches(trajectory, progress):
            self.optimizer.minimize(self.loss, batch)
        return {**self.learner.metrics(), "epsilon": epsilon}

    def loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        quantiles = self._quantiles_of(self.policy.policy(batch.observations), batch.actions)
        with torch.no_grad():
            following = self.target.policy(batch.next_observations)
            chooser = self.policy.policy(batch.next_observations) if self.double else following
            actions = self.policy.distribution.mode(chooser)
            returns = batch.discounts.unsqueeze(-1) * self._quantiles_of(following, actions)
            targets = batch.rewards.unsqueeze(-1) + returns
        loss = (batch.weights * losses.quantile_huber_error(quantiles, targets)).mean()
        values = quantiles.detach().mean(-1)
        return loss, {"loss": loss.detach(), "q_value": values.mean(), "td_errors": targets.mean(-1) - values}

    def _quantiles_of(self, output: Tensor, actions: Tensor) -> Tensor:
        """Return the quantiles [B, K] of the actions [B], from the network's output [B, n · K]."""
        quantiles = output.view(*output.shape[:-1], -1, self.quantiles)
        return losses.pick(quantiles.transpose(-1, -2), actions.unsqueeze(-1))
