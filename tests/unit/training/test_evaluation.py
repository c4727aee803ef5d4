"""Tests of greedy evaluation against a plain loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.errors import EnvironmentFault, TrainingError
from plexp.training.evaluation import PARALLEL, StepLimit, evaluate
from tests.support.environments import QUIET

SEEDS = EpisodeSeeds(2, (4, 0))
NO_LIMIT = StepLimit(None)
SETTINGS = ("env.id=plexp-tests/Counter-v0", "env.num_envs=2", "algo.num_minibatches=1", "algo.num_steps=4", *QUIET)


class Problem:
    """Environment plugin with either kind of automatic reset, which remembers what it made."""

    label = "counter"

    def __init__(self, mode: AutoresetMode, **kwargs: Any) -> None:
        self.mode, self.kwargs, self.made = mode, {"id": "plexp-tests/Counter-v0", **kwargs}, []

    def make(self, num_envs: int, episode_seed: EpisodeSeeds) -> SyncVectorEnv:
        def one(index: int) -> gymnasium.Env[Any, Any]:
            return SeededEpisodes(gymnasium.make(**self.kwargs, disable_env_checker=True), index, episode_seed)

        self.made.append(
            SyncVectorEnv([partial(one, i) for i in range(num_envs)], copy=False, autoreset_mode=self.mode)
        )
        return self.made[-1]


@pytest.fixture(params=["mlp", "gru"])
def experiment(build: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    """Return an experiment whose weights are so small that the greedy action depends on the observation."""
    experiment = build(*SETTINGS, f"net={request.param}")
    for parameter in experiment.agent.trunk.parameters():
        parameter.data.uniform_(-0.01, 0.01, generator=torch.Generator().manual_seed(1))
    if request.param == "gru":  # and so large that the action depends on what came before
        for parameter in experiment.agent.trunk.core.parameters():
            parameter.data.mul_(500)
    return experiment


def plain_episode(agent: Any, seed: int) -> tuple[float, int, set[int]]:
    """Play one greedy episode alone; return its return, its length and the set of its actions."""
    env = gymnasium.make("plexp-tests/Counter-v0")
    observation, ended, rewards, actions = env.reset(seed=seed)[0], False, [], set()
    state = agent.initial_state(1)
    while not ended:
        taken, state = agent.act_greedily(torch.as_tensor(observation)[None], state)
        action = int(taken)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        actions.add(action)
        ended = terminated or truncated
    return sum(rewards), len(rewards), actions


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize(("episodes", "num_envs"), [(1, 1), (7, 7), (10, 10), (11, 10), (12, 10), (40, 10)])
def test_evaluation_plays_exactly_the_episodes_fixed_for_each_environment(
    episodes: int, num_envs: int, mode: AutoresetMode, experiment: Any
) -> None:
    problem = Problem(mode)
    result = evaluate(experiment.agent, problem, SEEDS, episodes, limit=NO_LIMIT)
    quotas = [len(range(i, episodes, num_envs)) for i in range(num_envs)]
    assert problem.made[0].num_envs == num_envs <= PARALLEL
    expected = [plain_episode(experiment.agent, SEEDS(i, k)) for i in range(num_envs) for k in range(quotas[i])]
    assert result.returns.tolist() == [total for total, _, _ in expected]
    assert result.lengths.tolist() == [length for _, length, _ in expected]
    assert (result.returns.dtype, result.lengths.dtype) == (np.float64, np.int64)
    if episodes >= 10:
        assert len(set(result.lengths.tolist())) > 2, "the check must have met episodes of several lengths"
        assert len(set.union(*[actions for _, _, actions in expected])) > 1, "and more than one action"


def test_an_evaluation_is_reproducible_and_another_one_has_other_episodes(experiment: Any) -> None:
    streams, problem = experiment.streams, Problem(AutoresetMode.SAME_STEP)
    first, again, other = (
        evaluate(experiment.agent, problem, streams.evaluation(i), 10, limit=NO_LIMIT).returns for i in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_evaluation_touches_nothing_that_training_depends_on(
    build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    experiment = build("env.num_envs=2", "algo.num_minibatches=1", "algo.num_steps=16", "net.width=8")
    train(experiment, 1)

    def state() -> list[Any]:
        streams, collector = experiment.streams, experiment.trainer.collector
        envs = [(env.unwrapped.state, env.get_wrapper_attr("episode")) for env in experiment.training_env.envs]
        randomness = [
            streams.actions.bit_generator.state,
            streams.minibatches.bit_generator.state,
            torch.get_rng_state(),
        ]
        tensors = copy.deepcopy(experiment.agent.state_dict())
        scaler = copy.deepcopy(vars(collector.scaler))
        return copy.deepcopy([envs, randomness, tensors, scaler, collector.observations, collector.returns])

    before = state()
    evaluate(experiment.agent, experiment.environment, experiment.streams.evaluation(0), 10, limit=NO_LIMIT)
    assert_same(state(), before)


def assert_same(one: Any, two: Any) -> None:
    """Assert that nested lists, dicts, arrays and tensors are equal."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        one, two = list(one.values()), list(two.values())
    if isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert np.array_equal(np.asarray(one), np.asarray(two))


@pytest.mark.parametrize("fault", ["step", "reset"])
def test_an_environment_that_fails_in_evaluation_is_closed_and_reported(fault: str, build: Callable[..., Any]) -> None:
    agent = build("env.id=plexp-tests/Faulty-v0", "+env.kwargs.fault=none", *QUIET).agent
    problem = Problem(AutoresetMode.SAME_STEP, id="plexp-tests/Faulty-v0", fault=fault, at=1)
    with pytest.raises(TrainingError, match=r"environment \d raised ValueError in \w+: the \w+ broke") as raised:
        evaluate(agent, problem, SEEDS, 3, limit=NO_LIMIT)
    assert "\n" not in str(raised.value)
    assert problem.made[0].closed


@pytest.mark.parametrize("fault", ["step", "nan reward"])
def test_a_fault_in_evaluation_names_its_episode(fault: str, build: Callable[..., Any]) -> None:
    agent = build("env.id=plexp-tests/Faulty-v0", "+env.kwargs.fault=none", *QUIET).agent
    problem = Problem(AutoresetMode.SAME_STEP, id="plexp-tests/Faulty-v0", fault=fault, at=4)
    with pytest.raises(EnvironmentFault) as raised:
        evaluate(agent, problem, SEEDS, 3, limit=NO_LIMIT)
    episode = raised.value.episode
    assert episode is not None and episode["episode"] == 0
    assert episode["seed"] == SEEDS(raised.value.index, 0) and len(episode["actions"]) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(("fault", "episode", "actions"), [("nan observation", 0, 4), ("nan first observation", 1, 0)])
def test_an_observation_that_is_not_finite_ends_an_evaluation(
    fault: str, episode: int, actions: int, build: Callable[..., Any]
) -> None:
    """`at` is a step of an episode, or the number of a reset; the second reset begins the second episode."""
    agent = build("env.id=plexp-tests/Faulty-v0", "+env.kwargs.fault=none", *QUIET).agent
    at = 4 if fault == "nan observation" else 2
    problem = Problem(AutoresetMode.SAME_STEP, id="plexp-tests/Faulty-v0", fault=fault, at=at)
    method = "step" if fault == "nan observation" else "reset"
    with pytest.raises(EnvironmentFault, match=rf"returned from {method} observation\[0\] = nan; expected") as raised:
        evaluate(agent, problem, SEEDS, 23, limit=NO_LIMIT)
    found = raised.value.episode
    assert found is not None and (found["episode"], len(found["actions"])) == (episode, actions)  # type: ignore[arg-type]


def test_an_evaluation_warns_of_observations_outside_their_bounds_and_counts_them(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    agent = build("env.id=plexp-tests/Faulty-v0", "env.kwargs.fault=none", *QUIET).agent
    problem = Problem(AutoresetMode.SAME_STEP, id="plexp-tests/Faulty-v0", fault="outside", at=3)
    caplog.clear()
    assert evaluate(agent, problem, SEEDS, 3, limit=NO_LIMIT).lengths.tolist() == [10, 10, 10]
    first, last = (record.getMessage() for record in caplog.records)
    assert "2 of 2 entries [0], [1], by up to 4 ([0] = 5, bounds [-1, 1])" in first
    assert ": 3 of 33 observations (9.09 %) left their declared bounds" in last


def test_an_evaluation_of_a_run_that_has_warned_does_not_repeat_it(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = build("env.id=plexp-tests/Faulty-v0", "env.kwargs.fault=outside", *QUIET)
    caplog.clear()
    bounds = experiment.trainer.collector.bounds
    experiment.trainer.collector.collect()
    evaluate(experiment.agent, experiment.environment, SEEDS, 3, limit=NO_LIMIT, bounds=bounds)
    assert len(caplog.records) == 1 and bounds.outside > 3


@pytest.mark.parametrize(
    "overrides",
    [
        ("algo=dqn", "env=cartpole", "algo.random_steps=4"),
        ("algo=sac", "env=pendulum", "tuned=none", "algo.noise=ornstein_uhlenbeck"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("episodes", [2, 12])
def test_noise_that_lasts_is_the_evaluations_own(overrides: tuple[str, ...], episodes: int, build: Any) -> None:
    """Sample from a policy in as many environments as it trains in, and in others."""
    with build(*overrides, "env.num_envs=2", "env.max_episode_steps=20", "algo.learning_starts=16") as experiment:
        experiment.trainer.collector.collect()
        lasting = experiment.agent.distribution.last.clone()
        results = [
            evaluate(
                experiment.agent,
                experiment.environment,
                EpisodeSeeds(0, (9,)),
                episodes,
                np.random.default_rng(3),
                limit=StepLimit(None),
            )
            for _ in range(2)
        ]
        assert torch.equal(experiment.agent.distribution.last, lasting)
    assert np.array_equal(*[result.returns for result in results]), "from the start, both times"
