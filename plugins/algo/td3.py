"""The algorithm TD3, twin delayed deep deterministic policy gradient; DDPG is a configuration of it."""

from __future__ import annotations

import torch
from torch import Tensor

from plexp import (
    Fraction,
    Metrics,
    Networks,
    NoiseKind,
    NonNegativeFloat,
    PositiveInt,
    ReplayLearner,
    Terms,
    Trajectory,
    Transitions,
    losses,
    register,
)


@register("algo", "td3")
class TD3:
    """Deterministic policy gradient with twin critics, delayed policy updates and target smoothing (Fujimoto et al. 2018).

    The critics minimise the mean over replayed transitions of w · Σ_k ½ (Q_k(s, a) − y)², and every `policy_delay`-th
    gradient step the policy minimises the mean of −Q_1(s, π(s)):

        y = Σ_{k<n} γ^k r_{t+k} + γ^n (1 − terminated) min_k Q⁻_k(s', clip(π⁻(s') + clip(ε, −c, c), −1, 1)),   ε ~ N(0, σ²)

    Q⁻ and π⁻ are target networks. With one critic, no delay and σ = 0 it is DDPG (Lillicrap et al. 2016). Actions are scaled
    to −1…1.

    Args:
        num_critics: K, critics whose least value is the target's.
        policy_delay: gradient steps of the critics for one of the policy.
        target_noise, target_noise_clip: σ and c; 0: no smoothing.
        noise: exploration noise: gaussian, or ornstein_uhlenbeck, which lasts over steps.
        noise_scale: standard deviation of the exploration noise.
        noise_theta: θ of ornstein_uhlenbeck; smaller: the noise lasts longer.
    """

    complete_episodes = False

    def __init__(
        self,
        networks: Networks,
        learner: ReplayLearner,
        *,
        num_critics: PositiveInt,
        policy_delay: PositiveInt,
        target_noise: NonNegativeFloat,
        target_noise_clip: NonNegativeFloat,
        noise: NoiseKind,
        noise_scale: NonNegativeFloat,
        noise_theta: Fraction,
    ) -> None:
        self.learner, self.num_steps, self.policy_delay = learner, learner.num_steps, policy_delay
        self.target_noise, self.target_noise_clip = target_noise, target_noise_clip
        self.policy = networks.deterministic_policy(noise, noise_theta, noise_scale)
        self.critics = networks.critics(num_critics)
        self.critic_optimizer = learner.optimizer(self.critics, prefix="critic_")
        self.policy_optimizer = learner.optimizer(self.policy, prefix="policy_")
        self.target_policy, self.target_critics = learner.target(self.policy), learner.target(self.critics)

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        for batch in self.learner.batches(trajectory, progress, noise=(self.policy.distribution.num_features,)):
            self.critic_optimizer.minimize(self.critic_loss, batch)
            if self.learner.count % self.policy_delay == 0:
                self.policy_optimizer.minimize(self.policy_loss, batch)
        self.policy.explore(0.0 if self.learner.is_learning else 1.0)
        return self.learner.metrics()

    def critic_loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        values = self.critics(batch.observations, batch.actions)
        assert batch.noise is not None
        with torch.no_grad():
            noise = (self.target_noise * batch.noise).clamp(-self.target_noise_clip, self.target_noise_clip)
            following = (self.target_policy.policy(batch.next_observations).tanh() + noise).clamp(-1, 1)
            least = self.target_critics(batch.next_observations, following).amin(0)
            targets = batch.rewards + batch.discounts * least
        loss = (batch.weights * losses.squared_error(values, targets)).mean(-1).sum()
        errors = (targets - values.detach()).mean(0)
        return loss, {"critic_loss": loss.detach(), "q_value": values.detach().mean(), "td_errors": errors}

    def policy_loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        actions = self.policy.policy(batch.observations).tanh()
        loss = -self.critics.first(batch.observations, actions).mean()
        return loss, {"policy_loss": loss.detach()}
