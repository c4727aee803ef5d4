"""Benchmark of a replay buffer of a million transitions: seconds of a checkpoint, memory, log on disk, seconds to restore.

    python tests/benchmarks/replay_memory.py                          # both kinds of buffer, about three minutes
    python tests/benchmarks/replay_memory.py --transitions 100000

The transitions have the shapes of LunarLander's, and are random. They go through the memory of a DQN with its log attached, two
million of them, as many at a time as an update of DQN has. A checkpoint is all that stops the training: copying the states,
waiting for the log, writing the file, trimming the log. Memory is the most that the process had, less what it had with torch
before it imported plexp and made the buffer. The log's size is the largest of all checkpoints', before trimming.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import torch

if TYPE_CHECKING:
    from plexp.training.replay.memory import ReplayMemory
    from plexp.training.types import Trajectory

SHAPE, ACTIONS = (8,), 4
"""LunarLander's: shape of an observation, and number of actions."""
EPISODE = 250
"""Mean length of an episode."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=common.OUTPUT)
    options = parser.parse_args()
    results = {}
    for replay in ("uniform", "prioritized"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # whose memory is its own
            results[replay] = process.submit(measure, replay, options.transitions).result()
    rows = [[name, *(f"{found[name]:.3g}" for found in results.values())] for name in results["uniform"]]
    common.show(f"a replay buffer of {options.transitions:,} transitions", ["", *results], rows)
    common.save(options.output, "replay_memory", {"transitions": options.transitions, **results})


def measure(replay: str, transitions: int) -> dict[str, float]:
    """Return the figures of one kind of buffer."""
    before = memory_so_far()
    overrides = ["algo=dqn", "env=lunarlander", f"replay={replay}", f"replay.capacity={transitions}", "compile=false"]
    with common.make_experiment(overrides) as experiment, tempfile.TemporaryDirectory() as name:
        from plexp.execution import checkpoint
        from plexp.execution.callbacks.checkpointer import Checkpointer
        from plexp.training.progress import TrainingProgress
        from plexp.training.replay.log import SEGMENT_BYTES

        folder, memory, parts = Path(name), experiment.memory, experiment.stateful
        assert memory is not None and parts is not None
        memory.attach(folder / "replay")
        every, num_envs = experiment.config.checkpoint.every, memory.spec.num_envs
        assert every is not None
        sizes, files, seconds = [], [], []

        def write(state: checkpoint.State, steps: int) -> None:
            """Write a checkpoint, as a run does."""
            memory.sync()
            sizes.append(size_of(folder / "replay"))
            files.append(checkpoint.save(folder / "checkpoints", state, steps))
            memory.trim(state["memory"], checkpoint.KEPT)

        progress = TrainingProgress()
        checkpointer = Checkpointer(parts, write, every, experiment.trainer.profile)
        checkpointer.on_start(progress)
        stream = trajectories(np.random.default_rng(0), experiment.trainer.algorithm.num_steps, num_envs)
        while progress.steps < 2 * transitions:
            memory.add(next(stream))
            progress.steps = memory.buffer.added * num_envs
            if progress.steps % every < num_envs * experiment.trainer.algorithm.num_steps:
                began = time.perf_counter()
                checkpointer.on_iteration(progress)
                seconds.append(time.perf_counter() - began)
        used = memory_so_far() - before
        began = time.perf_counter()
        for part in parts.values():
            checkpoint.copied(part.state_dict())
        copying = time.perf_counter() - began
        step_bytes = size_of(folder / "replay") / (memory.buffer.added - first_row(folder / "replay")) / num_envs
        return {
            "checkpoint (s)": statistics.median(seconds[len(seconds) // 2 :]),
            "longest (s)": max(seconds),
            "of it copying (s)": copying,
            "file (MB)": files[-1].stat().st_size / 1e6,
            "buffer (MB)": type(memory.buffer).nbytes(transitions, memory.spec) / 1e6,
            "memory (MB)": used,
            "log (MB)": max(sizes) / 1e6,
            "bound of the log (MB)": (step_bytes * (transitions + 2 * every) + SEGMENT_BYTES) / 1e6,
            "restoring (s)": seconds_to_restore(memory, files[-1], folder / "replay"),
        }


def seconds_to_restore(memory: ReplayMemory, file: Path, folder: Path) -> float:
    """Return the seconds that a resumed run needs to fill its buffer again from a checkpoint and the log."""
    from plexp.execution.checkpoint import decode
    from plexp.training.replay.memory import ReplayMemory

    again = ReplayMemory(_Same(memory.buffer), memory.spec)
    again.attach(folder)
    state = decode(file.read_bytes())["memory"]
    began = time.perf_counter()
    again.load_state_dict(state)
    seconds = time.perf_counter() - began
    assert len(again.buffer) == len(memory.buffer)
    return seconds


class _Same:
    """A replay plugin that makes another buffer like one."""

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.capacity = buffer, buffer.rows * buffer.num_envs

    def make(self, spec: Any) -> Any:
        return type(self.buffer)(self.capacity, spec)


def trajectories(rng: np.random.Generator, steps: int, num_envs: int, different: int = 500) -> Iterator[Trajectory]:
    """Yield random trajectories, each continuing the one before, whose episodes end with probability 1 / EPISODE."""
    from plexp.training.types import Trajectory

    rows = steps * different + 1
    observations = torch.from_numpy(rng.normal(size=(rows, num_envs, *SHAPE)).astype(np.float32))
    observations[-1] = observations[0]
    ends = torch.from_numpy(rng.random((rows, num_envs)) < 1 / EPISODE)
    chosen = []
    for begin in range(0, rows - 1, steps):
        part = slice(begin, begin + steps)
        index = ends[part].reshape(-1).nonzero().squeeze(1)
        chosen.append(
            Trajectory(
                observations=observations[part],
                actions=torch.from_numpy(rng.integers(ACTIONS, size=(steps, num_envs))),
                rewards=torch.from_numpy(rng.normal(size=(steps, num_envs)).astype(np.float32)),
                terminated=ends[part],
                truncated=torch.zeros_like(ends[part]),
                valid=torch.ones_like(ends[part]),
                last_observations=observations[begin + steps],
                final_observations=torch.from_numpy(rng.normal(size=(len(index), *SHAPE)).astype(np.float32)),
                final_index=index,
            )
        )
    while True:
        yield from chosen


def size_of(folder: Path) -> int:
    """Return the bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def first_row(folder: Path) -> int:
    """Return the first row that a log has."""
    return int(min(folder.iterdir()).stem.removeprefix("rows-"))


def memory_so_far() -> float:
    """Return the most memory that this process had in use, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
