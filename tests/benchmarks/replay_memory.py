"""Benchmark of a replay buffer of a million transitions: seconds of a checkpoint, memory, log on disk, seconds to restore.

    python tests/benchmarks/replay_memory.py                          # both kinds of buffer, about a minute
    python tests/benchmarks/replay_memory.py --transitions 100000

The transitions have the shapes of LunarLander's, are random, and go through the run's memory with its log attached. A
checkpoint is what stops the training: copying the states of learner and memory, waiting for the log, and writing the file.
Memory is that of the process, less what it had before the buffer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

ROWS = 64
"""Steps of each environment in a trajectory."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=common.OUTPUT)
    options = parser.parse_args()
    results = {name: measure(name, options.transitions) for name in ("uniform", "prioritized")}
    columns = list(next(iter(results.values())))
    rows = [[name, *(f"{found[column]:.3g}" for column in columns)] for name, found in results.items()]
    common.show(f"a replay buffer of {options.transitions:,} transitions", ["replay", *columns], rows)
    common.save(options.output, "replay_memory", {"transitions": options.transitions, **results})


def measure(replay: str, transitions: int) -> dict[str, float]:
    """Return the figures of one kind of buffer."""
    from plexp.execution.checkpoint import copied, decode, encode, save
    from plexp.training.replay.memory import ReplayMemory

    memory_before = resident()
    overrides = [f"replay={replay}", f"replay.capacity={transitions}", "compile=false"]
    with common.make_experiment(["algo=dqn", "env=lunarlander", *overrides]) as experiment:
        memory = experiment.memory
        assert memory is not None
        rng = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder:
            memory.attach(Path(folder))
            trajectory = random_trajectory(rng, memory.spec.num_envs)
            states, seconds = [], []
            while memory.buffer.added * memory.spec.num_envs < 2 * transitions:
                memory.add(trajectory)
                if memory.buffer.added % (transitions // memory.spec.num_envs // 8) < ROWS:
                    began = time.perf_counter()
                    learner = experiment.stateful["learner"] if experiment.stateful else None
                    assert learner is not None
                    states.append(copied({"memory": memory.state_dict(), "learner": learner.state_dict()}))
                    memory.sync()
                    save(Path(folder) / "checkpoints", states[-1], memory.buffer.added)
                    seconds.append(time.perf_counter() - began)
                    memory.trim(states[-1]["memory"])
                    states = states[-1:]
            encoded = encode(states[-1])
            disk = sum(path.stat().st_size for path in Path(folder).glob("rows-*"))
            used = resident() - memory_before
            spec = memory.spec
            buffer_bytes = type(memory.buffer).nbytes(transitions, *spec)
            again = ReplayMemory(_Same(memory.buffer), spec)
            again.attach(Path(folder))
            began = time.perf_counter()
            again.load_state_dict(decode(encoded)["memory"])
            restored = time.perf_counter() - began
            assert len(again.buffer) > 0.99 * transitions
            memory.remove()
            left = len(list(Path(folder).glob("rows-*")))
    assert not left
    return {
        "checkpoint (s)": statistics.median(seconds),
        "longest (s)": max(seconds),
        "file (MB)": len(encoded) / 1e6,
        "buffer (MB)": buffer_bytes / 1e6,
        "memory (MB)": used,
        "log (MB)": disk / 1e6,
        "restoring (s)": restored,
    }


class _Same:
    """A replay plugin that makes another buffer like one."""

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.capacity = buffer, buffer.rows * buffer.num_envs

    def make(self, spec: Any) -> Any:
        return type(self.buffer)(self.capacity, *spec)


def random_trajectory(rng: np.random.Generator, num_envs: int) -> Any:
    """Return a trajectory with LunarLander's shapes, in which no episode ends."""
    from plexp.training.types import Trajectory

    shape = (ROWS, num_envs)
    none = torch.zeros(shape, dtype=torch.bool)
    observations = torch.from_numpy(rng.normal(size=(*shape, 8)).astype(np.float32))
    return Trajectory(
        observations=observations,
        actions=torch.from_numpy(rng.integers(4, size=shape)),
        rewards=torch.from_numpy(rng.normal(size=shape).astype(np.float32)),
        terminated=none,
        truncated=none,
        valid=~none,
        last_observations=observations[0].clone(),
        final_observations=torch.zeros(0, 8),
        final_index=torch.zeros(0, dtype=torch.int64),
    )


def resident() -> float:
    """Return the memory that this process has in use, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
