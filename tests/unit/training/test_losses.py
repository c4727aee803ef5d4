"""Tests of the shared equations, each computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plexp.training import losses
from tests.support.builders import random_rollout

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_discounted_sums_are_sums_of_discounted_terms() -> None:
    terms, discounts = normal(0, 7, 3), normal(1, 7, 3).sigmoid()
    expected = torch.zeros_like(terms)
    for n in range(3):
        for t in range(7):
            expected[t, n] = sum(terms[k, n] * math.prod(discounts[t:k, n].tolist()) for k in range(t, 7))
    torch.testing.assert_close(losses.discounted_sums(terms, discounts), expected, **EXACT)


def test_discounted_sums_leave_their_arguments_alone() -> None:
    terms, discounts = torch.ones(3, 1), torch.ones(3, 1)
    assert losses.discounted_sums(terms, discounts).flatten().tolist() == [3, 2, 1]
    assert terms.sum() == discounts.sum() == 3


def test_one_step_targets_td_errors_and_continuations_row_by_row() -> None:
    rollout = random_rollout(5, steps=20)
    targets, errors = losses.one_step_targets(rollout, 0.875), losses.td_errors(rollout, 0.875)
    continuations = losses.continuations(rollout, 0.875)
    for index in np.ndindex(20, 3):
        over, cut = bool(rollout.terminated[index]), bool(rollout.truncated[index])
        future = 0.0 if over else 0.875 * float(rollout.next_values[index])
        assert float(targets[index]) == pytest.approx(float(rollout.rewards[index]) + future, abs=1e-12)
        assert float(errors[index]) == pytest.approx(float(targets[index] - rollout.values[index]), abs=1e-12)
        assert float(continuations[index]) == (0.0 if over or cut else 0.875)


def test_policy_gradient_is_minus_the_weighted_advantage_times_the_score() -> None:
    log_probs, advantages, weights = normal(0, 9).requires_grad_(), normal(1, 9), normal(2, 9).exp()
    value = losses.policy_gradient(log_probs, advantages, weights)
    torch.testing.assert_close(value, -(weights * advantages * log_probs), **EXACT)
    (gradient,) = torch.autograd.grad(value.sum(), log_probs)
    torch.testing.assert_close(gradient, -weights * advantages, **EXACT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),  # inside: the plain surrogate
        (0.9, -2.0, 1.8, 2.0),
        (1.5, 2.0, -2.4, 0.0),  # has moved far enough in the good direction: no gradient
        (0.5, -2.0, 1.6, 0.0),
        (0.5, 2.0, -1.0, -2.0),  # has moved in the bad direction: the gradient leads back
        (1.5, -2.0, 3.0, 2.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_cases(ratio: float, advantage: float, loss: float, slope: float) -> None:
    ratios = tensor(ratio).requires_grad_()
    value = losses.clipped_surrogate(ratios, tensor(advantage), 0.2)
    assert value.item() == pytest.approx(loss, abs=1e-12)
    assert torch.autograd.grad(value.sum(), ratios)[0].item() == pytest.approx(slope, abs=1e-12)


def test_clipped_surrogate_is_never_below_the_plain_one() -> None:
    """The clipped loss is a pessimistic bound: at least the unclipped −rA."""
    ratios, advantages = normal(0, 1000).exp(), normal(1, 1000)
    assert (losses.clipped_surrogate(ratios, advantages, 0.2) >= -ratios * advantages).all()


def test_clipped_surrogate_has_the_policy_gradient_at_ratio_one() -> None:
    log_ratios, advantages = torch.zeros(5, dtype=torch.float64).requires_grad_(), normal(0, 5)
    value = losses.clipped_surrogate(log_ratios.exp(), advantages, 0.2).sum()
    torch.testing.assert_close(torch.autograd.grad(value, log_ratios)[0], -advantages, **EXACT)


def test_squared_error_is_half_the_square_with_slope_prediction_minus_target() -> None:
    predictions = tensor(1.0, -2.0, 5.0).requires_grad_()
    value = losses.squared_error(predictions, tensor(4.0, -2.0, 3.0))
    assert value.tolist() == [4.5, 0.0, 2.0]
    assert torch.autograd.grad(value.sum(), predictions)[0].tolist() == [-3.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("prediction", "old", "target", "loss", "slope"),
    [
        (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9),  # within ±0.5 of the old value: the plain error
        (2.0, 1.0, 3.0, 0.5 * 1.5**2, 0.0),  # has moved far enough towards the target
        (0.0, 1.0, -3.0, 0.5 * 3.5**2, 0.0),
        (0.0, 1.0, 3.0, 0.5 * 3.0**2, -3.0),  # has moved away from the target: the gradient leads back
        (5.0, 1.0, 3.0, 0.5 * 2.0**2, 2.0),  # has overshot it
    ],
)
def test_clipped_squared_error_by_cases(
    prediction: float, old: float, target: float, loss: float, slope: float
) -> None:
    predictions = tensor(prediction).requires_grad_()
    value = losses.clipped_squared_error(predictions, tensor(old), tensor(target), 0.5)
    assert value.item() == pytest.approx(loss, abs=1e-12)
    assert torch.autograd.grad(value.sum(), predictions)[0].item() == pytest.approx(slope, abs=1e-12)


def test_approximate_kl_is_unbiased() -> None:
    """The mean over samples in exactly the old policy's proportions ½, ¼, ¼ is the divergence itself."""
    old, new = tensor(0.5, 0.25, 0.25), tensor(0.2, 0.7, 0.1)
    samples = torch.tensor([0, 0, 1, 2])
    exact = float((old * (old / new).log()).sum())
    assert losses.approximate_kl((new / old).log()[samples]).item() == pytest.approx(exact, abs=1e-12)


def test_approximate_kl_of_samples_converges_to_the_divergence_of_gaussians() -> None:
    old, new = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.3, 1.2)
    samples = normal(0, 200_000)
    estimate = losses.approximate_kl(new.log_prob(samples) - old.log_prob(samples))
    torch.testing.assert_close(estimate.float(), torch.distributions.kl_divergence(old, new), rtol=0, atol=1e-3)


def test_approximate_kl_is_never_negative_and_zero_for_the_same_policy() -> None:
    assert losses.approximate_kl(torch.zeros(4)) == 0
    assert all(losses.approximate_kl(x) > 0 for x in normal(0, 500, 1))
    assert losses.approximate_kl(torch.tensor([1e-4, -1e-4])) == pytest.approx(5e-9, rel=1e-2)


def test_explained_variance_is_one_zero_negative_or_nan_in_known_cases() -> None:
    targets = normal(0, 50)
    assert losses.explained_variance(targets + 7, targets) == pytest.approx(1)
    assert losses.explained_variance(torch.full_like(targets, 3.0), targets) == pytest.approx(0)
    assert losses.explained_variance(-targets, targets) == pytest.approx(-3)
    assert losses.explained_variance(targets, torch.ones_like(targets)).isnan()
    assert losses.explained_variance(tensor(1.0), tensor(2.0)).isnan()


def test_explained_variance_matches_numpy() -> None:
    x, y = normal(0, 50).numpy(), normal(1, 50).numpy()
    expected = 1 - np.var(y - x) / np.var(y)
    assert float(losses.explained_variance(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected)


def test_standardize_gives_mean_zero_and_deviation_one() -> None:
    x = normal(0, 4, 5) * 3 + 2
    numbers = x.flatten().tolist()
    mean = sum(numbers) / 20
    deviation = math.sqrt(sum((number - mean) ** 2 for number in numbers) / 19)
    torch.testing.assert_close(losses.standardize(x), (x - mean) / deviation, rtol=1e-7, atol=1e-7)


def test_standardize_returns_one_element_as_it_is_and_a_constant_as_zero() -> None:
    assert losses.standardize(tensor(5.0)).tolist() == [5.0]
    assert losses.standardize(torch.empty(0)).numel() == 0
    assert losses.standardize(tensor(2.0, 2.0)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("same_step", [True, False])
def test_standardize_episodes_is_standardize_episode_by_episode(same_step: bool) -> None:
    rollout = random_rollout(2, steps=25, same_step=same_step)
    done, advantages = rollout.terminated | rollout.truncated, normal(0, 25, 3) * 5
    actual = losses.standardize_episodes(advantages, done, rollout.valid)
    lengths = []
    for n in range(3):
        rows: list[int] = []
        for t in range(25):
            rows += [t] if rollout.valid[t, n] else []
            if rows and (done[t, n] or t == 24):
                torch.testing.assert_close(actual[rows, n], losses.standardize(advantages[rows, n]), **EXACT)
                lengths.append(len(rows))
                rows = []
    assert 1 in lengths and max(lengths) > 5, "the rollout has episodes of one step and long ones"


def test_quantile_huber_errors_worked_by_hand() -> None:
    """One quantile at 0 (τ = ½) against targets 0.5 and −3: ½ · ½ · 0.5² and ½ · (3 − ½), of which the mean is taken."""
    error = losses.quantile_huber_error(torch.tensor([[0.0]]), torch.tensor([[0.5, -3.0]]))
    assert error.tolist() == pytest.approx([(0.5 * 0.125 + 0.5 * 2.5) / 2])
    two = losses.quantile_huber_error(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5]]))
    assert two.tolist() == pytest.approx([0.25 * 0.125 + 0.25 * 0.125])  # τ = ¼ from below, |¾ − 1| from above


def test_the_values_of_the_actions_that_were_taken_are_picked() -> None:
    values, actions = torch.arange(12.0).view(2, 3, 2), torch.tensor([0, 1, 1])
    assert losses.pick(values, actions).tolist() == [[0, 3, 5], [6, 9, 11]]
    assert losses.pick(values[0], actions).tolist() == [0, 3, 5]


def test_a_linear_schedule_stays_at_its_end() -> None:
    assert [losses.interpolate(1.0, 0.2, share) for share in (0, 0.5, 1, 3)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
