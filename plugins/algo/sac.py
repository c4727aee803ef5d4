"""The algorithm SAC, soft actor-critic, for continuous and for discrete actions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from plexp import (
    Categorical,
    Fraction,
    Inputs,
    Metrics,
    Networks,
    NoiseKind,
    PositiveFloat,
    PositiveInt,
    ReplayLearner,
    Terms,
    Trajectory,
    Transitions,
    losses,
    register,
)


class Temperature(nn.Module):
    """The weight α of the entropy, as its logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((1,), math.log(initial)))


@register("algo", "sac")
class SAC:
    """Soft actor-critic (Haarnoja et al. 2018), and its variant for discrete actions (Christodoulou 2019).

    With a ~ π(·|s) and a' ~ π(·|s') drawn anew, the critics, the policy and the temperature α minimise the means over replayed
    transitions of

        w · Σ_k ½ (Q_k(s, a_t) − y)²,   y = Σ_{k<n} γ^k r_{t+k} + γ^n (1 − terminated) (min_k Q⁻_k(s', a') − α log π(a'|s'))
        α log π(a|s) − min_k Q_k(s, a)
        −log α · (log π(a|s) + H̄)

    Q⁻ are target critics, and H̄ is the target entropy. Actions of a Box are scaled to −1…1, in which their density is meant;
    over discrete actions the expectations are taken in closed form.

    Args:
        num_critics: K, critics whose least value is the target's.
        alpha: α, weight of the entropy; where it is learnt, its first value.
        learn_alpha: α is learnt, so that the policy's entropy becomes H̄; false: it is fixed.
        target_entropy: H̄ in nats; null: −dims for a Box, 0.5 log n for n discrete actions, of those that are legal.
        noise: gaussian, or ornstein_uhlenbeck, whose draws last over steps; the loss's draws are gaussian.
        noise_theta: θ of ornstein_uhlenbeck; smaller: the noise lasts longer.
    """

    complete_episodes = False
    refused: ClassVar = {"ent_coef": "the weight of its entropy is algo.alpha"}

    def __init__(
        self,
        networks: Networks,
        learner: ReplayLearner,
        *,
        num_critics: PositiveInt,
        alpha: PositiveFloat,
        learn_alpha: bool,
        target_entropy: float | None,
        noise: NoiseKind,
        noise_theta: Fraction,
    ) -> None:
        self.learner, self.num_steps, is_discrete = learner, learner.num_steps, networks.is_discrete
        self.policy = networks.softmax_policy() if is_discrete else networks.gaussian_policy(noise, noise_theta)
        self.rule, size = self.policy.distribution.rule, self.policy.distribution.num_features
        self.target_entropy = -float(size) if target_entropy is None and not is_discrete else target_entropy
        self.critics, self.temperature = networks.critics(num_critics), Temperature(alpha).to(networks.device)
        self.critic_optimizer = learner.optimizer(self.critics, prefix="critic_")
        self.learn_alpha, trained = learn_alpha, [self.temperature] if learn_alpha else []
        self.policy_optimizer = learner.optimizer(self.policy, *trained, prefix="policy_")
        self.target_critics = learner.target(self.critics)
        self.noise = () if is_discrete else (2, size)

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        for batch in self.learner.batches(trajectory, progress, noise=self.noise):
            self.critic_optimizer.minimize(self.critic_loss, batch)
            self.policy_optimizer.minimize(self.policy_loss, batch)
        self.policy.explore(0.0 if self.learner.is_learning else 1.0)
        return self.learner.metrics()

    def critic_loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        values = self.values(self.critics, batch.observations, batch.actions)
        with torch.no_grad():
            least, log_probs = self.least(self.target_critics, batch.next_observations, batch.noise, 0)
            alpha = self.temperature.log.exp()
            targets = batch.rewards + batch.discounts * (least - alpha * log_probs)
        loss = (batch.weights * losses.squared_error(values, targets)).mean(-1).sum()
        errors = (targets - values.detach()).mean(0)
        return loss, {"critic_loss": loss.detach(), "q_value": values.detach().mean(), "td_errors": errors}

    def policy_loss(self, batch: Transitions) -> tuple[Tensor, Terms]:
        least, log_probs = self.least(self.critics, batch.observations, batch.noise, 1)
        log_alpha, entropy = self.temperature.log.squeeze(), -log_probs.mean()
        loss = policy_loss = (log_alpha.detach().exp() * log_probs - least).mean()
        if self.learn_alpha:
            given, largest = self.target_entropy, self.policy.largest_entropy(batch.observations)
            loss = policy_loss + log_alpha * (entropy.detach() - (0.5 * largest if given is None else given))
        terms = {"policy_loss": policy_loss, "entropy": entropy, "alpha": log_alpha.exp()}
        return loss, {name: term.detach() for name, term in terms.items()}

    def values(self, critics: nn.Module, observations: Inputs, actions: Tensor) -> Tensor:
        """Return each critic's values of the actions that were taken, [K, B]."""
        if isinstance(self.rule, Categorical):
            return losses.pick(critics(observations), actions)
        values: Tensor = critics(observations, self.rule.encode(actions))
        return values

    def least(self, critics: nn.Module, states: Inputs, noise: Tensor | None, draw: int) -> tuple[Tensor, Tensor]:
        """Return min_k Q_k(s, a) and log π(a|s) of the policy's own actions, [B] each; `draw` says which noise they get."""
        parameters = self.policy.policy(states)
        if isinstance(self.rule, Categorical):
            log_probs = parameters.log_softmax(-1)
            probabilities = log_probs.exp()
            return (probabilities * critics(states).amin(0)).sum(-1), (probabilities * log_probs).sum(-1)
        assert noise is not None
        actions = self.rule.sample(parameters, noise[:, draw])
        log_probs = self.rule.log_probs(parameters, actions) + self.rule.log_scale.sum()
        return critics(states, self.rule.encode(actions)).amin(0), log_probs
