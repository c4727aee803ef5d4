"""Tests of running statistics against those of all data at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plexp.nn.normalization import ObservationNormalizer, RewardScaler
from tests.support.builders import random_rollout


def batches(*sizes: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.normal([3.0, -50.0], [0.5, 20.0], (size, 2))).float() for size in sizes]


@pytest.mark.parametrize("sizes", [(40,), (1, 7, 300, 2), (1, 1, 1)])
def test_statistics_of_batches_are_those_of_all_observations_at_once(sizes: tuple[int, ...]) -> None:
    normalizer, data = ObservationNormalizer((2,)), batches(*sizes)
    for batch in data:
        normalizer.update(batch)
    every = torch.cat(data).double()
    torch.testing.assert_close(normalizer.mean.double(), every.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(normalizer.var.double(), every.var(0, correction=0), rtol=1e-5, atol=1e-9)
    assert normalizer.count == sum(sizes)


def test_statistics_stay_right_far_from_zero_and_over_many_batches() -> None:
    normalizer, rng = ObservationNormalizer((1,)), np.random.default_rng(0)
    data = torch.from_numpy(rng.normal(1000.0, 1.0, (20_000, 1))).float()
    for batch in data.split(100):
        normalizer.update(batch)
    torch.testing.assert_close(normalizer.mean, data.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(normalizer.var, data.double().var(0, correction=0), rtol=1e-9, atol=0)


def test_normalised_observations_have_mean_zero_and_deviation_one() -> None:
    normalizer, (data,) = ObservationNormalizer((2,)), batches(500)
    normalizer.update(data)
    seen = normalizer(data)
    torch.testing.assert_close(seen.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(2), rtol=1e-5, atol=0)
    expected = (float(data[3, 0]) - float(data[:, 0].mean())) / math.sqrt(float(data[:, 0].var(correction=0)))
    assert float(seen[3, 0]) == pytest.approx(expected, rel=1e-4)


def test_observations_have_any_shape() -> None:
    normalizer = ObservationNormalizer((2, 3))
    normalizer.update(torch.arange(24.0).view(4, 2, 3))
    torch.testing.assert_close(normalizer.mean, torch.arange(24.0, dtype=torch.float64).view(4, 2, 3).mean(0))
    assert normalizer(torch.zeros(5, 4, 2, 3)).shape == (5, 4, 2, 3)


def test_before_the_first_update_observations_are_unchanged() -> None:
    torch.testing.assert_close(ObservationNormalizer((2,))(torch.tensor([[3.0, -4.0]])), torch.tensor([[3.0, -4.0]]))


def test_normalising_changes_no_statistics() -> None:
    normalizer, (data, other) = ObservationNormalizer((2,)), batches(10, 10)
    normalizer.update(data)
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.train()
    normalizer(other)
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())


def test_normalised_observations_are_clipped_at_ten_also_constant_ones() -> None:
    normalizer, (data,) = ObservationNormalizer((2,)), batches(50)
    normalizer.update(data)
    assert normalizer(torch.tensor([[1e6, -1e6]])).tolist() == [[10.0, -10.0]]
    constant = ObservationNormalizer((1,))
    constant.update(torch.full((5, 1), 2.0))
    assert constant(torch.tensor([[2.0], [3.0]])).flatten().tolist() == [0.0, 10.0]


def test_saved_statistics_normalise_the_same() -> None:
    normalizer, (data,) = ObservationNormalizer((2,)), batches(20)
    normalizer.update(data)
    copy = ObservationNormalizer((2,))
    copy.load_state_dict(normalizer.state_dict())
    assert torch.equal(copy(data), normalizer(data))
    for each in (copy, normalizer):
        each.update(data + 1)
    assert torch.equal(copy(data), normalizer(data))


@pytest.mark.parametrize("same_step", [True, False])
def test_rewards_are_divided_by_the_deviation_of_all_discounted_returns_so_far(same_step: bool) -> None:
    scaler, gamma = RewardScaler(3, 0.9), 0.9
    running, seen = [0.0] * 3, []
    for seed in range(4):
        rollout = random_rollout(seed, same_step=same_step)
        done = (rollout.terminated | rollout.truncated).numpy()
        valid, rewards = rollout.valid.numpy().copy(), rollout.rewards.numpy()
        valid[-2:, seed % 3] = False  # padding: an environment that waits
        for t in range(12):
            for n in range(3):
                if valid[t, n]:
                    running[n] = gamma * running[n] + rewards[t, n]
                    seen.append(running[n])
                if done[t, n]:
                    running[n] = 0.0
        scaled = scaler(rewards, done, valid)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, rewards / np.std(seen), rtol=1e-5)
    assert scaler.count == len(seen)
    assert scaler.mean == pytest.approx(np.mean(seen), rel=1e-9)


def test_rewards_are_not_shifted() -> None:
    rewards = np.array([[3.0], [0.0], [-1.0]])
    scaled = RewardScaler(1, 1.0)(rewards, np.zeros((3, 1), np.bool_), np.ones((3, 1), np.bool_))
    assert (np.sign(scaled) == np.sign(rewards)).all()
    assert scaled[2, 0] == pytest.approx(scaled[0, 0] / -3)


def test_a_rollout_without_a_valid_row_changes_no_statistics() -> None:
    """One step of one NEXT_STEP environment is such a rollout when it only resets."""
    normalizer, (data, none) = ObservationNormalizer((2,)), batches(20, 0)
    normalizer.update(data)
    normalizer.update(none)
    torch.testing.assert_close(normalizer.mean, data.double().mean(0))
    scaler, one = RewardScaler(1, 0.9), np.ones((1, 1), np.bool_)
    scaler(np.array([[1.0], [3.0]]), np.zeros((2, 1), np.bool_), np.ones((2, 1), np.bool_))
    var = scaler.var
    scaler(np.zeros((1, 1)), ~one, ~one)
    assert scaler.var == var


@pytest.mark.parametrize("constant", [0.1, -273.15, 50_000.1, 1e6 + 0.5, -1e7])
@pytest.mark.parametrize("variation", [0.0, 1.0])
def test_large_constant_observations_are_zero_and_small_variations_of_them_keep_their_size(
    constant: float, variation: float
) -> None:
    normalizer, rng = ObservationNormalizer((1,)), np.random.default_rng(0)
    rows = (constant + variation * rng.integers(-4, 5, (2000, 1))).astype(np.float32)
    for part in torch.from_numpy(rows).split(90):
        normalizer.update(part)
    exact = rows.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-8)
    np.testing.assert_allclose(normalizer(torch.from_numpy(rows)).numpy(), expected, atol=1e-3)


def test_statistics_saved_in_single_precision_normalise_as_before() -> None:
    """Load an agent of version 1, whose mean is float32."""
    mean, var = torch.tensor([1e6, -3.0]), torch.tensor([4.0, 0.25])
    scale = (var + 1e-8).rsqrt()
    old = {"mean": mean, "var": var, "count": torch.tensor(9.0), "scale": scale, "offset": -mean * scale}
    normalizer = ObservationNormalizer((2,))
    normalizer.load_state_dict(old)
    torch.testing.assert_close(normalizer(torch.tensor([[1e6 + 3, -2.5]])), torch.tensor([[1.5, 1.0]]))


def scaled_rewards(
    rewards: object, steps_of_episode: int, envs: int = 1, rows: int = 1, gamma: float = 0.99
) -> np.ndarray:
    """Return rewards scaled rollout by rollout of `rows` rows; episodes end together, all in one length."""
    scaler, count = RewardScaler(envs, gamma), len(np.asarray(rewards))
    table = np.broadcast_to(np.asarray(rewards, float).reshape(count, -1), (count, envs))
    done = np.broadcast_to(((np.arange(count) + 1) % steps_of_episode == 0)[:, None], (count, envs))
    parts = [slice(start, start + rows) for start in range(0, count, rows)]
    return np.concatenate([scaler(table[part], done[part], np.ones_like(done[part])) for part in parts])


@pytest.mark.parametrize("envs", [1, 8])
@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("reward", [1.0, -7.479, 0.01, 3e-5, 40.0])
def test_equal_rewards_keep_their_order_of_magnitude(reward: float, envs: int, rows: int) -> None:
    """Check the first reward of a run, and one-step episodes of equal reward, whose returns never have a spread."""
    scaled = scaled_rewards([reward] * 64, 1, envs, rows)
    assert (scaled * np.sign(reward) >= abs(reward) / 10).all() and (abs(scaled) <= min(10 * abs(reward), 10)).all()


@pytest.mark.parametrize("envs", [1, 8])
def test_zero_rewards_stay_zero(envs: int) -> None:
    assert not scaled_rewards([0.0] * 50, 7, envs).any()


@pytest.mark.parametrize("envs", [1, 8])
@pytest.mark.parametrize("rows", [1, 5, 128])
def test_scaled_rewards_are_bounded_from_the_first_one_on(envs: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    for rewards in (np.ones(300), rng.normal(-7, 3, (300, envs)), 1 + 1e-7 * rng.normal(size=(300, envs))):
        assert abs(scaled_rewards(rewards, 100, envs, rows)).max() <= 10
    outlier = np.r_[np.zeros(200), 1000.0]
    assert scaled_rewards(outlier, 300, envs, rows)[-1] == pytest.approx(10)


def test_small_differences_of_large_rewards_are_not_clipped_away() -> None:
    rewards = np.random.default_rng(0).normal(100, 1, 500)
    scaled = scaled_rewards(rewards, 1, rows=50)[250:, 0]
    assert scaled.max() < 10 and np.corrcoef(scaled, rewards[250:])[0, 1] > 0.99


def test_a_scaler_saved_by_version_1_is_restored() -> None:
    scaler = RewardScaler(2, 0.9)
    scaler.load_state_dict({"returns": np.zeros(2), "mean": 1.0, "var": 4.0, "count": 10.0})
    one = np.ones((1, 2), np.bool_)
    assert scaler(np.full((1, 2), 3.0), ~one, ~one) == pytest.approx(1.5)
