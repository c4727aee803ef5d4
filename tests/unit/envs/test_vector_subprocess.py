"""Tests that SubprocessVectorEnv behaves like SerialVectorEnv, and does not wait forever."""

from __future__ import annotations

import os
import pickle
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.envs.vector import SerialVectorEnv, SubprocessVectorEnv
from plexp.errors import ConfigError, EnvironmentFault
from tests.support.builders import play_side_by_side

SEEDS = EpisodeSeeds(7, (3,))
Maker = Callable[[], gymnasium.Env[Any, Any]]


class Failing(gymnasium.Env[Any, Any]):
    """Environment that fails as its action says, or in its `reset_at`-th reset; an episode has five steps."""

    HANGS, DIES, RAISES, IS_SLOW = 1, 2, 3, 4
    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Discrete(5)

    def __init__(self, in_reset: str = "", reset_at: int = 1) -> None:
        self.in_reset, self.reset_at, self.resets = in_reset, reset_at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets, self.time = self.resets + 1, 0
        if self.resets == self.reset_at and self.in_reset == "hangs":
            time.sleep(100)
        if self.resets == self.reset_at and self.in_reset == "dies":
            os._exit(3)
        if self.resets == self.reset_at and self.in_reset == "raises":
            raise ValueError("the reset broke\nsecond line")
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        if action == self.HANGS:
            time.sleep(100)
        if action == self.DIES:
            os._exit(3)
        if action == self.RAISES:
            raise ValueError("the physics broke\nsecond line")
        if action == self.IS_SLOW:
            time.sleep(0.4)
        return np.full(1, self.time, np.float32), 1.0, self.time == 5, False, {}


def counter(index: int) -> gymnasium.Env[Any, Any]:
    return SeededEpisodes(gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True), index, SEEDS)


def failing(index: int, culprit: int, in_reset: str, reset_at: int) -> gymnasium.Env[Any, Any]:
    return SeededEpisodes(Failing(in_reset if index == culprit else "", reset_at), index, SEEDS)


def makers(num_envs: int, culprit: int = 0, in_reset: str = "", reset_at: int = 1) -> list[Maker]:
    """Return constructors of environments, of which only the culprit fails in reset."""
    return [partial(failing, i, culprit, in_reset, reset_at) for i in range(num_envs)]


Start = Callable[..., SubprocessVectorEnv]


@pytest.fixture
def start() -> Iterator[Start]:
    """Yield a function that starts a SubprocessVectorEnv; it is closed after the test in any case."""
    begun: list[SubprocessVectorEnv] = []

    def make(makers: list[Maker], step_timeout: float | None = None) -> SubprocessVectorEnv:
        begun.append(SubprocessVectorEnv(makers, step_timeout=step_timeout))
        return begun[-1]

    yield make
    for env in begun:
        for process in env.processes:
            process.kill()
        env.is_broken = True
        env.close()


def assert_closes(env: VectorEnv[Any, Any, Any]) -> None:
    """Assert that closing ends all processes, and does not wait for one that hangs for 100 seconds."""
    processes = [process for process in env.processes]  # type: ignore[attr-defined]
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 30
    assert not any(process.is_alive() for process in processes)
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def actions(*given: int) -> np.ndarray[Any, Any]:
    return np.array(given, np.int64)


def test_every_step_equals_that_of_the_serial_vector_environment(start: Start) -> None:
    ours, theirs = (
        start([partial(counter, i) for i in range(3)]),
        SerialVectorEnv([partial(counter, i) for i in range(3)]),
    )
    rng = np.random.default_rng(0)
    assert play_side_by_side(ours, theirs, lambda: rng.integers(3, size=3)) > 10
    assert_closes(ours)


def test_returned_arrays_are_not_overwritten(start: Start) -> None:
    env = start([partial(counter, 0)], 5)
    first = env.reset()[0]
    second = env.step(actions(1))[0]
    copies = first.copy(), second.copy()
    env.step(actions(0))
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(second, copies[1])


def played(env: VectorEnv[Any, Any, Any], steps: int) -> tuple[list[int], list[np.ndarray[Any, Any]], Any]:
    """Play random steps; return the numbers and actions of the episodes in progress, and the last observations."""
    rng = np.random.default_rng(3)
    observations, numbers, columns = env.reset()[0], [0] * env.num_envs, [[] for _ in range(env.num_envs)]
    for _ in range(steps):
        given = rng.integers(3, size=env.num_envs)
        observations, _, terminated, truncated, _ = env.step(given)
        for i in range(env.num_envs):
            columns[i].append(given[i])
            if terminated[i] or truncated[i]:
                numbers[i], columns[i] = numbers[i] + 1, []
    return numbers, [np.array(column, np.int64) for column in columns], observations


@pytest.mark.parametrize("kind", [SubprocessVectorEnv, SerialVectorEnv])
def test_episodes_in_progress_are_resimulated_and_continue(kind: type[SubprocessVectorEnv | SerialVectorEnv]) -> None:
    first, again = (kind([partial(counter, i) for i in range(4)]) for _ in range(2))
    try:
        numbers, columns, expected = played(first, 21)
        assert {len(column) for column in columns} != {0} and min(numbers) > 2
        again.reset()
        observations, equal = again.resimulate(numbers, columns, expected)
        assert equal.tolist() == [True] * 4 and equal.dtype == np.bool_
        np.testing.assert_array_equal(observations, expected)
        for t in range(12):
            for a, b in zip(first.step(actions(*[t % 3] * 4))[:4], again.step(actions(*[t % 3] * 4))[:4], strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        first.close()
        again.close()


@pytest.mark.parametrize("kind", [SubprocessVectorEnv, SerialVectorEnv])
def test_an_environment_that_differs_when_resimulated_begins_its_next_episode(
    kind: type[SubprocessVectorEnv | SerialVectorEnv],
) -> None:
    env = kind([partial(counter, i) for i in range(4)])
    try:
        numbers, columns, expected = played(env, 21)
        expected = expected.copy()
        expected[1, 0] += 1
        serial = int(expected[2, 0])
        expected[2] = serial, 2 + serial % 5, 0
        columns[2] = np.zeros(9, np.int64)  # its episode ends before all of these are played
        observations, equal = env.resimulate(numbers, columns, expected)
        assert equal.tolist() == [True, False, False, True]
        for i in range(4):
            if equal[i]:
                np.testing.assert_array_equal(observations[i], expected[i])
                continue
            alone = gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True)
            np.testing.assert_array_equal(observations[i], alone.reset(seed=SEEDS(i, numbers[i] + 1))[0])
    finally:
        env.close()


@pytest.mark.parametrize("culprit", [0, 2])
def test_a_step_that_hangs_is_reported_in_time_and_does_not_delay_closing(culprit: int, start: Start) -> None:
    env = start(makers(3), step_timeout=0.5)
    env.reset()
    env.step(actions(0, 0, 0))
    given = actions(0, 0, 0)
    given[culprit] = Failing.HANGS
    began = time.monotonic()
    with pytest.raises(EnvironmentFault) as raised:
        env.step(given)
    assert 0.5 <= time.monotonic() - began < 30
    assert raised.value.index == culprit
    message = f"environment {culprit} did not answer a step within env.step_timeout=0.5 seconds"
    assert str(raised.value) == message
    assert_closes(env)


@pytest.mark.parametrize("reset_at", [1, 2, 3])
def test_a_reset_that_hangs_is_reported_in_time(reset_at: int, start: Start) -> None:
    """Cover the first reset, a further one, and one in the step that ends an episode."""
    env = start(makers(3, 1, "hangs", reset_at), step_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault) as raised:
        env.reset()
        env.reset()
        for _ in range(5):
            began = time.monotonic()
            env.step(actions(0, 0, 0))
    assert time.monotonic() - began < 30
    what = "step" if reset_at == 3 else "reset"
    message = f"environment 1 did not answer a {what} within env.step_timeout=0.5 seconds"
    assert (raised.value.index, str(raised.value)) == (1, message)
    assert_closes(env)


def test_a_slow_step_within_the_limit_is_allowed(start: Start) -> None:
    for limit in (None, 20):
        env = start(makers(2), step_timeout=limit)
        env.reset()
        assert env.step(actions(Failing.IS_SLOW, 0))[0].tolist() == [[1], [1]]
        assert_closes(env)


def test_an_answer_just_after_the_limit_is_too_late(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    env = start(makers(2), step_timeout=0.5)
    env.reset()

    def all_answer_too_late(timeout: float | None) -> bool:
        time.sleep(0.8)
        return False

    monkeypatch.setattr(env, "_poll_pipe_envs", all_answer_too_late)
    with pytest.raises(EnvironmentFault, match=r"did not answer a step within env\.step_timeout=0\.5 seconds"):
        env.step(actions(0, 0))


@pytest.mark.parametrize("step_timeout", [None, 20])
@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_a_process_that_dies_is_reported_with_its_exit_code(culprit: int, step_timeout: Any, start: Start) -> None:
    env = start(makers(3), step_timeout)
    env.reset()
    given = actions(0, 0, 0)
    given[culprit] = Failing.DIES
    began = time.monotonic()
    with pytest.raises(EnvironmentFault) as raised:
        env.step(given)
    assert time.monotonic() - began < 30
    message = f"the process of environment {culprit} died (exit code 3)"
    assert (raised.value.index, str(raised.value)) == (culprit, message)
    assert_closes(env)


def test_a_process_that_is_killed_between_steps_is_reported_with_the_signal(start: Start) -> None:
    env = start(makers(3))
    env.reset()
    env.processes[1].kill()
    env.processes[1].join()
    with pytest.raises(EnvironmentFault) as raised:
        for _ in range(2):
            env.step(actions(0, 0, 0))
    assert (raised.value.index, str(raised.value)) == (1, "the process of environment 1 died (exit code -9)")
    assert_closes(env)


@pytest.mark.parametrize("reset_at", [1, 2])
def test_a_process_that_dies_in_reset_is_reported(reset_at: int, start: Start) -> None:
    env = start(makers(2, 1, "dies", reset_at))
    with pytest.raises(EnvironmentFault, match=r"^the process of environment 1 died \(exit code 3\)$") as raised:
        env.reset()
        env.reset()
    assert raised.value.index == 1
    assert_closes(env)


def test_a_process_that_dies_while_resimulating_is_reported(start: Start) -> None:
    env = start(makers(2), 20)
    env.reset()
    with pytest.raises(EnvironmentFault) as raised:
        env.resimulate([0, 0], [actions(0), actions(Failing.DIES)], np.ones((2, 1), np.float32))
    assert (raised.value.index, str(raised.value)) == (1, "the process of environment 1 died (exit code 3)")
    assert_closes(env)


def test_an_exception_in_a_process_is_a_fault_with_its_environment_and_episode(start: Start) -> None:
    env = start(makers(3))
    env.reset()
    for _ in range(6):
        env.step(actions(0, 0, 0))
    with pytest.raises(EnvironmentFault) as raised:
        env.step(actions(0, Failing.RAISES, 0))
    assert re.fullmatch(
        r"environment 1 raised ValueError in step: the physics broke second line \(test_vector_subprocess.py:\d+\)",
        str(raised.value),
    )
    assert (raised.value.index, raised.value.number) == (1, 1)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.index, copy.number) == (str(raised.value), 1, 1)
    assert_closes(env)


@pytest.mark.parametrize("reset_at", [1, 2, 3])
def test_an_exception_in_a_reset_is_a_fault_of_the_episode_that_was_to_begin(reset_at: int, start: Start) -> None:
    env = start(makers(3, 2, "raises", reset_at))
    with pytest.raises(EnvironmentFault) as raised:
        env.reset()
        for _ in range(12):
            env.step(actions(0, 0, 0))
    assert re.fullmatch(
        r"environment 2 raised ValueError in reset: the reset broke second line \(test_vector_subprocess.py:\d+\)",
        str(raised.value),
    )
    assert (raised.value.index, raised.value.number) == (2, reset_at - 1)
    assert_closes(env)


def test_faults_are_not_printed_as_well(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    env = start(makers(2))
    env.reset()
    with pytest.raises(EnvironmentFault):
        env.step(actions(0, Failing.RAISES))
    assert_closes(env)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_does_not_disturb_the_processes(start: Start) -> None:
    env = start(makers(2), 20)
    env.reset()
    try:
        for process in env.processes:
            os.kill(process.pid, signal.SIGINT)
        env.step_async(actions(Failing.IS_SLOW, Failing.IS_SLOW))
        time.sleep(0.1)
        for process in env.processes:
            os.kill(process.pid, signal.SIGINT)
        assert env.step_wait()[0].tolist() == [[1], [1]]
        assert env.step(actions(0, 0))[0].tolist() == [[2], [2]]
    except KeyboardInterrupt:
        pytest.fail("a process passed it on")
    assert_closes(env)


def test_ctrl_c_still_interrupts_the_run_itself() -> None:
    usual = signal.getsignal(signal.SIGINT)
    SubprocessVectorEnv([partial(counter, 0)]).close()
    SerialVectorEnv([partial(counter, 0)]).close()
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_run_that_is_interrupted_in_the_middle_of_a_step_closes_at_once(start: Start) -> None:
    env = start(makers(2))
    env.reset()
    env.step_async(actions(Failing.HANGS, 0))
    assert_closes(env)


def test_closing_twice_is_harmless(start: Start) -> None:
    env = start(makers(2))
    env.reset()
    env.close()
    assert_closes(env)


def test_a_limit_without_processes_is_refused_in_one_line(build: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        build("env=cartpole", "env.step_timeout=2.5")
    message = "env.step_timeout=2.5: only a process of its own can be left waiting; give env.vectorization=async"
    assert str(raised.value) == message


def test_the_limit_of_the_config_reaches_the_processes(build: Callable[..., Any]) -> None:
    sizes = ("env.num_envs=2", "env.vectorization=async", "algo.num_steps=8")
    assert build("env=cartpole", *sizes, "env.step_timeout=2.5").training_env.step_timeout == 2.5
    assert build("env=cartpole", *sizes).training_env.step_timeout is None
