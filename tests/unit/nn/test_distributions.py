"""Tests of distributions against torch.distributions, numeric integration, Monte Carlo and enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch import distributions as reference

from plexp.nn.distributions import (
    ActionDistribution,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)

LOW, HIGH = np.array([-2.0, 0.5], np.float32), np.array([2.0, 1.0], np.float32)
SIZES = np.array([2, 3])
ALL: dict[str, ActionDistribution] = {
    "categorical": Categorical(4),
    "multi_categorical": MultiCategorical(SIZES, np.zeros(2)),
    "bernoulli": Bernoulli((3,)),
    "gaussian": DiagonalGaussian(LOW, HIGH),
    "squashed": SquashedGaussian(LOW, HIGH),
}
COUNTABLE = {
    "categorical": [torch.tensor(a) for a in range(4)],
    "multi_categorical": [torch.tensor(a) for a in itertools.product(range(2), range(3))],
    "bernoulli": [torch.tensor(a, dtype=torch.int8) for a in itertools.product(range(2), repeat=3)],
}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def draw(distribution: ActionDistribution, parameters: Tensor, count: int, seed: int = 0) -> Tensor:
    noise = torch.from_numpy(distribution.draw_noise(np.random.default_rng(seed), count))
    return distribution.sample(parameters.expand(count, -1), noise)


def torch_distributions(name: str, parameters: Tensor) -> list[Any]:
    """Return torch's distributions of the same parameters: several for a MultiDiscrete choice, otherwise one."""
    if name == "categorical":
        return [reference.Categorical(logits=parameters)]
    if name == "multi_categorical":
        return [reference.Categorical(logits=logits) for logits in parameters.split([2, 3], -1)]
    if name == "bernoulli":
        return [reference.Independent(reference.Bernoulli(logits=parameters), 1)]
    mean, log_std = parameters.chunk(2, -1)
    return [reference.Independent(reference.Normal(mean, log_std.exp()), 1)]


@pytest.mark.parametrize("name", ["categorical", "multi_categorical", "bernoulli", "gaussian"])
def test_log_probabilities_and_entropies_match_torch(name: str) -> None:
    distribution = ALL[name]
    parameters = normal(0, 50, distribution.num_parameters)
    actions = distribution.sample(parameters, torch.from_numpy(distribution.draw_noise(np.random.default_rng(1), 50)))
    log_probs, entropy = distribution.evaluate(parameters, actions)
    parts = torch_distributions(name, parameters)
    columns = actions.double().unbind(-1) if len(parts) > 1 else [actions.double()]
    expected = sum(part.log_prob(column) for part, column in zip(parts, columns, strict=True))
    torch.testing.assert_close(log_probs, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entropy, sum(part.entropy() for part in parts), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COUNTABLE)
def test_probabilities_of_all_actions_sum_to_one_and_give_the_entropy(name: str) -> None:
    distribution, actions = ALL[name], torch.stack(COUNTABLE[name])
    parameters = 2 * normal(3, 1, distribution.num_parameters).expand(len(actions), -1)
    log_probs, entropy = distribution.evaluate(parameters, actions)
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-10)
    assert float(-(log_probs.exp() * log_probs).sum()) == pytest.approx(float(entropy[0]), abs=1e-10)


def test_categorical_probabilities_match_its_log_probabilities() -> None:
    logits = normal(0, 1, 4).expand(4, -1)
    log_probs, _ = Categorical(4).evaluate(logits, torch.arange(4))
    torch.testing.assert_close(Categorical(4).probabilities(logits)[0], log_probs.exp())


def test_squashed_log_probability_matches_torchs_transformed_distribution() -> None:
    parameters, u = normal(0, 20, 4), normal(1, 20, 2)
    half = torch.from_numpy(HIGH - LOW).double() / 2
    squash = [reference.TanhTransform(cache_size=1), reference.AffineTransform(torch.from_numpy(LOW) + half, half)]
    policy = reference.TransformedDistribution(reference.Normal(*_split(parameters)), squash)
    expected = policy.log_prob(squash[1](squash[0](u))).sum(-1)
    torch.testing.assert_close(ALL["squashed"].evaluate(parameters, u)[0], expected, rtol=1e-6, atol=1e-6)


def _split(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = parameters.chunk(2, -1)
    return mean, log_std.exp()


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.7, -0.7), (-1.0, -0.5)])
def test_squashed_density_integrates_to_one_over_the_bounds(mean: float, log_std: float) -> None:
    distribution = SquashedGaussian(np.array([-1.0], np.float32), np.array([3.0], np.float32))
    middles = (np.arange(40_000) + 0.5) / 40_000 * 2 - 1
    u = torch.from_numpy(np.arctanh(middles)).unsqueeze(-1)
    parameters = torch.tensor([[mean, log_std]], dtype=torch.float64).expand(len(u), -1)
    density = distribution.evaluate(parameters, u)[0].exp()
    assert float(density.mean() * 4) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("log_std", [-3.0, -1.0, 0.0])
@pytest.mark.parametrize("mean", [0.0, 1.0, -3.0])
def test_squashed_entropy_is_the_integral(mean: float, log_std: float) -> None:
    distribution, sigma = SquashedGaussian(np.array([-2.0], np.float32), np.array([2.0], np.float32)), math.exp(log_std)
    parameters = torch.tensor([[mean, log_std]], dtype=torch.float64)

    def weighted(z: float) -> float:
        return float(stats.norm.pdf(z)) * math.log(2 * (1 - math.tanh(mean + sigma * z) ** 2))

    stretch = integrate.quad(weighted, -9, 9, epsabs=1e-9)[0]
    _, entropy = distribution.evaluate(parameters, torch.zeros(1, 1, dtype=torch.float64))
    expected = float(stats.norm(mean, sigma).entropy()) + stretch
    assert float(entropy) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("log_std", "quadrature"), [(-1.0, 0.0), (0.0, 1e-4), (1.0, 0.03)])
def test_squashed_entropy_is_the_mean_of_minus_log_prob(log_std: float, quadrature: float) -> None:
    parameters = torch.tensor([[0.5, -0.5, log_std, log_std]], dtype=torch.float64)
    log_probs, entropy = ALL["squashed"].evaluate(parameters, draw(ALL["squashed"], parameters, 100_000))
    four_errors = 4 * float(log_probs.std()) / 100_000**0.5
    assert float(-log_probs.mean()) == pytest.approx(float(entropy), abs=four_errors + quadrature)


@pytest.mark.parametrize("name", ALL)
def test_gradients_match_finite_differences(name: str) -> None:
    distribution = ALL[name]
    parameters = normal(4, 3, distribution.num_parameters).requires_grad_()
    actions = distribution.sample(
        parameters.detach(), torch.from_numpy(distribution.draw_noise(np.random.default_rng(5), 3))
    )
    assert torch.autograd.gradcheck(lambda p: distribution.evaluate(p, actions), parameters, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_extreme_parameters_give_finite_numbers_and_gradients(name: str) -> None:
    distribution = ALL[name]
    parameters = torch.full((2, distribution.num_parameters), 300.0)
    parameters[:, ::2] = -300.0
    parameters.requires_grad_()
    log_probs, entropy = distribution.evaluate(parameters, distribution.mode(parameters))
    assert log_probs.isfinite().all() and entropy.isfinite().all()
    assert torch.autograd.grad((log_probs + entropy).sum(), parameters)[0].isfinite().all()


@pytest.mark.parametrize("name", COUNTABLE)
def test_sampled_frequencies_match_the_probabilities(name: str) -> None:
    distribution, actions = ALL[name], torch.stack(COUNTABLE[name])
    parameters = normal(6, 1, distribution.num_parameters)
    samples = draw(distribution, parameters, 20_000)
    counts = [int((samples == action).reshape(20_000, -1).all(-1).sum()) for action in actions]
    log_probs, _ = distribution.evaluate(parameters.expand(len(actions), -1), actions)
    assert sum(counts) == 20_000
    assert stats.chisquare(counts, 20_000 * log_probs.exp().numpy()).pvalue > 1e-3


def test_sampled_gaussians_have_their_distribution_before_and_after_squashing() -> None:
    parameters = torch.tensor([[0.3, -0.5, -0.2, 0.4]], dtype=torch.float64)
    normals = [stats.norm(0.3, math.exp(-0.2)), stats.norm(-0.5, math.exp(0.4))]
    for name in ("gaussian", "squashed"):
        samples = draw(ALL[name], parameters, 20_000)
        seen = ALL["squashed"].to_environment(samples).numpy()
        unsquashed = np.arctanh(2 * (seen - LOW) / (HIGH - LOW) - 1)
        for i, expected in enumerate(normals):
            assert stats.kstest(samples[:, i], expected.cdf).pvalue > 1e-3
            assert stats.kstest(unsquashed[:, i], expected.cdf).pvalue > 1e-3


def test_noise_has_one_number_for_each_choice_and_comes_from_the_stream_alone() -> None:
    for distribution in ALL.values():
        first, again = (distribution.draw_noise(np.random.default_rng(9), 5, 2) for _ in range(2))
        assert first.dtype == np.float32 and first.shape[:2] == (5, 2) and first.ndim == 3
        assert np.array_equal(first, again)
        assert len(np.unique(first)) == first.size


@pytest.mark.parametrize("name", [*COUNTABLE, "gaussian"])
def test_the_mode_is_the_most_probable_action(name: str) -> None:
    distribution = ALL[name]
    for seed in range(10):
        parameters = normal(seed, 1, distribution.num_parameters)
        others = COUNTABLE.get(name)
        actions = torch.stack(others) if others else draw(distribution, parameters, 100, seed)
        best, _ = distribution.evaluate(parameters, distribution.mode(parameters))
        assert (best >= distribution.evaluate(parameters.expand(len(actions), -1), actions)[0] - 1e-12).all()


def test_the_mode_of_a_squashed_gaussian_is_the_squashed_mean() -> None:
    parameters = torch.tensor([[0.3, -0.5, 1.0, 1.0]])
    actual = ALL["squashed"].to_environment(ALL["squashed"].mode(parameters))
    assert actual[0].tolist() == pytest.approx([2 * math.tanh(0.3), 0.75 + 0.25 * math.tanh(-0.5)])


def test_log_std_is_clipped_at_its_limits() -> None:
    gaussian, actions = ALL["gaussian"], torch.zeros(1, 2)
    for beyond, limit in [(-99.0, -10.0), (99.0, 4.0)]:
        far, near = (gaussian.evaluate(torch.tensor([[0.0, 0.0, x, x]]), actions) for x in (beyond, limit))
        assert torch.equal(torch.stack(far), torch.stack(near))


def test_actions_reach_the_environment_in_its_shape_and_with_its_offset() -> None:
    assert Categorical(3).to_environment(torch.tensor([0, 2])).tolist() == [0, 2]
    assert Categorical(3, start=-1).to_environment(torch.tensor([0, 2])).tolist() == [-1, 1]
    grid = MultiCategorical(np.array([[2, 3], [4, 5]]), np.array([[0, 10], [20, 30]]))
    assert grid.num_parameters == 14
    assert grid.to_environment(torch.tensor([[1, 2, 3, 4]])).tolist() == [[[1, 12], [23, 34]]]
    assert Bernoulli((2, 2)).to_environment(torch.tensor([[1, 0, 0, 1]])).tolist() == [[[1, 0], [0, 1]]]
    box = DiagonalGaussian(LOW.reshape(1, 2), HIGH.reshape(1, 2))
    assert box.to_environment(torch.tensor([[9.0, -9.0], [0.0, 0.75]])).tolist() == [[[2.0, 0.5]], [[0.0, 0.75]]]


def test_actions_of_an_unbounded_box_are_not_clipped() -> None:
    infinite = np.full(1, np.inf, np.float32)
    assert DiagonalGaussian(-infinite, infinite).to_environment(torch.tensor([[1e30]])).tolist() == [
        [pytest.approx(1e30)]
    ]


@pytest.mark.parametrize("kind", [DiagonalGaussian, SquashedGaussian])
def test_actions_never_leave_the_bounds_not_even_by_rounding(kind: type[DiagonalGaussian]) -> None:
    bounds = np.sort(np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32), axis=0)
    distribution = kind(bounds[0], bounds[1])
    for size in (1.0, 8.0, 30.0):
        actions = distribution.to_environment(torch.tensor([[size], [-size]]).expand(2, 500)).numpy()
        assert (actions >= bounds[0]).all() and (actions <= bounds[1]).all()


def test_encoded_actions_are_inputs_for_a_critic() -> None:
    assert Categorical(3).encode(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert ALL["multi_categorical"].encode(torch.tensor([[1, 2]])).tolist() == [[0, 1, 0, 0, 1]]
    assert ALL["bernoulli"].encode(torch.tensor([[1, 0, 1]], dtype=torch.int8)).tolist() == [[1, 0, 1]]
    assert ALL["gaussian"].encode(torch.tensor([[3.0, -4.0]])).tolist() == [[3, -4]]
    assert ALL["squashed"].encode(torch.tensor([[50.0, 0.0]])).tolist() == [[1, 0]]
    for distribution in ALL.values():
        actions = draw(distribution, torch.zeros(1, distribution.num_parameters), 6)
        assert distribution.encode(actions).shape == (6, distribution.num_features)
        assert distribution.encode(actions).dtype == torch.float32


def _log_slope_integrals(mean: float, log_std: float) -> tuple[float, float, float]:
    """Return H of tanh(N(μ, σ²)) on (−1, 1), ∂H/∂μ and ∂H/∂log σ, by adaptive quadrature."""
    sigma = math.exp(log_std)

    def expectation(function: Callable[[float, float], float]) -> float:
        edges = sorted({0.0, *(z for u in (-8, -1, 0, 1, 8) if abs(z := (u - mean) / sigma) < 12)})
        weighted = lambda z: function(mean + sigma * z, z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
        return float(integrate.quad(weighted, -12, 12, points=edges, limit=500, epsabs=1e-10, epsrel=1e-10)[0])

    log_slope = expectation(lambda u, z: 2 * (math.log(2) - abs(u) - math.log1p(math.exp(-2 * abs(u)))))
    slope = expectation(lambda u, z: -2 * math.tanh(u))
    stretch = expectation(lambda u, z: -2 * math.tanh(u) * sigma * z)
    return 0.5 + 0.5 * math.log(2 * math.pi) + log_std + log_slope, slope, 1 + stretch


@pytest.mark.parametrize("log_std", [-5.0, -2.0, -0.6, -0.1, 0.0, 0.1, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_squashed_entropy_and_its_gradient_are_those_of_adaptive_quadrature(log_std: float) -> None:
    distribution = SquashedGaussian(np.array([-1.0], np.float32), np.array([1.0], np.float32))
    for mean in (0.0, 0.3, -1.0, 2.5, -4.3, 5.1, 6.0):
        parameters = torch.tensor([[mean, log_std]], requires_grad=True)
        entropy = distribution.evaluate(parameters, torch.zeros(1, 1))[1]
        gradient = torch.autograd.grad(entropy.sum(), parameters)[0][0].tolist()
        found = np.array([entropy.item(), *gradient])
        np.testing.assert_allclose(found, _log_slope_integrals(mean, log_std), rtol=1e-4, atol=1e-4)


def test_squashed_entropy_has_the_values_that_were_once_wrong() -> None:
    expected = {(4.3, 1.5): (None, -3.504), (5.1, 2.0): (-1.013, -8.256), (6.0, 4.0): (-0.175, None)}
    for (mean, log_std), values in expected.items():
        _, *gradient = _log_slope_integrals(mean, log_std)
        for integral, value in zip(gradient, values, strict=True):
            assert value is None or integral == pytest.approx(value, abs=1e-3)


def test_a_squashed_dimension_of_zero_width_is_fixed() -> None:
    bounds = np.array([-1.0, 0.3], np.float32), np.array([1.0, 0.3], np.float32)
    distribution, alone = SquashedGaussian(*bounds), SquashedGaussian(bounds[0][:1], bounds[1][:1])
    parameters = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    actions = distribution.sample(parameters.detach(), torch.randn(5, 2, generator=torch.Generator().manual_seed(1)))
    assert distribution.to_environment(actions)[:, 1].tolist() == [pytest.approx(0.3)] * 5
    log_probs, entropy = distribution.evaluate(parameters, actions)
    expected = alone.evaluate(parameters[:, ::2], actions[:, :1])
    other = alone.evaluate(parameters[:, 1::2], actions[:, 1:])
    torch.testing.assert_close((log_probs, entropy), tuple(a + b for a, b in zip(expected, other, strict=True)))
    assert torch.autograd.grad((log_probs + entropy).sum(), parameters)[0].isfinite().all()
