"""The equations that more than one algorithm uses, as pure functions of tensors [B] or [T, N]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plexp.training.types import Rollout


def discounted_sums(terms: Tensor, discounts: Tensor) -> Tensor:
    """Return the discounted sum of each step's future.

        x_t = terms_t + discounts_t · x_{t+1},  x_T = 0

    With terms δ and discounts γλ·(1 − done) it is GAE; with rewards and discounts γ·(1 − done) it is the return.

    Args:
        terms, discounts: [T, N].
    """
    sums, running = [], torch.zeros_like(terms[0])
    for term, discount in zip(reversed(terms.unbind()), reversed(discounts.unbind()), strict=True):
        running = torch.addcmul(term, discount, running)
        sums.append(running)
    return torch.stack(sums[::-1])


def one_step_targets(rollout: Rollout, gamma: float) -> Tensor:
    """Return r + γ·(1 − terminated)·V(s_{t+1}), [T, N].

    A truncated or unfinished episode bootstraps, a terminated one does not.
    """
    return rollout.rewards + gamma * ~rollout.terminated * rollout.next_values


def td_errors(rollout: Rollout, gamma: float) -> Tensor:
    """Return δ_t = r + γ·(1 − terminated)·V(s_{t+1}) − V(s_t), [T, N] (Sutton and Barto 2018, eq. 6.5)."""
    return one_step_targets(rollout, gamma) - rollout.values


def continuations(rollout: Rollout, discount: float) -> Tensor:
    """Return `discount` where the episode continues after the step, and 0 where it terminated or was truncated, [T, N]."""
    return discount * ~(rollout.terminated | rollout.truncated)


def bootstrapped_returns(rollout: Rollout, gamma: float) -> Tensor:
    """Return G_t = r_t + γ·G_{t+1} to the end of the episode, [T, N].

    Where a time limit or the end of the rollout cuts an episode off, V of the true successor stands for the rest.
    """
    discounts = continuations(rollout, gamma)
    discounts[-1] = 0
    terms = torch.where(discounts > 0, rollout.rewards, one_step_targets(rollout, gamma))
    return discounted_sums(terms, discounts)


def policy_gradient(log_probs: Tensor, advantages: Tensor, importance_weights: Tensor) -> Tensor:
    """Return −w·Φ·log π(a|s), [B], whose mean has minus the policy gradient as its gradient.

    See Sutton and Barto 2018, eq. 13.8. w is 1 for the policy that acted; for replayed rollouts it is the truncated
    importance weight of an off-policy estimator.
    """
    return -importance_weights * advantages * log_probs


def clipped_surrogate(ratios: Tensor, advantages: Tensor, clip_eps: float | Tensor) -> Tensor:
    """Return PPO's clipped surrogate as a loss, −min(r·A, clip(r, 1 − ε, 1 + ε)·A), [B] (Schulman et al. 2017, eq. 7).

    Args:
        ratios: r = π(a|s)/π_old(a|s), [B].
        advantages: A, [B].
        clip_eps: ε; a larger one lets one update move the policy further, and ε = ∞ gives −r·A (eq. 6).
    """
    clipped = ratios.clamp(1 - clip_eps, 1 + clip_eps)  # type: ignore[arg-type]
    return -torch.minimum(ratios * advantages, clipped * advantages)


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return ½ (prediction − target)², [B]."""
    return 0.5 * (predictions - targets).square()


def huber_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return ½ e² for |e| ≤ 1 and |e| − ½ beyond, with e = prediction − target, [B] (Huber 1964)."""
    return functional.smooth_l1_loss(predictions, targets, reduction="none")


def pick(values: Tensor, actions: Tensor) -> Tensor:
    """Return the value of each row's action, [..., B], from the values [..., B, n] of all."""
    return values.gather(-1, actions.expand(values.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def quantile_huber_error(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Return Σ_i mean_j |τ_i − 1{u_ij < 0}| · H(u_ij) with u_ij = target_j − quantile_i, [B] (Dabney et al. 2018, eq. 10).

    H is Huber's error, and τ_i = (i + ½)/K the middle of the i-th of K equal parts.

    Args:
        quantiles: [B, K].
        targets: [B, K'] samples of the return that the quantiles are of.
    """
    count = quantiles.shape[-1]
    fractions = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    errors = targets.unsqueeze(-2) - quantiles.unsqueeze(-1)
    weights = (fractions.unsqueeze(-1) - (errors.detach() < 0).to(errors.dtype)).abs()
    return (weights * huber_error(errors, torch.zeros_like(errors))).mean(-1).sum(-1)


def interpolate(start: float, end: float, share: float) -> float:
    """Return start + share · (end − start), with a share of at most 1: a linear schedule."""
    return start + min(1.0, share) * (end - start)


def clipped_squared_error(predictions: Tensor, old_predictions: Tensor, targets: Tensor, clip_value: float) -> Tensor:
    """Return ½ max((V − target)², (V_old + clip(V − V_old, ±c) − target)²), [B].

    As in the reference implementation of PPO: it keeps the critic within c of its predictions at the rollout; c has the
    unit of the (scaled) return.
    """
    near = old_predictions + (predictions - old_predictions).clamp(-clip_value, clip_value)
    return torch.maximum(squared_error(predictions, targets), squared_error(near, targets))


def combined_loss(
    policy_loss: Tensor,
    entropy: Tensor,
    value_loss: Tensor | None,
    *,
    ent_coef: float,
    vf_coef: float,
    weight: float | Tensor | None = None,
) -> Tensor:
    """Return policy loss − c₁·entropy + c₂·value loss (Schulman et al. 2017, eq. 9, as a loss).

    Args:
        policy_loss, entropy, value_loss: means over a minibatch; None: there is no critic.
        ent_coef, vf_coef: c₁ and c₂.
        weight: factor of policy loss and entropy; None: 1.
    """
    loss = policy_loss - ent_coef * entropy if ent_coef else policy_loss
    if weight is not None:
        loss = weight * loss
    return loss if value_loss is None else loss + vf_coef * value_loss


def approximate_kl(log_ratios: Tensor) -> Tensor:
    """Return the mean of (r − 1) − log r over samples of the old policy, an estimate of KL(π_old‖π) in nats.

    It is unbiased and never negative: estimator k3 of Schulman, "Approximating KL divergence" (2020).
    """
    return (log_ratios.expm1() - log_ratios).mean()


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return 1 − Var(target − prediction)/Var(target): 1 is perfect, 0 no better than the mean, below 0 worse.

    NaN if the targets are constant.
    """
    variance = targets.var(correction=0)
    return torch.where(variance > 0, 1 - (targets - predictions).var(correction=0) / variance, torch.nan)


def standardize(x: Tensor) -> Tensor:
    """Return (x − mean)/(std + 1e-8) over all elements; a single element is returned as it is."""
    return x if x.numel() < 2 else (x - x.mean()) / (x.std() + 1e-8)


def standardize_episodes(advantages: Tensor, done: Tensor, valid: Tensor) -> Tensor:
    """Return advantages [T, N] standardized within each episode, over its valid rows; one-step episodes stay as they are."""
    before = done.long().cumsum(0) - done.long()
    episode = before + torch.arange(done.shape[1]) * (done.shape[0] + 1)
    result = advantages.clone()
    for index in set(episode[valid].tolist()):
        rows = (episode == index) & valid
        result[rows] = standardize(advantages[rows])
    return result
