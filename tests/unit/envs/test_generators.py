"""Tests of environments that draw from the global generators: each gets its own, so that runs stay exact."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from plexp.config.compose import resolve
from plexp.envs.film import _resimulate
from plexp.envs.generators import GlobalUse
from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.errors import ConfigError
from plexp.execution.experiment import build as build_experiment
from plexp.testing import faults
from plexp.training.evaluation import StepLimit, evaluate
from tests.support.environments import QUIET

GENERATORS = ("random", "numpy.random", "torch")
SIZES = ("env.num_envs=3", "algo.num_steps=40", "algo.num_minibatches=1", *QUIET)
ID = "env.id=plexp-tests/Globals-v0"
LIMIT = StepLimit(1000)
PLACES = ("reset", "step", "constructor")
CASES = [(generator, where, "sync") for generator in GENERATORS for where in PLACES]
CASES += [("random", "reset", "async"), ("numpy.random", "step", "async"), ("torch", "constructor", "async")]


def settings(generator: str, where: str = "step", way: str = "sync") -> tuple[str, ...]:
    kwargs = (f"+env.kwargs.generator={generator}", f"+env.kwargs.where={where}")
    return (ID, *kwargs, f"env.vectorization={way}", *SIZES)


def disturb(number: int) -> None:
    """Bring the global generators into another state."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def drawn() -> tuple[float, float, float, float]:
    """Return the next numbers of the global generators, two of them normal: NumPy has the second one in store."""
    return random.random(), float(np.random.randn()), float(np.random.randn()), float(torch.rand(()))


@pytest.fixture(autouse=True)
def outer_generators() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def rollouts(*overrides: str, compose: Callable[..., Any], between: Callable[[], object] = lambda: None) -> list[Any]:
    """Return observations and rewards of three rollouts, by the weights that the run begins with."""
    experiment = build_experiment(resolve(compose(*overrides)))
    with experiment:
        found: list[Any] = []
        for _ in range(3):
            trajectory = experiment.trainer.collector.collect()
            found += [trajectory.observations.numpy(), trajectory.rewards.numpy()]
            between()
    return found


@pytest.mark.parametrize(("generator", "where", "way"), CASES)
def test_the_same_seed_gives_the_same_run_whatever_else_draws(
    generator: str, where: str, way: str, compose: Callable[..., Any]
) -> None:
    overrides = settings(generator, where, way)
    disturb(1)
    plain = rollouts(*overrides, compose=compose)
    disturb(2)
    disturbed = rollouts(*overrides, compose=compose, between=drawn)
    other = rollouts(*overrides, "seed=1", compose=compose)
    assert all(np.array_equal(one, two) for one, two in zip(plain, disturbed, strict=True))
    assert where == "constructor" or not np.array_equal(plain[1], other[1])
    column = {"step": 0, "reset": 1, "constructor": 2}[where]
    assert plain[0][..., column].any(), "something must have been drawn"
    if where != "constructor":
        assert len(np.unique(plain[0][-1, :, column])) == 3, "each environment has other numbers"


@pytest.mark.parametrize("generator", GENERATORS)
def test_an_evaluation_draws_nothing_that_training_depends_on(generator: str, compose: Callable[..., Any]) -> None:
    overrides = settings(generator)
    plain = rollouts(*overrides, compose=compose)
    with build_experiment(resolve(compose(*overrides))) as experiment:
        collector, found = experiment.trainer.collector, []
        for index in range(3):
            trajectory = collector.collect()
            found += [trajectory.observations.numpy(), trajectory.rewards.numpy()]
            seeds = experiment.streams.evaluation(index)
            evaluate(experiment.agent, experiment.environment, seeds, 12, limit=LIMIT)
    assert all(np.array_equal(one, two) for one, two in zip(plain, found, strict=True))


@pytest.mark.parametrize(("generator", "where", "way"), CASES)
def test_an_episode_is_resimulated_alone_from_its_seed_and_actions(
    generator: str, where: str, way: str, compose: Callable[..., Any]
) -> None:
    with build_experiment(resolve(compose(*settings(generator, where, way)))) as experiment:
        seeds = experiment.streams.evaluation(0)
        result = evaluate(experiment.agent, experiment.environment, seeds, 12, limit=LIMIT)
        alone = build_experiment(resolve(compose(*settings(generator, where)))).environment
    assert result.played is not None and (where == "constructor" or len(set(result.returns)) > 3)
    for episode in result.played:
        disturb(episode.seed)
        total, length, _ = _resimulate(alone, episode, lambda done: None)
        assert total == pytest.approx(episode.total_reward, rel=1e-12) and length == len(episode.actions)


@pytest.mark.parametrize("generator", [*GENERATORS, "none"])
def test_the_callers_generators_are_as_before_when_an_experiment_is_closed(
    generator: str, compose: Callable[..., Any]
) -> None:
    disturb(5)
    np.random.randn()  # and one number is in store
    expected = drawn()
    disturb(5)
    np.random.randn()
    with build_experiment(resolve(compose(*settings(generator)))) as experiment:
        experiment.trainer.collector.collect()
    assert drawn() == expected


def test_the_callers_generators_are_as_before_when_an_experiment_cannot_be_built(compose: Callable[..., Any]) -> None:
    disturb(5)
    expected = drawn()
    disturb(5)
    with pytest.raises(ConfigError):
        build_experiment(resolve(compose("env=gymnasium", "env.id=Nowhere-v0")))
    assert drawn() == expected


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("generator", GENERATORS)
def test_one_warning_names_the_environment_and_the_generator(
    generator: str, where: str, compose: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "plexp")
    with build_experiment(resolve(compose(*settings(generator, where)))) as experiment:
        experiment.trainer.collector.collect()
        evaluate(experiment.agent, experiment.environment, experiment.streams.evaluation(0), 12, limit=LIMIT)
    (warning,) = caplog.messages
    assert warning == (
        f"the environment plexp-tests/Globals-v0 draws from the global generator of {generator}: it gets its own, seeded "
        "for each episode (and alike for each constructor), which slows it down; draw from self.np_random"
    )
    assert experiment.streams.use.names == {generator}


def test_an_environment_that_draws_from_none_is_watched_for_some_calls_only(
    compose: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with build_experiment(resolve(compose(*settings("none")))) as experiment:
        use = experiment.streams.use
        while use.left > 0:
            assert not use.is_idle
            experiment.trainer.collector.collect()
    assert use.is_idle and not use.names and not caplog.messages


def test_draws_are_found_up_to_the_last_call_that_is_watched() -> None:
    for watched, expected in ((4, set()), (5, {"numpy.random"})):
        use = GlobalUse(watched, warns=False)
        env = SeededEpisodes(Late(), 0, EpisodeSeeds(0, (3,), use))
        env.reset()
        for _ in range(6):
            env.step(0)
        assert use.names == expected


class Late(gymnasium.Env[Any, Any]):
    """Environment that draws in its fourth step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)
    time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(1), float(np.random.rand(312).sum()) if self.time == 4 else 0.0, False, False, {}


def test_the_check_of_an_environment_says_which_generator_it_draws_from() -> None:
    overrides = (ID, "+env.kwargs.generator=numpy.random", "env.max_episode_steps=20")
    found = faults("env", "gymnasium", overrides, only=("steps, termination and truncation",))
    line = "it draws from the global generator of numpy.random: draw from self.np_random only"
    assert [fault for fault in found if "global" in fault] == [f"steps, termination and truncation: {line}"]
