"""Tests of the episode log: every training episode can be re-simulated from its seed and its actions alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from safetensors.numpy import load_file, save_file

from plexp.envs.episodes import Episode
from plexp.errors import StoreError
from plexp.execution.callbacks.episode_log import EpisodeLog, action_type, episode_of
from plexp.execution.callbacks.recorder import Recorder
from plexp.execution.checkpoint import decode, encode
from plexp.execution.experiment import Experiment
from plexp.training.progress import TrainingProgress

PPO = ("algo=ppo", "algo.num_steps=32", "algo.num_minibatches=2", "algo.update_epochs=1")
A2C = ("algo=a2c", "algo.num_steps=5")
REINFORCE = ("algo=reinforce",)
RUNS = {
    "ppo cartpole": (*PPO, "env=cartpole"),
    "ppo lunarlander": (*PPO, "env=lunarlander", "env.max_episode_steps=60"),
    "ppo pendulum": (*PPO, "env=pendulum", "env.max_episode_steps=30"),
    "squashed ppo pendulum": (*PPO, "env=pendulum", "env.max_episode_steps=30", "policy.bounds=tanh"),
    "ppo acrobot": (*PPO, "env=acrobot", "env.max_episode_steps=40"),
    "a2c cartpole": (*A2C, "env=cartpole"),
    "a2c lunarlander": (*A2C, "env=lunarlander", "env.max_episode_steps=60"),
    "reinforce cartpole": (*REINFORCE, "env=cartpole"),
    "reinforce cartpole of 3": (*REINFORCE, "env=cartpole", "env.num_envs=3"),
    "reinforce acrobot of 3": (*REINFORCE, "env=acrobot", "env.max_episode_steps=40", "env.num_envs=3"),
    "reinforce lunarlander of 3": (*REINFORCE, "env=lunarlander", "env.max_episode_steps=60", "env.num_envs=3"),
}
SMALL = ("env.num_envs=4", "net.width=8", "total_timesteps=1200", "compile=false")
Build = Callable[..., Experiment]


class Interrupt(Exception):
    """Raised in the middle of a run."""


class Run:
    """An experiment with its episode log and recorder."""

    def __init__(self, experiment: Experiment, file: Path | None) -> None:
        self.experiment, self.progress = experiment, TrainingProgress()
        self.log = EpisodeLog(experiment.trainer.collector, file)
        self.recorder = Recorder(lambda metrics, step: None, 100, experiment.trainer.profile)

    @property
    def parts(self) -> dict[str, Any]:
        assert self.experiment.stateful is not None
        own = {"progress": self.progress, "log": self.log, "recorder": self.recorder}
        return {**self.experiment.stateful, **own}

    def train(self, until: int | None = None) -> None:
        """Train to the end, or raise Interrupt when so many episodes have ended."""

        class Stop:
            def on_start(self, progress: TrainingProgress) -> None: ...
            def on_end(self, progress: TrainingProgress) -> None: ...
            def on_iteration(self, progress: TrainingProgress) -> None:
                if until is not None and progress.episodes >= until:
                    raise Interrupt

        self.experiment.trainer.run([self.recorder, self.log, Stop()], self.progress)

    def state(self) -> bytes:
        return encode({name: part.state_dict() for name, part in self.parts.items()})

    def restore(self, data: bytes) -> None:
        state = decode(data)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

    def saved(self, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
        folder.mkdir(exist_ok=True)
        path = self.log.save(folder, self.experiment.streams.training)
        assert path is not None
        return load_file(path)


def check_all(run: Run, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Assert that all episodes are there and re-simulate with their lengths and returns; return the log."""
    saved, env = run.saved(folder), run.experiment.values["env"]
    rows = list(zip(*[iter(run.recorder.episodes)] * 5, strict=True))
    assert len(rows) == len(saved["seed"]) == run.progress.episodes > 0
    played = gymnasium.make(env["id"], max_episode_steps=env["max_episode_steps"])
    begin = 0
    for index, (_, total, length, environment, number) in enumerate(rows):
        assert (saved["environment"][index], saved["number"][index]) == (environment, number)
        assert saved["seed"][index] == run.experiment.streams.training(int(environment), int(number))
        assert saved["return"][index] == total and saved["length"][index] == length
        actions = saved["actions"][begin : begin + int(length)]
        begin += int(length)
        played.reset(seed=int(saved["seed"][index]))
        paid: list[float] = []
        for step, action in enumerate(actions, 1):
            wide = action if action.dtype.kind == "f" else int(action)  # a byte overflows in LunarLander
            _, reward, terminated, truncated, _ = played.step(wide)
            paid.append(float(reward))
            assert (terminated or truncated) == (step == length)
        assert math.isclose(math.fsum(paid), total, rel_tol=1e-12, abs_tol=1e-12)  # summed in another order
    assert begin == len(saved["actions"])
    return saved


@pytest.mark.parametrize("name", RUNS)
def test_every_training_episode_can_be_resimulated_also_after_an_interrupt(
    name: str, build: Build, tmp_path: Path
) -> None:
    settings = (*RUNS[name], *SMALL[:1] * ("of 3" not in name and "reinforce" not in name), *SMALL[1:])
    never = Run(build(*settings), tmp_path / "never")
    never.train()
    expected = check_all(never, tmp_path / "all")

    first = Run(build(*settings), tmp_path / "episodes")
    with pytest.raises(Interrupt):
        first.train(until=never.progress.episodes // 3)
    checkpoint = first.state()
    with pytest.raises(Interrupt):  # continue beyond the checkpoint, until it is killed
        first.train(until=never.progress.episodes * 2 // 3)
    first.state()
    second = Run(build(*settings), tmp_path / "episodes")
    second.restore(checkpoint)
    second.train()
    again = check_all(second, tmp_path / "again")
    assert again.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(again[key], tensor)


def test_actions_take_a_byte_and_checkpoints_hold_those_in_progress_only(build: Build, tmp_path: Path) -> None:
    run = Run(build(*RUNS["ppo cartpole"], *SMALL), tmp_path / "episodes")
    run.train()
    state = run.log.state_dict()
    in_progress = int(run.experiment.trainer.collector.lengths.sum())
    assert sum(state["lengths"]) == state["tails"].nbytes == in_progress < 300
    steps, episodes = run.progress.steps, run.progress.episodes
    assert (tmp_path / "episodes").stat().st_size == state["size"] == steps - in_progress + 28 * episodes
    path = run.log.save(tmp_path, run.experiment.streams.training)
    assert path is not None and path.stat().st_size < steps + 24 * episodes + 600


def test_an_interrupt_before_or_after_writing_leaves_the_log_correct(build: Build, tmp_path: Path) -> None:
    run = Run(build(*RUNS["a2c cartpole"], *SMALL), tmp_path / "episodes")
    append = run.log._append

    def torn(file: Path, data: bytes, size: int) -> int:
        append(file, data, size)
        raise KeyboardInterrupt

    run.log._append = torn  # type: ignore[method-assign]
    with pytest.raises(Interrupt):
        run.train(until=9)
    with pytest.raises(KeyboardInterrupt):
        run.log.state_dict()
    run.log._append = append  # type: ignore[method-assign]
    check_all(run, tmp_path / "saved")


def test_a_failed_write_is_reported_in_one_line_and_nothing_is_lost(build: Build, tmp_path: Path) -> None:
    run = Run(build(*RUNS["a2c cartpole"], *SMALL), tmp_path / "nowhere" / "episodes")
    with pytest.raises(Interrupt):
        run.train(until=9)
    with pytest.raises(
        StoreError, match=r"^outputs=.*nowhere: it cannot be written .*; make it one that you can write"
    ):
        run.log.state_dict()
    (tmp_path / "nowhere").mkdir()
    check_all(run, tmp_path / "saved")


@pytest.mark.parametrize("fault", ["gone", "shorter", "was off"])
def test_a_log_that_lost_its_beginning_records_nothing_rather_than_a_part(
    fault: str, build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, file = (*RUNS["a2c cartpole"], *SMALL), tmp_path / "episodes"
    first = Run(build(*settings), None if fault == "was off" else file)
    with pytest.raises(Interrupt):
        first.train(until=9)
    checkpoint = first.state()
    if fault == "gone":
        file.unlink()
    elif fault == "shorter":
        file.write_bytes(file.read_bytes()[:-1])
    second = Run(build(*settings), file)
    with caplog.at_level(logging.WARNING):
        second.restore(checkpoint)
    second.train()
    assert second.log.save(tmp_path, second.experiment.streams.training) is None
    assert [record.message for record in caplog.records] == [
        "the actions of earlier training episodes are missing, so those of later ones are not recorded either"
    ]
    assert not Run(build(*settings), None).log.state_dict()["size"]


def test_an_episode_that_could_not_be_resumed_is_not_in_the_log(build: Build, tmp_path: Path) -> None:
    settings = (*RUNS["ppo pendulum"], *SMALL)
    first = Run(build(*settings), tmp_path / "episodes")
    with pytest.raises(Interrupt):
        first.train(until=4)
    state = decode(first.state())
    state["collector"]["observations"][1] += 1  # environment 1 will differ when it is re-simulated
    second = Run(build(*settings), tmp_path / "episodes")
    second.restore(encode(state))
    assert second.experiment.trainer.collector.not_replayed == [1]
    second.train()
    numbers = [int(n) for _, _, _, i, n in zip(*[iter(second.recorder.episodes)] * 5, strict=True) if i == 1]
    missing = set(range(max(numbers))) - set(numbers)
    assert len(missing) == 1
    check_all(second, tmp_path / "saved")


def test_with_next_step_resets_no_actions_are_logged(build: Build, tmp_path: Path) -> None:
    experiment = build(*RUNS["a2c cartpole"], *SMALL)
    experiment.training_env.metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP
    collector = experiment.trainer.collector
    collector.adapter.same_step = False
    log = EpisodeLog(collector, tmp_path / "episodes")
    log.on_start(TrainingProgress())
    log.on_iteration(TrainingProgress())
    assert log.state_dict() == {"size": None}
    assert log.save(tmp_path, experiment.streams.training) is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(2), np.uint8),
        (spaces.Discrete(256), np.uint8),
        (spaces.Discrete(257), np.int16),
        (spaces.Discrete(3, start=-1), np.int8),
        (spaces.Discrete(200, start=-1), np.int16),
        (spaces.Discrete(70_000), np.int32),
        (spaces.MultiDiscrete([2, 300]), np.int16),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), np.int8),
        (spaces.MultiBinary(4), np.uint8),
        (spaces.Box(-1, 1, (2,), np.float64), np.float64),
        (spaces.Box(-1, 1, (2,), np.float16), np.float16),
        (spaces.Box(-1, 200, (2,), np.int64), np.int16),
    ],
)
def test_the_type_of_actions_is_the_smallest_that_holds_them(space: spaces.Space[Any], expected: Any) -> None:
    assert action_type(space) == np.dtype(expected)


@pytest.mark.parametrize(
    "acts", ["discrete", "multidiscrete", "multibinary", "box", "matrix", "doubles", "halves", "few integers"]
)
def test_actions_of_every_space_are_logged_as_the_environment_got_them(acts: str, build: Build, tmp_path: Path) -> None:
    spaces_of = ("env=gymnasium", "env.id=plexp-tests/Any2Any-v0", "+env.kwargs.sees=box", f"+env.kwargs.acts={acts}")
    run = Run(build(*A2C, *spaces_of, *SMALL[:3], "total_timesteps=200", "compile=false"), tmp_path / "episodes")
    given: list[np.ndarray[Any, Any]] = []
    step = run.experiment.training_env.step

    def spied(actions: np.ndarray[Any, Any]) -> Any:
        given.append(actions.copy())
        return step(actions)

    run.experiment.training_env.step = spied  # type: ignore[method-assign]
    run.train()
    saved = run.saved(tmp_path)
    table, lengths = np.stack(given), saved["length"]
    assert set(lengths.tolist()) == {6} and len(lengths) == 32
    for index, (environment, number) in enumerate(zip(saved["environment"], saved["number"], strict=True)):
        expected = table[number * 6 : (number + 1) * 6, environment]
        np.testing.assert_array_equal(saved["actions"][index * 6 : (index + 1) * 6], expected)


def test_an_episode_is_found_by_its_number_which_starts_at_one(tmp_path: Path) -> None:
    tensors = {
        "length": np.array([2, 3, 1], np.int32),
        "seed": np.array([7, 2**32 - 1, 9], np.uint32),
        "return": np.array([1.5, 2.5, 3.5]),
        "actions": np.arange(6, dtype=np.uint8),
    }
    save_file(tensors, tmp_path / "episodes.safetensors")
    found = [episode_of(tmp_path / "episodes.safetensors", number) for number in (1, 2, 3)]
    assert [(each.seed, each.actions.tolist(), each.total_reward) for each in found] == [
        (7, [0, 1], 1.5),
        (2**32 - 1, [2, 3, 4], 2.5),
        (9, [5], 3.5),
    ]
    for number in (0, 4, -1):
        with pytest.raises(IndexError, match="3"):
            episode_of(tmp_path / "episodes.safetensors", number)
    (tmp_path / "broken.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match=r"broken.safetensors cannot be read"):
        episode_of(tmp_path / "broken.safetensors", 1)


def test_the_collector_numbers_the_episodes_of_each_environment(build: Build) -> None:
    experiment = build(*RUNS["a2c cartpole"], *SMALL)
    finished: list[Episode] = []
    while len(finished) < 20:
        experiment.trainer.collector.collect()
        finished += experiment.trainer.collector.episodes
    for environment in range(4):
        numbers = [each.number for each in finished if each.environment == environment]
        assert numbers == list(range(len(numbers))) and numbers
