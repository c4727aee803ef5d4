"""Tests of `env.backend=envpool`: the environments that EnvPool steps, against gymnasium's own equations."""

from __future__ import annotations

import importlib.util
import sys
import warnings
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from omegaconf import DictConfig
from plexp.plugins.env.gymnasium import GymnasiumEnvironment

from plexp.envs.envpool import EnvPoolVectorEnv
from plexp.envs.seeding import EpisodeSeeds, Streams
from plexp.errors import ConfigError
from plexp.execution.checkpoint import copied
from plexp.training.evaluation import StepLimit, evaluate

needs_envpool = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason='EnvPool is not installed: pip install "plexp[envpool]"'
)
SETTINGS: dict[str, Any] = {
    "id": "CartPole-v1",
    "kwargs": {},
    "max_episode_steps": None,
    "num_envs": 3,
    "backend": "envpool",
    "vectorization": "sync",
    "step_timeout": None,
    "observed": None,
    "frame_stack": None,
    "action_mask": "auto",
    "normalize_observations": False,
    "scale_rewards": False,
    "solved_return": None,
}
SEEDS = EpisodeSeeds(0, (3,))
CARTPOLE = ("env=cartpole", "env.backend=envpool")


def make(num_envs: int = 3, seeds: EpisodeSeeds = SEEDS, **changes: Any) -> Any:
    return GymnasiumEnvironment(**{**SETTINGS, **changes}).make(num_envs, seeds)


def draw(space: Any, rng: np.random.Generator, num_envs: int) -> np.ndarray:
    """Return random actions as plexp gives them: int64 or float32."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=num_envs)
    return rng.uniform(space.low, space.high, (num_envs, *space.shape)).astype(np.float32)


def play(env: Any, steps: int) -> list[np.ndarray]:
    """Return all that the environment gives for random actions, the same in each call, and close it."""
    rng, out = np.random.default_rng(1), [env.reset()[0]]
    for _ in range(steps):
        *rows, info = env.step(draw(env.single_action_space, rng, 8)[: env.num_envs])
        assert info["env_id"].tolist() == list(range(env.num_envs)), "rows are in the order of the environments"
        out += rows
    env.close()
    return out


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def angle(cosine: float, sine: float) -> float:
    return float(np.arctan2(sine, cosine))


STATES: dict[str, Callable[[Any], Any]] = {
    "CartPole-v1": lambda o: o,
    "MountainCar-v0": lambda o: o,
    "MountainCarContinuous-v0": lambda o: o,
    "Pendulum-v1": lambda o: [angle(*o[:2]), o[2]],
    "Acrobot-v1": lambda o: [angle(*o[:2]), angle(*o[2:4]), o[4], o[5]],
}
"""Functions that compute an environment's state from an observation, by id."""


@needs_envpool
@pytest.mark.parametrize("id", STATES)
def test_every_step_matches_gymnasium_and_the_one_after_an_end_only_resets(id: str) -> None:
    limit, num_envs = 25, 4
    env, plain, rng = make(num_envs, id=id, max_episode_steps=limit), gymnasium.make(id), np.random.default_rng(0)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert env.single_observation_space == plain.observation_space
    assert env.single_action_space == plain.action_space
    physics: Any = plain.unwrapped
    starts = np.array([plain.reset(seed=seed)[0] for seed in range(200)])
    lowest, highest = starts.min(0) - 0.05, starts.max(0) + 0.05
    before, ended, lengths, resets = env.reset()[0], np.zeros(num_envs, bool), np.zeros(num_envs, int), 0
    assert env.observation_space.contains(before)
    for _ in range(90):
        actions = draw(env.single_action_space, rng, num_envs)
        after, rewards, terminated, truncated, _ = env.step(actions)
        for i in range(num_envs):
            if ended[i]:
                resets += 1
                assert rewards[i] == 0 and not terminated[i] and not truncated[i]
                assert (lowest <= after[i]).all() and (after[i] <= highest).all(), "the first of the next episode"
                lengths[i] = 0
                continue
            lengths[i] += 1
            physics.state = np.array(STATES[id](before[i].astype(float)))
            physics.steps_beyond_terminated = None
            successor, reward, ends, *_ = physics.step(actions[i])
            if id == "Pendulum-v1" and abs(successor[2]) == 8:
                # at top speed EnvPool moves the angle by the speed before it is clipped
                successor = np.array([*after[i][:2], successor[2]])
            np.testing.assert_allclose(after[i], successor, atol=1e-4)  # also the true last one of an episode
            assert rewards[i] == pytest.approx(reward, abs=1e-4)
            assert terminated[i] == (ends and lengths[i] < limit)
            assert truncated[i] == (lengths[i] == limit)
        before, ended = after, terminated | truncated
    assert resets >= num_envs * 3
    env.close()


@needs_envpool
def test_a_termination_in_the_step_of_the_limit_is_reported_as_a_truncation() -> None:
    """Gymnasium reports both; here the row is bootstrapped. This is rare, and the test shows if it changes."""

    def fall(limit: int | None) -> tuple[int, bool, bool]:
        env, steps, ends = make(1, max_episode_steps=limit), 0, [False, False]
        env.reset()
        while not any(ends):
            ends = [bool(flag[0]) for flag in env.step(np.ones(1, np.int64))[2:4]]
            steps += 1
        env.close()
        return steps, *ends

    steps, *_ = fall(None)
    assert (fall(None), fall(steps)) == ((steps, True, False), (steps, False, True))


@needs_envpool
def test_the_seeds_determine_all_observations_from_the_first_on() -> None:
    evaluation = Streams(0).evaluation(0)
    for id in ("CartPole-v1", "LunarLander-v3", "Pendulum-v1"):
        reference = play(make(3, id=id), 150)
        assert same(reference, play(make(3, id=id), 150))
        assert same([row[:2] for row in reference], play(make(2, id=id), 150)), "each has a seed of its own"
        for seeds in (EpisodeSeeds(1, (3,)), evaluation):
            other = play(make(3, seeds, id=id), 1)
            assert (other[0] != reference[0]).any(1).all()
        assert len(np.unique(reference[0], axis=0)) == 3


@needs_envpool
def test_the_number_of_threads_changes_nothing() -> None:
    import envpool

    def several_threads(seeds: list[int]) -> Any:
        return envpool.make_gymnasium("CartPole-v1", num_envs=4, batch_size=4, num_threads=3, seed=seeds)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `make_pool`
        several = EnvPoolVectorEnv(several_threads, SEEDS, 4)
    assert same(play(several, 200), play(make(4), 200))


@needs_envpool
def test_a_reset_begins_new_episodes_also_where_one_has_just_ended() -> None:
    env = make(4)
    first, _ = env.reset()
    seen = [first]
    for steps in (3, 60):
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(np.array([1, 1, 0, 1]))
            if steps == 60 and (terminated | truncated).any():
                break
        seen.append(env.reset()[0])
        assert (np.abs(seen[-1]) <= 0.05).all()
        _, rewards, terminated, truncated, info = env.step(np.ones(4, np.int64))
        assert rewards.tolist() == [1] * 4, "no reset is pending"
        assert info["elapsed_step"].tolist() == [1] * 4 and not (terminated | truncated).any()
    assert (terminated | truncated).shape == (4,) and len(np.unique(np.concatenate(seen), axis=0)) == 12
    env.close()


@needs_envpool
@pytest.mark.parametrize("algo", ["ppo", "reinforce"])
def test_rows_that_only_reset_are_not_learnt_from_and_belong_to_no_episode(
    algo: str, build: Callable[..., Any]
) -> None:
    sizes = ("env.num_envs=3", "env.max_episode_steps=30", "env.scale_rewards=false")
    experiment = build(*CARTPOLE, f"algo={algo}", *sizes)
    collector, again = experiment.trainer.collector, 0
    for _ in range(3):
        rollout = collector.collect()
        ends, valid = rollout.terminated | rollout.truncated, rollout.valid
        assert (rollout.rewards[valid] == 1).all() and len(rollout.final_index) == 0
        if algo == "ppo":  # with whole episodes there are also rows that wait
            assert torch.equal(valid[1:], ~ends[:-1]) and not rollout.rewards[~valid].any()
            again += int((~valid).sum())
            assert torch.equal(rollout.next_values[:-1][valid[:-1]], rollout.values[1:][valid[:-1]])
        else:
            assert (rollout.observations[0].abs() <= 0.05).all()
            again += len(collector.episodes)
        assert all(episode.total_reward == episode.length <= 30 for episode in collector.episodes)
        assert len(collector.episodes) == int(ends[valid].sum())
    assert again > 3


@needs_envpool
def test_evaluation_plays_exactly_its_episodes_and_the_same_again(build: Callable[..., Any]) -> None:
    experiment = build(*CARTPOLE, "env.max_episode_steps=40")
    results = [
        evaluate(experiment.agent, experiment.environment, experiment.streams.evaluation(i), 23, limit=StepLimit(None))
        for i in (0, 0, 1)
    ]
    assert all(len(each.returns) == 23 and np.array_equal(each.returns, each.lengths) for each in results)
    assert np.array_equal(results[0].returns, results[1].returns) and results[0].lengths.max() <= 40
    assert not np.array_equal(results[0].returns, results[2].returns)


@needs_envpool
def test_restart_begins_with_the_seeds_of_other_episodes() -> None:
    """A resumed run starts other episodes, because those of EnvPool cannot be re-simulated."""
    env, again = make(3), make(3)
    first = env.reset()[0]
    old = weakref.ref(env.pool)
    env.restart([4, 4, 9])
    assert old() is None
    renewed = env.reset()[0]
    assert (first != renewed).any(1).all()
    again.restart([4, 7, 9])
    other = again.reset()[0]
    assert same([renewed[[0, 2]]], [other[[0, 2]]]) and (renewed[1] != other[1]).any()
    assert env.step(np.ones(3, np.int64))[1].tolist() == [1] * 3
    env.close()
    again.close()


@needs_envpool
@pytest.mark.parametrize(
    ("id", "algo"), [("CartPole-v1", "ppo"), ("CartPole-v1", "reinforce"), ("FrozenLake-v1", "ppo")]
)
def test_a_resumed_run_begins_new_episodes_everywhere_and_continues(
    id: str,
    algo: str,
    build: Callable[..., Any],
    train: Callable[..., Any],
    small: Callable[..., DictConfig],
    compose: Callable[..., DictConfig],
) -> None:
    config = small(compose(*CARTPOLE, f"algo={algo}"), env__id=id)
    experiment, fresh, twin = build(config), build(config), build(config)
    train(experiment, 3)
    state = copied({name: part.state_dict() for name, part in experiment.stateful.items()})
    for each in (fresh, twin):
        for name, part in each.stateful.items():
            part.load_state_dict(copied(state[name]))
        assert each.trainer.collector.not_replayed == [0, 1]
        numbers = [number + 1 for number in state["collector"]["in_progress"]["numbers"]]
        assert each.trainer.collector.in_progress.numbers.tolist() == numbers
    rollouts = [each.trainer.collector.collect() for each in (fresh, twin)]
    assert rollouts[0].valid[0].all() and torch.equal(rollouts[0].observations, rollouts[1].observations)
    if id == "CartPole-v1":
        assert (rollouts[0].observations[0].abs() <= 0.05).all()
        assert all(episode.total_reward == episode.length <= 12 for episode in fresh.trainer.collector.episodes)
    assert all(np.isfinite(value) for row in train(fresh, 3) for value in row.values())


@needs_envpool
def test_closing_ends_the_pool() -> None:
    env = make(2)
    pool = weakref.ref(env.pool)
    env.close()
    assert pool() is None


LEARNT = [
    ("algo=ppo", *CARTPOLE),
    ("algo=reinforce", *CARTPOLE),
    ("algo=ppo", "env=pendulum", "env.backend=envpool"),
    ("algo=a2c", "env=lunarlander_continuous", "env.backend=envpool"),
]


@needs_envpool
@pytest.mark.parametrize("overrides", LEARNT, ids=" ".join)
def test_algorithms_learn_with_envpool_and_the_same_seed_gives_the_same_run(
    overrides: tuple[str, ...],
    small: Callable[..., DictConfig],
    compose: Callable[..., DictConfig],
    learns: Callable[[DictConfig], dict[str, torch.Tensor]],
) -> None:
    one, two, other = (learns(small(compose(*overrides), seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@needs_envpool
@pytest.mark.parametrize("continuous", [True, False])
def test_the_lander_has_gymnasiums_arguments_and_spaces(continuous: bool) -> None:
    env = make(2, id="LunarLander-v3", kwargs={"continuous": continuous})
    plain = gymnasium.make("LunarLander-v3", continuous=continuous)
    assert env.single_action_space == plain.action_space
    space = env.single_observation_space
    assert (space.shape, space.dtype) == (plain.observation_space.shape, plain.observation_space.dtype)
    assert env.observation_space.contains(env.reset()[0]), "EnvPool's own bounds would not contain it"
    env.close()


@needs_envpool
def test_discrete_observations_are_one_hot() -> None:
    env = make(2, id="FrozenLake-v1")
    np.testing.assert_array_equal(env.reset()[0], np.eye(16)[[0, 0]])
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert env.step(np.array([1, 2]))[0].sum(1).tolist() == [1, 1]
    env.close()


OTHERWISE = "give env.backend=gymnasium"
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"id": "CartPoll-v1"},
        f"env.backend=envpool: EnvPool has no CartPoll-v1; give env.id=CartPole-v1, or {OTHERWISE}",
    ),
    (
        {"id": "tests.support.environments:plexp-tests/Chain-v0"},
        f"env.backend=envpool: EnvPool has no tests.support.environments:plexp-tests/Chain-v0; {OTHERWISE}",
    ),
    (
        {"id": "LunarLander-v3", "kwargs": {"continuous": True, "gravity": -5.0}},
        f"env.kwargs.gravity=-5.0: EnvPool's LunarLanderContinuous-v3 takes no such argument; {OTHERWISE}",
    ),
    (
        {"kwargs": {"num_threads": 4}},
        f"env.kwargs.num_threads=4: EnvPool's CartPole-v1 takes no such argument; {OTHERWISE}",
    ),
    (
        {"id": "BipedalWalker-v3", "kwargs": {"hardcor": True}},
        "env.kwargs.hardcor=True: EnvPool's BipedalWalker-v3 takes no such argument; "
        f"give env.kwargs.hardcore, or {OTHERWISE}",
    ),
    (
        {"id": "BipedalWalker-v3", "kwargs": {"hardcore": "yes"}},
        "env.backend=envpool: EnvPool cannot make BipedalWalker-v3 (TypeError: __init__(): incompatible constructor "
        f"arguments.); see env.kwargs, or {OTHERWISE}",
    ),
    (
        {"id": "IntersectionMultiAgent-v0"},
        f"env.backend=envpool: IntersectionMultiAgent-v0 has several players at once; {OTHERWISE}",
    ),
]


@needs_envpool
@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_envpool_cannot_make_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(2, **changes)
    assert str(raised.value) == message


class FakePool:
    """Stand-in for a pool, which remembers the seeds that it was made with."""

    num_envs = 3
    single_observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    single_action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seeds: list[int]) -> None:
        self.seeds = seeds


def test_the_seeds_are_those_of_the_episodes_as_31_bits() -> None:
    env = EnvPoolVectorEnv(FakePool, SEEDS, 3)
    assert env.pool.seeds == [SEEDS(i, 0) >> 1 for i in range(3)]
    env.restart([5, 0, 2])
    assert env.pool.seeds == [SEEDS(0, 5) >> 1, SEEDS(1, 0) >> 1, SEEDS(2, 2) >> 1]
    assert (env.num_envs, env.metadata["autoreset_mode"]) == (3, AutoresetMode.NEXT_STEP)
    assert env.observation_space.shape == (3, 2) and not hasattr(env, "resimulate")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError) as raised:
        make(2)
    assert str(raised.value) == 'env.backend=envpool: the package envpool is missing; pip install "plexp[envpool]"'


def test_a_package_that_does_not_import_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libz.so: cannot open shared object file\nsecond line")

    monkeypatch.setattr("plexp.envs.envpool.importlib", SimpleNamespace(import_module=broken))
    with pytest.raises(ConfigError) as raised:
        make(2)
    message = "it does not import (OSError: libz.so: cannot open shared object file second line)"
    assert str(raised.value) == f"env.backend=envpool: {message}; {OTHERWISE}"


def test_subprocesses_are_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        make(2, vectorization="async")
    remedy = "give env.vectorization=sync, or env.backend=gymnasium"
    assert str(raised.value) == f"env.vectorization=async: EnvPool steps them all itself; {remedy}"
