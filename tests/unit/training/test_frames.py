"""Tests of stacks of frames, against environments that stack them without telling anybody."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.envs.stacking import StackedSpace, frames_of, newest, stack_frames
from plexp.errors import ConfigError
from plexp.execution.checkpoint import copied
from plexp.nn.distributions import Categorical
from plexp.nn.layout import ObservationReader
from plexp.training.agent import Agent
from plexp.training.collector import Collector
from plexp.training.frames import whole_observations
from plexp.training.replay.buffer import PrioritizedReplay, ReplayBuffer, ReplaySpec
from plexp.training.replay.log import ReplayLog

Build = Callable[..., Any]
SEEDS = EpisodeSeeds(11, (3,))
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
ENVS, K = 3, 3
KINDS: list[tuple[type[ReplayBuffer], dict[str, Any]]] = [(ReplayBuffer, {}), (PrioritizedReplay, {})]


class Secretly(gymnasium.wrappers.FrameStackObservation):
    """Stacks of frames whose space is any Box."""

    def __init__(self, env: gymnasium.Env[Any, Any], frames: int) -> None:
        super().__init__(env, frames, padding_type="reset")
        space = self.observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space = spaces.Box(space.low, space.high, dtype=space.dtype.type)


class Flat:
    """Network that flattens its observations."""

    label, share_trunk = "flat", False

    def trunk(self, shape: tuple[int, ...]) -> tuple[torch.nn.Module, int]:
        return torch.nn.Flatten(), int(np.prod(shape))

    def head(self, features: int, outputs: int, *, gain: float) -> torch.nn.Module:
        return torch.nn.Linear(features, outputs)


def make_collector(
    mode: AutoresetMode, stack: Callable[[gymnasium.Env[Any, Any], int], gymnasium.Env[Any, Any]], **options: Any
) -> Collector:
    def make_one(index: int) -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True)
        return SeededEpisodes(stack(env, K), index, SEEDS)

    env = SyncVectorEnv([partial(make_one, i) for i in range(ENVS)], autoreset_mode=mode)
    assert isinstance(env.envs[0].observation_space, StackedSpace) == (stack is stack_frames)
    env.single_observation_space = env.envs[0].observation_space
    torch.manual_seed(3)
    settings: Any = {"log_std": "free", "log_std_init": 0.0, "bounds": "clip", "action_samples": 1}
    reader, rng = ObservationReader((K, 3)), np.random.default_rng(0)
    agent = Agent(reader, Categorical(3), Flat(), None, "v", rng, **settings)
    return Collector(
        env, agent, np.random.default_rng(5), None, **{"num_steps": 5, "complete_episodes": False, **options}
    )


def collectors(mode: AutoresetMode, **options: Any) -> tuple[Collector, Collector]:
    return make_collector(mode, stack_frames, **options), make_collector(mode, Secretly, **options)


@pytest.mark.parametrize("complete_episodes", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_trajectories_keep_each_frame_once_and_give_the_stacks_back(
    mode: AutoresetMode, complete_episodes: bool
) -> None:
    ours, theirs = collectors(mode, complete_episodes=complete_episodes)
    for _ in range(6):
        kept, whole = ours.collect(), theirs.collect()
        assert kept.observations.shape == whole.observations[:, :, -1].shape and kept.earlier is not None
        valid = whole.valid
        assert torch.equal(whole_observations(kept)[valid], whole.observations[valid])
        reset_rows = ~valid & (not complete_episodes)  # of NEXT_STEP: they show the true final observations
        assert torch.equal(whole_observations(kept)[reset_rows], whole.observations[reset_rows])
        for name in whole.given().keys() - {"observations"}:
            assert torch.equal(getattr(kept, name), getattr(whole, name)), name
        assert isinstance(ours.policy, Agent) and isinstance(theirs.policy, Agent)
        mine, plain = ours.policy.evaluate_trajectory(kept), theirs.policy.evaluate_trajectory(whole)
        assert torch.equal(mine.values[valid], plain.values[valid])
        assert torch.equal(mine.next_values[valid], plain.next_values[valid])


def specs() -> tuple[ReplaySpec, ReplaySpec]:
    whole = ReplaySpec(ENVS, (K, 3), np.dtype(np.float32), (), torch.int64)
    return whole._replace(frames=K), whole


@pytest.mark.parametrize("rows", [100, 11])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_buffer_keeps_each_frame_once_and_gives_the_stacks_back(mode: AutoresetMode, n_steps: int, rows: int) -> None:
    ours, theirs = collectors(mode)
    buffers = [ReplayBuffer(ENVS * rows, spec) for spec in specs()]
    for _ in range(8):
        buffers[0].add(ours.collect())
        buffers[1].add(theirs.collect())
        first = buffers[0].drawable * ENVS
        indices = np.arange(first, buffers[0].added * ENVS)
        indices = indices[buffers[1].flags.take(indices % buffers[1].size) & 1 > 0]
        mine, plain = (buffer.transitions(indices, n_steps, 0.9) for buffer in buffers)
        for name in ("observations", "actions", "rewards", "discounts"):
            assert torch.equal(getattr(mine, name), getattr(plain, name)), name
        lasting = mine.discounts > 0
        assert torch.equal(mine.next_observations[lasting], plain.next_observations[lasting])  # type: ignore[index]
        assert set(buffers[0].draw(np.random.default_rng(0), 200)) <= {*indices}
    assert buffers[0].drawable == (buffers[0].oldest + K - 1 if rows == 11 else 0)


def test_stacks_need_the_memory_of_a_frame() -> None:
    stacked, whole = specs()
    full = whole._replace(shape=(4, 84, 84), dtype=np.dtype(np.uint8))
    assert ReplayBuffer.nbytes(30_000, full) / ReplayBuffer.nbytes(30_000, full._replace(frames=4)) > 3.95
    with pytest.raises(
        ConfigError, match=r"there is no room for the 3 frames of an observation of each .* give 9 or more"
    ):
        ReplayBuffer(ENVS * 2, stacked)


@pytest.mark.parametrize("mode", MODES)
def test_the_log_gives_the_same_buffer_again(mode: AutoresetMode, tmp_path: Path) -> None:
    collector, (spec, _) = make_collector(mode, stack_frames), specs()
    log, buffer = ReplayLog(tmp_path), PrioritizedReplay(ENVS * 11, spec)
    for _ in range(6):
        trajectory = collector.collect()
        log.append(trajectory)
        buffer.add(trajectory)
    log.sync()
    again = PrioritizedReplay(ENVS * 11, spec)
    ReplayLog(tmp_path).restore(log.position(), again)
    again.load_state_dict(buffer.state_dict())
    draws = [each.draw(np.random.default_rng(1), 300) for each in (buffer, again)]
    assert np.array_equal(*draws) and draws[0].min() >= buffer.drawable * ENVS
    one, two = (each.transitions(draws[0], 2, 0.9) for each in (buffer, again))
    assert torch.equal(one.observations, two.observations) and torch.equal(one.next_observations, two.next_observations)  # type: ignore[arg-type]


ANY = ("env.id=tests.support.environments:plexp-tests/Any2Any-v0", "env.num_envs=2", "compile=false", "net.width=8")
TRAINED = {
    "ppo": ("algo=ppo", "algo.num_steps=12", "algo.num_minibatches=2"),
    "reinforce": ("algo=reinforce",),
    "dqn": ("algo=dqn", "algo.learning_starts=20", "algo.batch_size=8"),
    "dqn by priority": ("algo=dqn", "algo.learning_starts=20", "algo.batch_size=8", "replay=prioritized"),
    "dqn with a memory": ("algo=dqn", "algo.learning_starts=20", "algo.batch_size=4", "net=gru", "net.size=8"),
    "sac": ("algo=sac", "algo.learning_starts=20", "algo.batch_size=8"),
    "ppo with a memory": ("algo=ppo", "algo.num_steps=12", "algo.num_minibatches=2", "net=lstm", "net.size=8"),
}


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("sees", ["box", "matrix", "image"])
def test_weights_are_those_of_whole_stacks(
    kind: str, sees: str, build: Build, train: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*ANY, *TRAINED[kind], f"+env.kwargs.sees={sees}", "+env.kwargs.acts=discrete", "env.frame_stack=3"]
    options += ["env.normalize_observations=false"] if sees == "image" else []
    options += ["net=cnn", "net.width=8"] if sees == "image" and "memory" not in kind else []
    weights = []
    for secretly in (False, True):
        if secretly:
            monkeypatch.setattr("plexp.plugins.env.gymnasium.stack_frames", Secretly)
            if sees == "image":  # stacks of images of three axes are images by their space alone
                monkeypatch.setattr("plexp.envs.spaces.StackedSpace", spaces.Box)
        with build(*options) as experiment:
            assert frames_of(experiment.training_env.single_observation_space) == (1 if secretly else 3)
            train(experiment, 6)
            weights.append(torch.cat([p.detach().reshape(-1) for p in experiment.agent.parameters()]))
    assert torch.equal(*weights)


def test_what_cannot_be_stacked_is_refused_in_one_line(build: Build) -> None:
    for sees in ("dict", "discrete"):
        with pytest.raises(ConfigError, match=r"env.frame_stack=2: the observations are .*, no arrays; leave it out"):
            build(*ANY, f"+env.kwargs.sees={sees}", "+env.kwargs.acts=discrete", "env.frame_stack=2")


def test_a_stack_of_one_frame_is_an_observation() -> None:
    env = stack_frames(gymnasium.make("CartPole-v1"), 1)
    assert env.observation_space.shape == (1, 4) and frames_of(env.observation_space) == 1
    rows = np.zeros((5, 1, 4))
    assert newest(rows, frames_of(env.observation_space)) is rows
    assert newest(np.arange(16).reshape(2, 2, 4), 2).tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]


@pytest.mark.parametrize("net", ["mlp", "gru"])
def test_a_resumed_collector_goes_on_with_its_frames_and_its_state(net: str, build: Build) -> None:
    options = ("env=cartpole", "env.frame_stack=3", f"net={net}", "env.num_envs=2")
    options += ("algo.num_steps=7", "algo.num_minibatches=1", "compile=false")
    with build(*options) as first, build(*options) as second:
        for _ in range(3):
            first.trainer.collector.collect()
        second.trainer.collector.load_state_dict(copied(first.trainer.collector.state_dict()))
        assert not second.trainer.collector.not_replayed
        one, two = (each.trainer.collector.collect() for each in (first, second))
        assert len(torch.unique(one.earlier)) > 4 and torch.equal(one.earlier, two.earlier)
        assert torch.equal(whole_observations(one)[0], whole_observations(two)[0])
        if net == "gru":
            assert one.states[0].any() and torch.equal(one.states[0], two.states[0])
