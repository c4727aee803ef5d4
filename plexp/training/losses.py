"""The equations that more than one algorithm uses. Pure functions of tensors of one shape, [B] or [T, N]."""

from __future__ import annotations

import torch
from torch import Tensor

from plexp.training.types import Rollout


def discounted_sums(terms: Tensor, discounts: Tensor) -> Tensor:
    """x_t = terms_t + discounts_t · x_{t+1}, backwards in time, with x_T = 0.

    terms, discounts: [T, N] -> [T, N]. With discounts γλ·(1 − done) and terms δ it is GAE; with γ·(1 − done) and rewards
    (the last one of an unfinished episode plus its bootstrap) it is the return.
    """
    sums, running = [], torch.zeros_like(terms[0])
    for term, discount in zip(reversed(terms.unbind()), reversed(discounts.unbind()), strict=True):
        running = torch.addcmul(term, discount, running)
        sums.append(running)
    return torch.stack(sums[::-1])


def one_step_targets(rollout: Rollout, gamma: float) -> Tensor:
    """r + γ·(1 − terminated)·V(s_{t+1}), [T, N]: a truncated or unfinished episode bootstraps, a terminated one does not."""
    return rollout.rewards + gamma * ~rollout.terminated * rollout.next_values


def td_errors(rollout: Rollout, gamma: float) -> Tensor:
    """δ_t = r + γ·(1 − terminated)·V(s_{t+1}) − V(s_t), [T, N] (Sutton and Barto 2018, eq. 6.5)."""
    return one_step_targets(rollout, gamma) - rollout.values


def continuations(rollout: Rollout, discount: float) -> Tensor:
    """`discount` where the episode goes on after the step, 0 where it ended by termination or truncation, [T, N]."""
    return discount * ~(rollout.terminated | rollout.truncated)


def bootstrapped_returns(rollout: Rollout, gamma: float) -> Tensor:
    """G_t = r_t + γ·G_{t+1} to the end of the episode, [T, N]; V of the true successor stands for what is cut off."""
    goes_on = continuations(rollout, gamma)
    goes_on[-1] = 0
    terms = torch.where(goes_on > 0, rollout.rewards, one_step_targets(rollout, gamma))
    return discounted_sums(terms, goes_on)


def policy_gradient(log_probs: Tensor, advantages: Tensor, importance_weights: Tensor) -> Tensor:
    """−w·Φ·log π(a|s), [B]: the gradient of its mean is the policy gradient (Sutton and Barto 2018, eq. 13.8).

    w = 1 for the policy that acted; otherwise the truncated importance weight of an off-policy estimator.
    """
    return -importance_weights * advantages * log_probs


def clipped_surrogate(ratios: Tensor, advantages: Tensor, clip_eps: float | Tensor) -> Tensor:
    """−min(r·A, clip(r, 1 − ε, 1 + ε)·A), [B] (Schulman et al. 2017, eq. 7, as a loss).

    ratios: r = π(a|s)/π_old(a|s). A larger ε lets one update move the policy further; ε = ∞ is −r·A (eq. 6).
    """
    clipped = ratios.clamp(1 - clip_eps, 1 + clip_eps)  # type: ignore[arg-type]
    return -torch.minimum(ratios * advantages, clipped * advantages)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """½ (prediction − target)², [B]."""
    return 0.5 * (predictions - targets).square()


def clipped_squared_error(predictions: Tensor, old_predictions: Tensor, targets: Tensor, clip_value: float) -> Tensor:
    """½ max((V − target)², (V_old + clip(V − V_old, ±c) − target)²), [B], from the reference implementation of PPO.

    It keeps the critic within c of what it was at the rollout; c has the unit of the (scaled) return.
    """
    near = old_predictions + (predictions - old_predictions).clamp(-clip_value, clip_value)
    return torch.maximum(squared_error(predictions, targets), squared_error(near, targets))


def approximate_kl(log_ratios: Tensor) -> Tensor:
    """Mean of (r − 1) − log r over samples of the old policy: an unbiased, non-negative estimate of KL(π_old‖π), in nats.

    Schulman, "Approximating KL divergence" (2020), estimator k3.
    """
    return (log_ratios.expm1() - log_ratios).mean()


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 − Var(target − prediction)/Var(target): 1 is perfect, 0 no better than the mean, below 0 worse. NaN if constant."""
    variance = targets.var(correction=0)
    return torch.where(variance > 0, 1 - (targets - predictions).var(correction=0) / variance, torch.nan)


def standardize(x: Tensor) -> Tensor:
    """(x − mean)/(std + 1e-8) over all elements; a single one is returned as it is."""
    return x if x.numel() < 2 else (x - x.mean()) / (x.std() + 1e-8)


def standardize_episodes(advantages: Tensor, done: Tensor, valid: Tensor) -> Tensor:
    """Each episode of a rollout [T, N] standardised by itself, over its valid rows; one-step episodes stay as they are."""
    before = done.long().cumsum(0) - done.long()
    episode = before + torch.arange(done.shape[1]) * (done.shape[0] + 1)
    result = advantages.clone()
    for index in set(episode[valid].tolist()):
        rows = (episode == index) & valid
        result[rows] = standardize(advantages[rows])
    return result
