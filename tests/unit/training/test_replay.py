"""Tests of the replay buffers against lists of episodes and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils import _pytree as pytree

from plexp.errors import ConfigError
from plexp.training.replay import buffer as replay
from plexp.training.replay import parts as replay_parts
from plexp.training.replay.buffer import PrioritizedReplay, ReplayBuffer, ReplaySpec
from plexp.training.replay.parts import FinalObservations, SumTree, free_memory
from plexp.training.types import Transitions
from tests.support.replay_world import SHAPES, Array, Step, World

NAMES = ("shape", "dtype", "action_shape", "action_dtype")


def expected(step: Step, n_steps: int, gamma: float) -> tuple[float, float, Array | None]:
    """Return reward, discount and successor of a transition by a plain loop; no successor of a terminated one."""
    reward, discount, at = 0.0, 1.0, step
    for k in range(n_steps):
        reward += discount * at.reward
        discount *= gamma
        if at.terminated:
            return reward, 0.0, None
        if at.after is None or k == n_steps - 1:
            break
        at = at.after
    return reward, discount, at.successor


def check(buffer: ReplayBuffer, world: World, n_steps: int, gamma: float = 0.9) -> None:
    """Compare every transition of a buffer with the plain loop."""
    steps = world.newest(buffer.rows)
    assert len(buffer) == len(steps)
    if not steps:
        return
    got = buffer.transitions(np.array(list(steps)), n_steps, gamma)
    for b, step in enumerate(steps.values()):
        reward, discount, successor = expected(step, n_steps, gamma)
        np.testing.assert_array_equal(got.observations[b].numpy(), step.observation)
        np.testing.assert_array_equal(got.actions[b].numpy(), step.action)
        np.testing.assert_allclose(got.rewards[b], reward, rtol=2e-7, atol=1e-7)
        np.testing.assert_allclose(got.discounts[b], discount, rtol=2e-7)
        if successor is not None:
            np.testing.assert_array_equal(got.next_observations[b].numpy(), successor)
    assert got.observations.dtype == got.next_observations.dtype == torch.from_numpy(np.zeros(0, world.dtype)).dtype
    assert got.actions.dtype == world.action_dtype and got.rewards.dtype == got.discounts.dtype == torch.float32
    assert torch.isfinite(got.next_observations.float()).all() and (got.weights == 1).all()


def worlds() -> list[Any]:
    found = []
    for number, same_step in enumerate([True, False] * 6):
        shape = dict(zip(NAMES, SHAPES[number % 3], strict=True))
        num_envs, p_end = [1, 2, 3, 5][number % 4], [0.05, 0.3, 0.6][number % 3]
        found.append(
            pytest.param(num_envs, shape, same_step, p_end, number, id=f"{num_envs}-{same_step}-{p_end}-{number}")
        )
    return found


@pytest.mark.parametrize("kind", [ReplayBuffer, PrioritizedReplay])
@pytest.mark.parametrize(("num_envs", "shape", "same_step", "p_end", "seed"), worlds())
def test_every_transition_is_that_of_a_plain_loop(
    kind: type[ReplayBuffer], num_envs: int, shape: Any, same_step: bool, p_end: float, seed: int
) -> None:
    """Check a growing buffer, the ring's seam, trajectories longer than the ring, padding, and capacities with a remainder."""
    world = World(num_envs, **shape, same_step=same_step, p_end=p_end, seed=seed)
    buffer = kind(num_envs * 11 + num_envs - 1, world.spec)
    assert buffer.rows == 11
    for number, steps in enumerate([1, 1, 2, 5, 1, 3, 7, 11, 1, 12, 4, 13, 30, 1, 6, 3]):
        if number in (5, 9):
            world.restart(number % num_envs)
        buffer.add(world.play(steps, padding=0.3 * (seed % 4 == 2)))
        for n_steps in range(1, 6):
            check(buffer, world, n_steps)


def test_the_plain_loop_itself_gives_what_is_worked_out_by_hand() -> None:
    s = [np.full(1, float(k)) for k in range(5)]
    first, second, third = (Step(s[k], s[0], float(k + 1), False, s[k + 1]) for k in range(3))
    first.after, second.after = second, third
    assert expected(first, 1, 0.5) == (1.0, 0.5, s[1])
    assert expected(first, 2, 0.5) == (2.0, 0.25, s[2])
    assert expected(first, 5, 0.5) == (1 + 1 + 0.75, 0.125, s[3])
    third.terminated = True
    assert expected(first, 5, 0.5) == (2.75, 0.0, None)


@pytest.mark.parametrize("same_step", [True, False])
def test_a_terminated_transition_never_shows_the_next_episode(same_step: bool) -> None:
    world = World(4, same_step=same_step, p_end=0.5)
    buffer = ReplayBuffer(400, world.spec)
    buffer.add(world.play(60))
    steps = world.newest(100)
    got = buffer.transitions(np.array(list(steps)), 1, 0.9)
    ended = [b for b, step in enumerate(steps.values()) if step.terminated]
    assert len(ended) > 30 and (got.discounts[ended] == 0).all()
    source = got.observations if same_step else torch.from_numpy(np.stack([s.successor for s in steps.values()]))
    assert torch.equal(got.next_observations[ended], source[ended])


def test_each_observation_is_kept_once_and_the_finals_are_freed() -> None:
    world = World(8, (1000,), p_end=0.2)
    buffer = ReplayBuffer(8 * 50, world.spec)
    assert buffer.observations.nbytes == 8 * 51 * 4000
    most = 0
    for _ in range(400):
        buffer.add(world.play(5))
        kept = sum(step.after is None and not step.terminated for step in world.newest(50).values())
        assert kept - 8 <= len(buffer.finals) <= kept
        most = max(most, len(buffer.finals))
    assert len(buffer.finals.values) <= 2 * (most + 8 * 5)


def test_an_end_keeps_its_final_observation_where_a_resumed_run_begins_anew() -> None:
    world = World(2, p_end=1.0)
    buffer = ReplayBuffer(40, world.spec)
    for _ in range(15):
        buffer.add(world.play(1))
        world.restart(0)
        check(buffer, world, 2)
    assert len(buffer.finals) == sum(not step.terminated for step in world.newest(20).values())


def test_finals_are_found_by_key_in_any_order_and_dropped_from_the_smallest() -> None:
    rng, finals, plain = np.random.default_rng(3), FinalObservations((2,), np.dtype(np.float32)), {}
    for begin in range(0, 4000, 20):
        keys = begin + rng.permutation(40)[: rng.integers(0, 9)]
        keys = np.array([key for key in keys if key not in plain], np.int64)
        values = rng.normal(size=(len(keys), 2)).astype(np.float32)
        finals.add(keys, values)
        plain |= dict(zip(keys.tolist(), values, strict=True))
        finals.drop_below(begin - 100)
        plain = {key: value for key, value in plain.items() if key >= begin - 100}
        assert len(finals) == len(plain)
        some = rng.permutation(np.array([*plain], np.int64))
        np.testing.assert_array_equal(finals.take(some), np.array([plain[k] for k in some.tolist()]).reshape(-1, 2))
    assert len(finals.keys) < 200


@pytest.mark.parametrize("same_step", [True, False])
def test_uniform_draws_are_uniform_over_the_valid_transitions(same_step: bool) -> None:
    world = World(3, same_step=same_step, p_end=0.4)
    buffer = ReplayBuffer(3 * 20, world.spec)
    for _ in range(7):
        buffer.add(world.play(9, padding=0.5))
    steps, rng = world.newest(20), np.random.default_rng(1)
    drawn = np.concatenate([buffer.draw(rng, 500) for _ in range(80)])
    keys, counts = np.unique(drawn, return_counts=True)
    assert drawn.dtype == np.int64 and keys.tolist() == list(steps)
    assert stats.chisquare(counts).pvalue > 0.001


def test_draws_are_a_function_of_content_and_generator() -> None:
    for kind in (ReplayBuffer, PrioritizedReplay):
        world = World(2, same_step=False)
        first, second = (kind(50, world.spec) for _ in range(2))
        for _ in range(9):
            trajectory = world.play(7)
            first.add(trajectory)
            second.add(trajectory)
            draws = [buffer.draw(np.random.default_rng(4), 33) for buffer in (first, second)]
            np.testing.assert_array_equal(*draws)


def test_a_buffer_without_transitions_cannot_be_drawn_from() -> None:
    for kind in (ReplayBuffer, PrioritizedReplay):
        buffer = kind(50, World(2).spec)
        assert not len(buffer)
        with pytest.raises(ValueError, match="no transitions"):
            buffer.draw(np.random.default_rng(0), 1)


def test_overwritten_transitions_are_refused_and_their_priorities_left_out() -> None:
    world = World(2, p_end=0.0)
    buffer = PrioritizedReplay(20, world.spec)
    buffer.add(world.play(10))
    before = buffer.draw(np.random.default_rng(0), 20)
    buffer.add(world.play(4))
    with pytest.raises(ValueError, match="overwritten"):
        buffer.transitions(before, 1, 0.9)
    leaves = buffer.tree.leaves.copy()
    buffer.update_priorities(np.arange(8), torch.full((8,), 5.0))
    np.testing.assert_array_equal(buffer.tree.leaves, leaves)


def test_prioritized_draws_and_weights_follow_the_formula() -> None:
    world = World(3, same_step=False, p_end=0.3)
    buffer = PrioritizedReplay(3 * 20, world.spec, alpha=0.7, eps=0.01)
    for _ in range(7):
        buffer.add(world.play(9))
    indices = np.array(list(world.newest(20)))
    rng = np.random.default_rng(2)
    errors = rng.normal(size=len(indices)) * rng.integers(1, 5, len(indices))
    buffer.update_priorities(indices, torch.from_numpy(errors))
    powers = (np.abs(errors) + 0.01) ** 0.7
    probabilities = powers / powers.sum()
    drawn = np.concatenate([buffer.draw(rng, 7) for _ in range(6000)])
    keys, counts = np.unique(drawn, return_counts=True)
    assert drawn.dtype == np.int64 and set(keys) <= set(indices)
    every = np.array([dict(zip(keys, counts, strict=True)).get(index, 0) for index in indices])
    assert stats.chisquare(every, probabilities * len(drawn)).pvalue > 0.001
    batch = rng.integers(0, len(indices), 32)
    weights = (len(buffer) * probabilities[batch]) ** -0.4
    both = np.stack([indices[batch], indices[batch][::-1]])
    np.testing.assert_allclose(buffer.weights_of(both, 0.0)[0], weights / weights.max(), rtol=1e-5)
    halfway = (weights / weights.max()) ** (0.7 / 0.4)  # β rises from 0.4 to 1
    np.testing.assert_allclose(buffer.weights_of(both, 0.5)[1], halfway[::-1], rtol=1e-5)
    got = buffer.transitions(indices[batch], 1, 0.9, buffer.weights_of(both, 0.0)[0])
    np.testing.assert_allclose(got.weights, weights / weights.max(), rtol=1e-5)


def test_prioritized_draws_are_stratified_and_in_random_order() -> None:
    world = World(1, p_end=0.0)
    buffer = PrioritizedReplay(64, world.spec)
    buffer.add(world.play(64))
    drawn = buffer.draw(np.random.default_rng(0), 64)
    assert sorted(drawn) == list(range(64)) != drawn.tolist()


def test_new_transitions_get_the_largest_priority_so_far() -> None:
    world = World(2, p_end=0.0)
    buffer = PrioritizedReplay(20, world.spec, alpha=0.5, eps=0.0)
    buffer.add(world.play(3))
    assert buffer.state_dict()["priorities"].tolist() == [[1, 1]] * 3
    buffer.update_priorities(np.array([0, 1, 2]), np.array([-9.0, 4.0, 0.0]))
    buffer.update_priorities(np.array([0]), np.array([0.25]))
    buffer.add(world.play(1))
    priorities = buffer.state_dict()["priorities"]
    assert priorities.dtype == np.float32
    np.testing.assert_allclose(priorities, [[0.5, 2], [0, 1], [1, 1], [3, 3]], atol=1e-9)
    assert priorities.all()  # or an error of zero would never be drawn again


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_the_sum_tree_is_that_of_plain_sums(size: int) -> None:
    rng, tree, plain = np.random.default_rng(size), SumTree(size), np.zeros(size)
    for _ in range(60):
        leaves = rng.integers(0, size, rng.integers(1, 9))
        values = rng.integers(0, 4, len(leaves)).astype(float)
        tree.set(leaves, values)
        for leaf, value in zip(leaves, values, strict=True):
            plain[leaf] = value
        begin = int(rng.integers(0, size))
        values = rng.integers(0, 4, rng.integers(1, size - begin + 1)).astype(float)
        tree.set_range(begin, values)
        plain[begin : begin + len(values)] = values
        assert tree.total == plain.sum()
        np.testing.assert_array_equal(tree.leaves[:size], plain)
        if tree.total:
            sums = np.concatenate([rng.random(20) * tree.total, np.arange(tree.total)])
            wanted = [next(j for j in range(size) if x < plain[: j + 1].sum()) for x in sums]
            assert tree.find(sums).tolist() == wanted


def test_rounding_never_leads_to_a_leaf_of_zero() -> None:
    tree = SumTree(8)
    tree.set(np.array([1, 4]), np.array([0.1, 0.2]))
    assert tree.find(np.array([0.0, tree.total, np.nextafter(tree.total, 9), 5.0])).tolist() == [1, 4, 4, 4]


def test_the_bytes_are_said_in_advance() -> None:
    for shape in SHAPES:
        for capacity, num_envs in [(100, 8), (33, 2), (8, 8)]:
            spec = ReplaySpec(num_envs, *shape)
            plain, prioritized = (kind(capacity, spec) for kind in (ReplayBuffer, PrioritizedReplay))
            arrays = (plain.observations, plain.actions, plain.rewards, plain.flags)
            needed = sum(array.nbytes for array in arrays)
            assert ReplayBuffer.nbytes(capacity, spec) == needed
            assert PrioritizedReplay.nbytes(capacity, spec) == needed + prioritized.tree.nodes.nbytes


def test_a_buffer_that_does_not_fit_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ReplaySpec(8, (4, 84, 84), np.dtype(np.uint8), (), torch.int64)
    for kind in (ReplayBuffer, PrioritizedReplay):
        least = kind.nbytes(8_000, spec)
        monkeypatch.setattr(replay, "free_memory", lambda least=least: least)
        kind(8_000, spec)
        monkeypatch.setattr(replay, "free_memory", lambda: 24_000_000_000)
        with pytest.raises(ConfigError) as error:
            kind(2_000_000, spec)
        needed = kind.nbytes(2_000_000, spec) / 1e9
        assert str(error.value) == f"replay.capacity=2000000: needs {needed:.3g} GB, 24 GB are free; give a smaller one"
        assert 56.4 < needed < 56.6
    monkeypatch.setattr(replay, "free_memory", lambda: None)
    ReplayBuffer(8_000, spec)


def test_a_capacity_below_the_number_of_environments_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"replay.capacity=7: .*; give 8 or more"):
        ReplayBuffer(7, World(8).spec)


def test_the_free_memory_is_that_of_the_tightest_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    free = free_memory()
    assert free is None or free > 1_000_000
    for folder, limit, used in [
        (tmp_path, "5000", "3000"),
        (tmp_path / "job", "max", "10"),
        (tmp_path, "5000", "3000"),
    ]:
        folder.mkdir(exist_ok=True)
        for name, text in [
            ("memory.max", limit),
            ("memory.current", used),
            ("memory.stat", "file 9\ninactive_file 700\n"),
        ]:
            (folder / name).write_text(text)
    monkeypatch.setattr(replay_parts, "CGROUPS", tmp_path)
    assert list(replay_parts._free_in_groups()) in ([2700], [])


def test_transitions_are_a_pytree() -> None:
    world = World(2)
    buffer = ReplayBuffer(20, world.spec)
    buffer.add(world.play(3))
    batch = buffer.transitions(np.array([0, 1, 2]), 1, 0.9)
    doubled = pytree.tree_map(lambda tensor: tensor * 2, batch)
    assert isinstance(doubled, Transitions) and torch.equal(doubled.observations, batch.observations * 2)
