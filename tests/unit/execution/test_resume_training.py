"""Tests of resuming training: a resumed run continues as if it had never stopped, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from omegaconf import DictConfig, open_dict

from plexp.envs.episodes import Episode
from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.execution.checkpoint import copied, decode, encode
from plexp.execution.experiment import Experiment
from plexp.nn.normalization import RewardScaler
from plexp.training.collector import Collector
from plexp.training.progress import TrainingProgress
from tests.support.builders import make_agent

CLOCKS = ("seconds", "profile")
Build = Callable[..., Experiment]


class Pictures(gymnasium.Env[Any, Any]):
    """Environment of images that the episode's seed determines and the action shifts; an episode has eleven steps."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._observation(int(action)), float(self.np_random.normal()), self.time == 11, False, {}

    def _observation(self, shift: int) -> np.ndarray[Any, Any]:
        return np.roll(self.np_random.integers(0, 256, (36, 40, 3), np.uint8), shift, 0)


class Forgetful(gymnasium.Env[Any, Any]):
    """Environment of ten steps that pay 1; every second one made, or each, sees noise and cannot be re-simulated."""

    LENGTH = 10
    made: ClassVar[int] = 0
    observation_space = spaces.Box(0, 1e4, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, all_of_them: bool) -> None:
        self.random = all_of_them or Forgetful.made % 2 == 1
        Forgetful.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.serial = 0, int(self.np_random.integers(1000))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._observation(), 1.0, self.time == self.LENGTH, False, {}

    def _observation(self) -> np.ndarray[Any, Any]:
        noise = int.from_bytes(os.urandom(2), "little") / 10 if self.random else 0
        return np.array([self.serial, self.time, noise], np.float32)


for cls in (Pictures, Forgetful):
    gymnasium.register(f"plexp-tests/{cls.__name__}-v0", cls)


def state_of(experiment: Experiment, progress: TrainingProgress) -> dict[str, Any]:
    """Return what a checkpoint would hold, encoded and decoded as in its file."""
    assert experiment.stateful is not None
    parts = {**experiment.stateful, "progress": progress}
    return decode(encode({name: copied(part.state_dict()) for name, part in parts.items()}))


def restored(experiment: Experiment, state: dict[str, Any]) -> TrainingProgress:
    assert experiment.stateful is not None
    progress = TrainingProgress()
    for name, part in {**experiment.stateful, "progress": progress}.items():
        part.load_state_dict(state[name])
    return progress


def make_updates(
    experiment: Experiment, progress: TrainingProgress, updates: int
) -> list[tuple[dict[str, float], list[Episode]]]:
    """Make updates; return the metrics of each, and the episodes that ended in it."""
    return [(dict(experiment.trainer.iterate(progress)), list(progress.finished)) for _ in range(updates)]


def without_clocks(state: dict[str, Any]) -> bytes:
    progress = {name: value for name, value in state["progress"].items() if name not in CLOCKS}
    return encode({**state, "progress": progress})


GLOBALS = "env.id=plexp-tests/Globals-v0"
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "ppo": (("algo=ppo",), {}),
    "a2c": (("algo=a2c",), {}),
    "reinforce": (("algo=reinforce",), {}),
    "reinforce with a critic": (("algo=reinforce", "advantage=baseline"), {}),
    "actor_critic": (("algo=actor_critic",), {}),
    "subprocesses": (("algo=ppo", "env.vectorization=async"), {}),
    "whole episodes, subprocesses": (("algo=reinforce", "env.vectorization=async"), {}),
    "numpy's global generator": ((GLOBALS, "+env.kwargs.generator=numpy.random"), {}),
    "python's global generator": ((GLOBALS, "+env.kwargs.generator=random", "env.vectorization=async"), {}),
    "torch's global generator": ((GLOBALS, "+env.kwargs.generator=torch", "algo=reinforce"), {}),
    "target critic": (("algo=ppo",), {"algo__target_update_every": 2, "algo__target_tau": 0.5}),
    "replayed rollouts": (("algo=a2c", "advantage=vtrace"), {"algo__replay_rollouts": 2}),
    "the critic's own epochs": (("algo=ppo",), {"algo__critic_epochs": 3, "algo__critic_learning_rate": 0.01}),
    "annealed": (("algo=ppo",), {"algo__anneal_learning_rate": True, "total_timesteps": 200}),
    "nothing scaled": (("algo=ppo",), {"env__normalize_observations": False, "env__scale_rewards": False}),
    "continuous": (("algo=ppo", "env=pendulum", "policy.bounds=tanh"), {"env__normalize_observations": True}),
    "continuous, clipped, subprocesses": (("algo=ppo", "env=pendulum", "env.vectorization=async"), {}),
    "a q critic": (("algo=a2c", "env=cartpole", "advantage=q"), {}),
    "a q critic of continuous actions": (("algo=ppo", "env=pendulum", "advantage=q"), {"policy__action_samples": 3}),
    "images": (("algo=ppo", "net=cnn"), {"env__id": "plexp-tests/Pictures-v0", "env__normalize_observations": False}),
    "a lander": (("algo=ppo", "env=lunarlander"), {"env__max_episode_steps": 90, "algo__num_steps": 64}),
}


@pytest.mark.parametrize(("overrides", "changes"), CASES.values(), ids=CASES)
def test_a_resumed_run_continues_bit_for_bit(
    overrides: tuple[str, ...],
    changes: dict[str, Any],
    build: Build,
    compose: Callable[..., DictConfig],
    small: Callable[..., DictConfig],
) -> None:
    experiment, progress = build(small(compose(*overrides), **changes)), TrainingProgress()
    before = make_updates(experiment, progress, 3)
    state = state_of(experiment, progress)
    kept = encode(state)
    expected = make_updates(experiment, progress, 3)
    assert encode(state) == kept, "the copy does not change with the run"
    assert before != expected

    fresh = build(small(compose(*overrides), **changes))
    again = restored(fresh, state)
    assert fresh.trainer.collector.not_replayed == []
    assert without_clocks(state_of(fresh, again)) == without_clocks(state)
    assert make_updates(fresh, again, 3) == expected
    assert without_clocks(state_of(fresh, again)) == without_clocks(state_of(experiment, progress))
    weights, twins = experiment.agent.state_dict(), fresh.agent.state_dict()
    assert all(each.numpy().tobytes() == twins[name].numpy().tobytes() for name, each in weights.items())
    assert encode(state) == kept, "nor with the resumed one"


def test_the_states_in_these_cases_have_episodes_in_progress_scales_and_targets(
    build: Build, compose: Callable[..., DictConfig], small: Callable[..., DictConfig]
) -> None:
    found = {}
    for name in ("ppo", "target critic", "replayed rollouts", "the critic's own epochs", "a lander"):
        overrides, changes = CASES[name]
        experiment, progress = build(small(compose(*overrides), **changes)), TrainingProgress()
        make_updates(experiment, progress, 3)
        found[name] = state_of(experiment, progress)
    ppo = found["ppo"]
    assert max(ppo["collector"]["in_progress"]["lengths"]) > 0 and ppo["collector"]["in_progress"]["numbers"].any()
    assert ppo["collector"]["scaler"]["count"] == ppo["agent"]["normalizer.count"] == 3 * 8 * 2
    assert ppo["collector"]["lengths"].tolist() == ppo["collector"]["in_progress"]["lengths"]
    assert any(name.startswith("target_critic") for name in found["target critic"]["agent"])
    assert len(found["replayed rollouts"]["learner"]["replay"]) == 2
    assert len(found["the critic's own epochs"]["learner"]["steps"]) == 2
    assert max(found["a lander"]["collector"]["in_progress"]["lengths"]) > 10


def test_taking_a_copy_changes_nothing(
    build: Build, compose: Callable[..., DictConfig], small: Callable[..., DictConfig]
) -> None:
    results = []
    for copies in (True, False):
        experiment, progress = build(small(compose("algo=ppo", "env=pendulum"))), TrainingProgress()
        rows = []
        for _ in range(5):
            rows += make_updates(experiment, progress, 1)
            if copies:
                state_of(experiment, progress)
        results.append(rows)
    assert results[0] == results[1]


def test_a_run_can_be_stopped_after_every_update(
    build: Build, compose: Callable[..., DictConfig], small: Callable[..., DictConfig]
) -> None:
    config = small(compose("algo=ppo"), env__max_episode_steps=30)
    experiment, progress = build(config), TrainingProgress()
    expected = make_updates(experiment, progress, 8)
    rows: list[Any] = []
    state: dict[str, Any] | None = None
    for _ in range(8):
        fresh, again = build(config), TrainingProgress()
        if state is not None:
            again = restored(fresh, state)
            assert fresh.trainer.collector.not_replayed == []
        rows += make_updates(fresh, again, 1)
        state = state_of(fresh, again)
    assert rows == expected


@pytest.mark.parametrize(("first", "then"), [("sync", "async"), ("async", "sync")])
def test_a_serial_run_can_be_resumed_in_subprocesses_and_vice_versa(
    first: str, then: str, build: Build, compose: Callable[..., DictConfig], small: Callable[..., DictConfig]
) -> None:
    experiment, progress = build(small(compose("env=pendulum"), env__vectorization=first)), TrainingProgress()
    make_updates(experiment, progress, 3)
    state = state_of(experiment, progress)
    fresh = build(small(compose("env=pendulum"), env__vectorization=then))
    again = restored(fresh, state)
    assert fresh.trainer.collector.not_replayed == []
    assert make_updates(fresh, again, 3) == make_updates(experiment, progress, 3)


def forgetful(compose: Callable[..., DictConfig], small: Callable[..., DictConfig], **kwargs: Any) -> DictConfig:
    changes = {"env__id": "plexp-tests/Forgetful-v0", "env__max_episode_steps": None, "env__num_envs": 4}
    config = small(compose("algo=ppo"), **changes)
    with open_dict(config):
        config.env.kwargs = kwargs
    return config


@pytest.mark.parametrize(("all_of_them", "lost"), [(False, [1, 3]), (True, [0, 1, 2, 3])])
def test_an_environment_that_cannot_be_resimulated_begins_a_new_episode(
    all_of_them: bool,
    lost: list[int],
    build: Build,
    compose: Callable[..., DictConfig],
    small: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Forgetful, "made", 0)
    config = forgetful(compose, small, all_of_them=all_of_them)
    experiment, progress = build(config), TrainingProgress()
    make_updates(experiment, progress, 3)
    state = state_of(experiment, progress)
    kept = state["collector"]
    assert kept["lengths"].tolist() == [4] * 4 and kept["in_progress"]["numbers"].tolist() == [2] * 4

    fresh = build(config)
    again = restored(fresh, state)
    collector = fresh.trainer.collector
    assert collector.not_replayed == lost
    for i in range(4):
        number, length = (3, 0) if i in lost else (2, 4)
        assert collector.in_progress.numbers[i] == number
        assert (collector.returns[i], collector.lengths[i]) == (length, length)
        assert len(collector.in_progress.actions()[i]) == length
        assert fresh.training_env.envs[i].episode == number
        serial = np.random.default_rng(fresh.streams.training(i, number)).integers(1000)
        assert collector.observations[i][:2].tolist() == [serial, length]
        assert collector.scaler.returns[i] == (0 if i in lost else kept["scaler"]["returns"][i])
    assert kept["scaler"]["returns"].all()
    rows = make_updates(fresh, again, 3)
    assert all(np.isfinite(value) for metrics, _ in rows for value in metrics.values())
    ended = [[(episode.total_reward, episode.length) for episode in episodes] for _, episodes in rows]
    assert [each for episodes in ended for each in episodes] == [(10.0, 10)] * 2 * 4
    assert len(ended[0]) == 4 - len(lost), "only re-simulated episodes end after the six steps that were left"
    assert again.episodes == progress.episodes + 2 * 4


def test_a_run_that_cannot_be_resimulated_can_be_stopped_again(
    build: Build, compose: Callable[..., DictConfig], small: Callable[..., DictConfig]
) -> None:
    config = forgetful(compose, small, all_of_them=True)
    experiment, progress = build(config), TrainingProgress()
    for round_ in range(3):
        make_updates(experiment, progress, 1)
        state = state_of(experiment, progress)
        experiment = build(config)
        progress = restored(experiment, state)
        assert experiment.trainer.collector.not_replayed == [0, 1, 2, 3]
        assert experiment.trainer.collector.in_progress.numbers.tolist() == [round_ + 1] * 4


class Restartable(SyncVectorEnv):
    """Vector environment that can start other episodes, but cannot re-simulate any."""

    restarted_with: list[int] | None = None

    def restart(self, episodes: Sequence[int]) -> None:
        self.restarted_with = list(episodes)


@pytest.mark.parametrize("cls", [SyncVectorEnv, Restartable])
@pytest.mark.parametrize("complete_episodes", [False, True])
def test_with_next_step_resets_new_episodes_begin_everywhere(cls: type[SyncVectorEnv], complete_episodes: bool) -> None:
    seeds = EpisodeSeeds(11, (3,))

    def make_one(index: int) -> gymnasium.Env[Any, Any]:
        return SeededEpisodes(gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True), index, seeds)

    def collector() -> Collector:
        env = cls([partial(make_one, i) for i in range(3)], autoreset_mode=AutoresetMode.NEXT_STEP)
        settings: dict[str, Any] = {"num_steps": 7, "complete_episodes": complete_episodes, "episode_seed": seeds}
        agent = make_agent("v", shape=(3,)).float()
        return Collector(env, agent, np.random.default_rng(5), RewardScaler(3, 0.9), **settings)

    ours, fresh = collector(), collector()
    for _ in range(3):
        ours.collect()
    state = decode(encode(copied(ours.state_dict())))
    fresh.load_state_dict(state)
    assert fresh.not_replayed == [0, 1, 2]
    assert not fresh.returns.any() and not fresh.lengths.any() and not fresh.ended.any()
    assert not fresh.scaler.returns.any() and fresh.scaler.count == ours.scaler.count > 0
    assert fresh.in_progress.numbers.tolist() == [n + 1 for n in ours.in_progress.numbers]
    assert fresh.observations[:, 1].tolist() == [0, 0, 0]
    if isinstance(fresh.adapter.env, Restartable):
        assert fresh.adapter.env.restarted_with == fresh.in_progress.numbers.tolist()
    rollout = fresh.collect()
    assert bool(rollout.valid[0].all()) and rollout.observations[0, :, 1].tolist() == [0, 0, 0]
    ends = rollout.terminated | rollout.truncated
    for n in range(3):
        first = int(ends[:, n].nonzero()[0])
        assert rollout.observations[: first + 1, n, 1].tolist() == list(range(first + 1))
    assert len(fresh.episodes) == int(ends[rollout.valid].sum())
    assert sum(episode.length for episode in fresh.episodes) <= rollout.num_valid
    assert torch.isfinite(rollout.rewards).all()
