"""The log of training episodes: each as its seed and its actions, so that it can be re-simulated.

While a run trains, a file in its folder grows by the episodes that end: a head (environment, number, length, return) and the
actions, in the smallest type that holds them. A checkpoint has the file's length, and a resumed run cuts the file there. At the
end it becomes `episodes.safetensors` in MLflow, with the rows of `episodes.csv` in the same order.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from plexp.envs.environment import Array, EpisodeSeed
from plexp.envs.episodes import Episode, PlayedEpisode
from plexp.errors import one_line, writing
from plexp.training.collector import Collector
from plexp.training.progress import TrainingProgress

NAME = "episodes.safetensors"
HEAD = struct.Struct("<iqqd")
ROWS = 1 << 16
"""Environment steps that wait in memory at most; a larger number writes less often."""

log = logging.getLogger("plexp")


class Waiting(NamedTuple):
    """The episodes of a trajectory that are not written yet."""

    actions: Tensor
    valid: Array
    finished: Sequence[Episode]


class Written(NamedTuple):
    """State of the log, replaced as a whole, so that an interrupt finds it consistent."""

    size: int
    """Number of bytes of the file that count."""
    tails: list[Array]
    """Actions [L, *space.shape] of each environment's episode in progress."""
    waiting: list[Waiting]
    """Trajectories that are not written yet."""


class EpisodeLog:
    """Callback that logs each finished episode's environment, number, and actions as the environment got them.

    Args:
        collector: plays the episodes. Nothing is logged if they have no seeds of their own (NEXT_STEP resets, as EnvPool's).
        file: where to log; None: nothing is logged.

    Raises StoreError on a full disk.
    """

    def __init__(self, collector: Collector, file: Path | None) -> None:
        env, self.collector = collector.adapter.env, collector
        self.file = file if collector.adapter.same_step else None
        self.shape, self.dtype = env.single_action_space.shape or (), action_type(env.single_action_space)
        self.rows, self.written = 0, Written(0, self._no_actions(), [])

    def on_start(self, progress: TrainingProgress) -> None: ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        if self.file is not None:
            actions, valid = self.collector.played
            self.written.waiting.append(Waiting(actions, valid, progress.finished))
            self.rows += valid.size
            if self.rows >= ROWS:
                self._write(self.file)

    def on_end(self, progress: TrainingProgress) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        if self.file is None:
            return {"size": None}
        self._write(self.file)
        tails = self.written.tails
        return {"size": self.written.size, "lengths": [len(t) for t in tails], "tails": np.concatenate(tails)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the recorded length of the file; if the file is shorter, no episodes are logged any more."""
        size = state_dict["size"]
        if self.file is None:
            return
        if size is None or (self.file.stat().st_size if self.file.exists() else 0) < size:
            log.warning(
                "the actions of earlier training episodes are missing, so those of later ones are not recorded either"
            )
            self.file = None
            return
        ends = np.cumsum(state_dict["lengths"])[:-1]
        tails = [tail.copy() for tail in np.split(state_dict["tails"], ends)]
        for index in self.collector.not_replayed:
            tails[index] = tails[index][:0]  # another one has begun there
        self.written = Written(size, tails, [])

    def sync(self) -> None:
        """Wait until the file survives a power cut."""
        if self.file is not None and self.file.exists():
            with self.file.open("rb") as file:
                os.fsync(file)

    def save(self, folder: Path, seed: EpisodeSeed) -> Path | None:
        """Write `episodes.safetensors` into a folder, and return its path; None if no episodes are logged."""
        if self.file is None:
            return None
        self._write(self.file)
        data = self.file.read_bytes() if self.file.exists() else b""
        heads, parts, at = [], [np.zeros((0, *self.shape), self.dtype)], 0
        while at < self.written.size:
            head = HEAD.unpack_from(data, at)
            at += HEAD.size
            count = head[2] * int(np.prod(self.shape, dtype=int))
            parts.append(np.frombuffer(data, self.dtype, count, at).reshape(-1, *self.shape))
            at += parts[-1].nbytes
            heads.append(head)
        environments, numbers, lengths, returns = zip(*heads, strict=True) if heads else ((), (), (), ())
        seeds = [seed(environment, number) for environment, number in zip(environments, numbers, strict=True)]
        tensors: dict[str, Array] = {
            "environment": np.array(environments, np.int32),
            "number": np.array(numbers, np.int32),
            "seed": np.array(seeds, np.uint32),
            "length": np.array(lengths, np.int32),
            "return": np.array(returns, np.float64),
            "actions": np.concatenate(parts),
        }
        save_file(tensors, folder / NAME)
        return folder / NAME

    def _no_actions(self) -> list[Array]:
        return [np.zeros((0, *self.shape), self.dtype)] * self.collector.adapter.num_envs

    def _write(self, file: Path) -> None:
        size, tails, waiting = self.written
        if not waiting:
            return
        sampled = torch.cat([trajectory.actions for trajectory in waiting])
        valid = np.concatenate([trajectory.valid for trajectory in waiting])
        actions = self.collector.policy.distribution.to_environment(sampled.flatten(0, 1)).numpy()
        table = actions.astype(self.dtype).reshape(*valid.shape, *self.shape)
        streams = [np.concatenate([tail, table[valid[:, i], i]]) for i, tail in enumerate(tails)]
        begins, chunks = [0] * len(streams), []
        for episode in (episode for trajectory in waiting for episode in trajectory.finished):
            i, begin = episode.environment, begins[episode.environment]
            begins[i] += episode.length
            chunks.append(HEAD.pack(i, episode.number, episode.length, episode.total_reward))
            chunks.append(streams[i][begin : begins[i]].tobytes())
        size += self._append(file, b"".join(chunks), size)
        self.rows = 0
        self.written = Written(size, [stream[n:].copy() for stream, n in zip(streams, begins, strict=True)], [])

    def _append(self, file: Path, data: bytes, size: int) -> int:
        """Write at this length of the file, over whatever a failed attempt has left, and return the number of bytes."""
        remedy = "make it one that you can write, or give tracker.log_actions=false"
        with (
            writing("outputs", file.parent, remedy),
            file.open("r+b" if file.exists() else "wb", buffering=0) as opened,
        ):
            opened.truncate(size)
            opened.seek(size)
            if opened.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


def action_type(space: spaces.Space[Any]) -> np.dtype[Any]:
    """Return the smallest type that holds every action of a space: an integer, or that of a Box of floats."""
    match space:
        case spaces.Discrete():
            bounds = (int(space.start), int(space.start + space.n - 1))
        case spaces.MultiDiscrete():
            bounds = (int(np.min(space.start)), int(np.max(space.start + space.nvec - 1)))
        case spaces.MultiBinary():
            bounds = (0, 1)
        case spaces.Box() if np.issubdtype(space.dtype, np.integer):
            bounds = (int(space.low.min()), int(space.high.max()))
        case _:
            return np.dtype(space.dtype)
    types = (np.uint8, np.int8, np.int16, np.int32, np.int64)
    fitting = (kind for kind in types if np.iinfo(kind).min <= bounds[0] and bounds[1] <= np.iinfo(kind).max)
    return np.dtype(next(fitting))


def episode_of(file: Path, number: int) -> PlayedEpisode:
    """Return a training episode, by its number from 1, from a file of `EpisodeLog.save`, without reading others' actions.

    Raises IndexError, with the number of episodes, if there is no such episode; ValueError for another file.
    """
    try:
        with safe_open(file, framework="numpy") as tensors:
            lengths = tensors.get_tensor("length")
            if not 1 <= number <= len(lengths):
                raise IndexError(len(lengths))
            end = int(lengths[:number].sum(dtype=np.int64))
            actions = tensors.get_slice("actions")[end - int(lengths[number - 1]) : end]
            seed, total = tensors.get_tensor("seed")[number - 1], tensors.get_tensor("return")[number - 1]
    except SafetensorError as error:
        raise ValueError(f"{file.name} cannot be read ({one_line(error)})") from error
    return PlayedEpisode(int(seed), actions, float(total))
