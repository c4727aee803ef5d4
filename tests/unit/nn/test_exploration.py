"""Tests of exploration: shares and distributions of random actions, and noise that lasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from plexp.nn.distributions import Categorical, SquashedGaussian
from plexp.nn.exploration import ContinuousExploration, Deterministic, DiscreteExploration, QuantileExploration

LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32)
RULES = {
    "gaussian": SquashedGaussian(LOW, HIGH),
    "deterministic": Deterministic(LOW, HIGH, scale=0.3),
}


@pytest.mark.parametrize("greedy", [True, False])
def test_every_action_is_explored_as_often(greedy: bool) -> None:
    exploration = DiscreteExploration(Categorical(4), greedy=greedy)
    exploration.epsilon.fill_(0.4)
    values = torch.tensor([0.0, 5.0, 1.0, 2.0]).expand(20_000, 4)
    noise = torch.from_numpy(exploration.draw_noise(np.random.default_rng(0), 20_000))
    actions = exploration.sample(values, noise)
    own = torch.tensor([0.0, 1.0, 0.0, 0.0]) if greedy else values[0].softmax(-1)
    expected = (0.6 * own + 0.1).double().numpy()
    counts = torch.bincount(actions, minlength=4).numpy()
    assert stats.chisquare(counts, expected / expected.sum() * 20_000).pvalue > 0.001
    assert exploration.mode(values[:1]).tolist() == [1]


def test_quantiles_are_explored_and_chosen_by_the_mean_of_each_action() -> None:
    """The actions' means are 1, 3 and 2, and their largest quantiles those of another action."""
    exploration = QuantileExploration(Categorical(3), 2)
    exploration.epsilon.fill_(0.3)
    values = torch.tensor([-7.0, 9.0, 3.0, 3.0, 0.0, 4.0]).expand(20_000, 6)
    assert exploration.num_parameters == 6 and exploration.num_features == 3
    assert exploration.preferences(values[:1]).tolist() == [[1.0, 3.0, 2.0]]
    noise = torch.from_numpy(exploration.draw_noise(np.random.default_rng(0), 20_000))
    counts = torch.bincount(exploration.sample(values, noise), minlength=3).numpy()
    assert stats.chisquare(counts, np.array([0.1, 0.8, 0.1]) * 20_000).pvalue > 0.001
    assert exploration.mode(values[:1]).tolist() == [1]


@pytest.mark.parametrize("greedy", [True, False])
def test_nothing_is_random_without_epsilon_and_everything_with_one(greedy: bool) -> None:
    exploration, rng = DiscreteExploration(Categorical(4), greedy=greedy), np.random.default_rng(0)
    assert np.isinf(exploration.draw_noise(rng, 1000, 2)).sum(-1).tolist() == [[1, 1]] * 1000
    exploration.epsilon.fill_(0.0)
    assert np.isfinite(exploration.draw_noise(rng, 1000, 2)).all()
    restored = DiscreteExploration(Categorical(4), greedy=greedy)
    restored.load_state_dict(exploration.state_dict())
    assert np.isfinite(restored.draw_noise(rng, 1000, 2)).all()


def test_a_random_action_that_lasts_continues_from_a_saved_state() -> None:
    first, second = (DiscreteExploration(Categorical(5), greedy=True, num_envs=3, duration=4.0) for _ in range(2))
    first.epsilon.fill_(0.5)
    rng, continued = np.random.default_rng(0), 0
    for _ in range(200):
        before = first.draw_noise(rng, 2, 3)[-1]
        second.load_state_dict(first.state_dict())
        state = rng.bit_generator.state
        drawn = first.draw_noise(rng, 2, 3)
        rng.bit_generator.state = state
        np.testing.assert_array_equal(drawn, second.draw_noise(rng, 2, 3))
        continued += int((np.isinf(before) & np.isinf(drawn[0])).sum())
    assert continued / 600 == pytest.approx(0.5 * (0.75 + 0.25 * 0.2), abs=0.08)  # random, and lasting or begun


@pytest.mark.parametrize(("epsilon", "duration"), [(1.0, 5.0), (0.3, 5.0), (0.3, 1.5)])
def test_random_actions_last_and_are_as_large_a_share_of_steps(epsilon: float, duration: float) -> None:
    exploration = DiscreteExploration(Categorical(50), greedy=True, num_envs=4, duration=duration)
    exploration.epsilon.fill_(epsilon)
    rng = np.random.default_rng(0)
    noise = np.concatenate([exploration.draw_noise(rng, 20, 4) for _ in range(500)])
    random = np.where(np.isinf(noise).any(-1), noise.argmax(-1), -1)
    assert (random >= 0).mean() == pytest.approx(epsilon, abs=0.02)
    runs = [np.diff(np.flatnonzero(np.diff(column, prepend=-2, append=-2))) for column in random.T]
    starts = [column[np.flatnonzero(np.diff(column, prepend=-2))] for column in random.T]
    lengths = np.concatenate([run[start >= 0] for run, start in zip(runs, starts, strict=True)])
    assert lengths.mean() == pytest.approx(duration, rel=0.08)
    counts = np.bincount(random[random >= 0], minlength=50)
    assert counts.min() > 0.4 * counts.mean()


@pytest.mark.parametrize("name", RULES)
def test_random_actions_of_a_box_are_uniform_within_its_bounds(name: str) -> None:
    exploration = ContinuousExploration(RULES[name], 4, "gaussian", 0.15)
    noise = torch.from_numpy(exploration.draw_noise(np.random.default_rng(0), 2_000, 4)).flatten(0, 1)
    parameters = torch.full((8_000, exploration.num_parameters), 0.7)
    actions = exploration.to_environment(exploration.sample(parameters, noise)).numpy()
    for column, low, high in zip(actions.T, LOW, HIGH, strict=True):
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 0.001
        assert [column.min(), column.max()] == pytest.approx([low, high], abs=0.005)  # the draws reach the bounds
        assert low <= column.min() and column.max() <= high
    exploration.epsilon.fill_(0.0)
    quiet = torch.from_numpy(exploration.draw_noise(np.random.default_rng(0), 2_000, 4)).flatten(0, 1)
    expected = RULES[name].sample(parameters, quiet[:, :2])
    torch.testing.assert_close(exploration.sample(parameters, quiet), expected)


@pytest.mark.parametrize("name", RULES)
def test_a_share_of_epsilon_of_a_boxs_actions_is_random(name: str) -> None:
    exploration = ContinuousExploration(RULES[name], 4, "gaussian", 0.15)
    exploration.epsilon.fill_(0.25)
    noise = torch.from_numpy(exploration.draw_noise(np.random.default_rng(0), 5_000, 4)).flatten(0, 1)
    random = ~noise[:, 2:].isnan()
    assert torch.equal(random[:, 0], random[:, 1])  # all of an action, or nothing
    assert stats.binomtest(int(random[:, 0].sum()), 20_000, 0.25).pvalue > 0.001
    parameters = torch.full((20_000, exploration.num_parameters), 0.7)
    actions = exploration.sample(parameters, noise)
    own = RULES[name].sample(parameters, noise[:, :2])
    assert torch.equal((actions == own).all(-1), ~random[:, 0])
    torch.testing.assert_close(exploration.mode(parameters), RULES[name].mode(parameters))


def test_a_deterministic_policy_adds_noise_and_clips() -> None:
    rule, noise = RULES["deterministic"], torch.tensor([[0.0, 1.0], [9.0, -9.0]])
    parameters = torch.tensor([[0.5, -0.5], [0.0, 0.0]])
    tanh = float(torch.tensor(0.5).tanh())
    torch.testing.assert_close(rule.sample(parameters, noise), torch.tensor([[tanh, 0.3 - tanh], [1.0, -1.0]]))
    torch.testing.assert_close(
        rule.to_environment(torch.tensor([[-1.0, 1.0], [0.0, 0.5]])), torch.tensor([[-2.0, 5.0], [0.0, 3.75]])
    )
    torch.testing.assert_close(rule.mode(parameters), parameters.tanh())


def test_lasting_noise_is_standard_normal_and_correlated_over_steps() -> None:
    exploration = ContinuousExploration(RULES["gaussian"], 3, "ornstein_uhlenbeck", 0.2)
    rng = np.random.default_rng(0)
    noise = np.concatenate([exploration.draw_noise(rng, 50, 3)[..., :2] for _ in range(400)])[200:]
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.03)
    for lag in (1, 3, 50):  # also over the borders of draws
        assert (noise[lag:] * noise[:-lag]).mean() == pytest.approx(0.8**lag, abs=0.04)
    across = noise.reshape(len(noise), -1)
    assert abs(np.corrcoef(across.T) - np.eye(6)).max() < 0.1


def test_lasting_noise_continues_from_a_saved_state() -> None:
    first, second = (ContinuousExploration(RULES["gaussian"], 3, "ornstein_uhlenbeck", 0.2) for _ in range(2))
    rng = np.random.default_rng(0)
    first.draw_noise(rng, 10, 3)
    second.load_state_dict(first.state_dict())
    state = rng.bit_generator.state
    drawn = first.draw_noise(rng, 10, 3)
    rng.bit_generator.state = state
    np.testing.assert_array_equal(drawn, second.draw_noise(rng, 10, 3))
