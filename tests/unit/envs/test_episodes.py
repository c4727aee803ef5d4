"""Tests of the episodes in progress against plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plexp.envs.episodes import EpisodesInProgress
from plexp.execution.checkpoint import copied, decode, encode

SHAPES: list[tuple[tuple[int, ...], torch.dtype]] = [((), torch.int64), ((2,), torch.float32), ((1, 3), torch.float64)]


@dataclass
class Plain:
    """Episode in progress of one environment: its number, and its actions as a list."""

    number: int = -1
    actions: list[Any] = field(default_factory=list)

    def begin(self) -> None:
        self.number, self.actions = self.number + 1, []

    def step(self, action: torch.Tensor, done: bool) -> None:
        self.actions.append(action.tolist())
        if done:
            self.begin()


def assert_equal(ours: EpisodesInProgress, plain: list[Plain]) -> None:
    assert ours.numbers.tolist() == [each.number for each in plain]
    assert [column.tolist() for column in ours.actions()] == [each.actions for each in plain]


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[int, tuple[tuple[int, ...], torch.dtype], list[tuple[str, int]], float, int]:
    """Draw a number of environments, a kind of action, events with sizes, how often an episode ends, and a seed."""
    events = st.tuples(st.sampled_from(["rollout"] * 4 + ["begin", "restore", "start next"]), st.integers(1, 6))
    return (
        draw(st.integers(1, 4)),
        draw(st.sampled_from(SHAPES)),
        draw(st.lists(events, max_size=12)),
        draw(st.sampled_from([0.0, 0.05, 0.3, 0.8, 1.0])),
        draw(st.integers(0, 999)),
    )


def rollout(
    rng: np.random.Generator, steps: int, num_envs: int, kind: tuple[tuple[int, ...], torch.dtype], chance: float
) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    shape, dtype = kind
    actions = torch.from_numpy(rng.integers(0, 99, size=(steps, num_envs, *shape))).to(dtype)
    return actions, rng.random((steps, num_envs)) < chance


def restored(ours: EpisodesInProgress, num_envs: int) -> EpisodesInProgress:
    """Return a new object with the state of `ours`, encoded and decoded as in a checkpoint."""
    state = decode(encode(copied(ours.state_dict())))
    fresh = EpisodesInProgress(num_envs)
    fresh.begin()
    columns = fresh.load_state_dict(state)
    assert [column.tolist() for column in columns] == [column.tolist() for column in ours.actions()]
    assert all(column.dtype == other.dtype for column, other in zip(columns, ours.actions(), strict=True))
    return fresh


def begun(num_envs: int) -> tuple[EpisodesInProgress, list[Plain]]:
    """Return the object under test and its plain lists, in their first episodes."""
    ours, plain = EpisodesInProgress(num_envs), [Plain() for _ in range(num_envs)]
    ours.begin()
    for each in plain:
        each.begin()
    return ours, plain


@given(scenarios())
@settings(max_examples=300, deadline=None)
def test_numbers_and_actions_match_plain_lists_after_any_events(scenario: Any) -> None:
    num_envs, kind, events, chance, seed = scenario
    rng, (ours, plain) = np.random.default_rng(seed), begun(num_envs)
    for event, size in events:
        if event == "begin":
            ours.begin()
            for each in plain:
                each.begin()
        elif event == "restore":
            ours = restored(ours, num_envs)
        elif event == "start next":
            ours.start_next(size % num_envs)
            plain[size % num_envs].begin()
        else:
            actions, done = rollout(rng, size, num_envs, kind, chance)
            ours.add(actions, done)
            for t in range(size):
                for i, each in enumerate(plain):
                    each.step(actions[t, i], bool(done[t, i]))
        assert_equal(ours, plain)


@given(scenarios(), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_the_episode_at_a_further_step_matches_plain_lists(scenario: Any, steps: int) -> None:
    num_envs, kind, events, chance, seed = scenario
    rng, (ours, plain) = np.random.default_rng(seed), begun(num_envs)
    for _, size in events:
        actions, done = rollout(rng, size, num_envs, kind, chance)
        ours.add(actions, done)
        for t in range(size):
            for i, each in enumerate(plain):
                each.step(actions[t, i], bool(done[t, i]))
    further, done = rollout(rng, steps, num_envs, kind, chance)
    for i, each in enumerate(plain):
        for t in range(steps):
            each.step(further[t, i], t < steps - 1 and bool(done[t, i]))
        for known in (done, done[: max(steps - 1, 0)]):
            number, played = ours.at(i, list(further), known)
            assert (number, played.tolist()) == (each.number, each.actions)


@pytest.mark.parametrize("kind", SHAPES, ids=str)
def test_reading_changes_nothing(kind: tuple[tuple[int, ...], torch.dtype]) -> None:
    rng, ours = np.random.default_rng(0), EpisodesInProgress(3)
    ours.begin()
    ours.add(*rollout(rng, 5, 3, kind, 0.3))
    before = encode(ours.state_dict())
    actions, done = rollout(rng, 4, 3, kind, 0.5)
    for i in range(3):
        ours.at(i, list(actions), done)
    ours.actions()
    assert encode(ours.state_dict()) == before


def test_a_copied_state_is_not_affected_by_later_steps() -> None:
    ours, fresh = EpisodesInProgress(2), EpisodesInProgress(2)
    ours.begin()
    ours.add(torch.ones(3, 2), np.zeros((3, 2), np.bool_))
    state = copied(ours.state_dict())
    fresh.load_state_dict(state)
    kept = encode(state)
    for each in (ours, fresh):
        each.add(torch.zeros(2, 2), np.array([[True, False], [False, False]]))
        each.start_next(1)
    assert encode(state) == kept
    assert encode(fresh.state_dict()) == encode(ours.state_dict())


def test_no_more_rollouts_are_kept_than_the_episodes_in_progress_need() -> None:
    ours = EpisodesInProgress(2)
    ours.begin()
    for _ in range(100):
        ours.add(torch.zeros(4, 2), np.array([[False, False], [True, False], [False, True], [False, False]]))
        assert len(ours._rollouts) <= 1
    never = np.zeros((4, 2), np.bool_)
    for n in range(1, 6):
        ours.add(torch.zeros(4, 2), never)
        assert [len(column) for column in ours.actions()] == [2 + 4 * n, 1 + 4 * n]


def test_one_environment_can_start_its_next_episode_while_the_others_continue() -> None:
    ours = EpisodesInProgress(3)
    ours.begin()
    ours.add(torch.arange(6).reshape(2, 3), np.zeros((2, 3), np.bool_))
    ours.start_next(1)
    ours.add(torch.arange(6, 9).reshape(1, 3), np.zeros((1, 3), np.bool_))
    assert ours.numbers.tolist() == [0, 1, 0]
    assert [column.tolist() for column in ours.actions()] == [[0, 3, 6], [7], [2, 5, 8]]
