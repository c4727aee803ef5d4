"""Every training episode as its seed and its actions, so that it can be played again: in the run's folder, then in MLflow.

While a run trains, a file of its folder grows by the episodes that end: a head (environment, number, length, return) and the
actions, in the smallest type that holds them. A checkpoint says how long the file was, and a run that is taken up cuts it
there. At the end it becomes `episodes.safetensors`, the rows of `episodes.csv` in the same order.
"""

from __future__ import annotations

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
from plexp.errors import Problem, StoreError, one_line
from plexp.training.collector import Collector
from plexp.training.progress import TrainingProgress

NAME = "episodes.safetensors"
HEAD = struct.Struct("<iqqd")
ROWS = 1 << 16
"""Steps that wait in memory at most; a larger number writes less often."""

log = logging.getLogger("plexp")


class Waiting(NamedTuple):
    """A rollout that is not written yet."""

    actions: Tensor
    valid: Array
    finished: Sequence[Episode]


class Written(NamedTuple):
    """What became of all rollouts so far. Replaced as a whole, so that an interrupt finds it right."""

    size: int
    """Bytes of the file that count."""
    tails: list[Array]
    """Of each environment the actions [L, *space.shape] of its episode in progress."""
    waiting: list[Waiting]


class EpisodeLog:
    """Keeps each finished episode's environment, number and actions as the environment got them; None writes nothing.

    Nor does it where episodes have no seed of their own (NEXT_STEP resets, as EnvPool's). Raises StoreError on a full disk.
    """

    def __init__(self, collector: Collector, file: Path | None) -> None:
        env, self.collector = collector.adapter.env, collector
        self.file = file if collector.adapter.same_step else None
        self.shape, self.dtype = env.single_action_space.shape or (), kept_type(env.single_action_space)
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
        """Goes on at that length of the file; where the file is not so long any more, no episodes are kept."""
        size = state_dict["size"]
        if self.file is None:
            return
        if size is None or (self.file.stat().st_size if self.file.exists() else 0) < size:
            log.warning("the actions of earlier training episodes were not kept, so those of later ones are not either")
            self.file = None
            return
        ends = np.cumsum(state_dict["lengths"])[:-1]
        tails = [tail.copy() for tail in np.split(state_dict["tails"], ends)]
        for index in self.collector.not_replayed:
            tails[index] = tails[index][:0]  # another one has begun there
        self.written = Written(size, tails, [])

    def sync(self) -> None:
        """Return when the file survives a power cut."""
        if self.file is not None and self.file.exists():
            with self.file.open("rb") as file:
                os.fsync(file)

    def save(self, folder: Path, seed: EpisodeSeed) -> Path | None:
        """Write `episodes.safetensors` into a folder; None if no episodes are kept."""
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

    def remove(self) -> None:
        """The file of a run that has come to its end."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def _no_actions(self) -> list[Array]:
        return [np.zeros((0, *self.shape), self.dtype)] * self.collector.adapter.num_envs

    def _write(self, file: Path) -> None:
        size, tails, waiting = self.written
        if not waiting:
            return
        sampled, valid = torch.cat([each.actions for each in waiting]), np.concatenate([each.valid for each in waiting])
        given = self.collector.agent.distribution.to_environment(sampled.flatten(0, 1)).numpy()
        table = given.astype(self.dtype).reshape(*valid.shape, *self.shape)
        streams = [np.concatenate([tail, table[valid[:, i], i]]) for i, tail in enumerate(tails)]
        begins, chunks = [0] * len(streams), []
        for episode in (episode for each in waiting for episode in each.finished):
            i, begin = episode.environment, begins[episode.environment]
            begins[i] += episode.length
            chunks.append(HEAD.pack(i, episode.number, episode.length, episode.total_reward))
            chunks.append(streams[i][begin : begins[i]].tobytes())
        size += self._append(file, b"".join(chunks), size)
        self.rows = 0
        self.written = Written(size, [stream[n:].copy() for stream, n in zip(streams, begins, strict=True)], [])

    def _append(self, file: Path, data: bytes, size: int) -> int:
        """Write at that size of the file, whatever an earlier attempt has left behind it."""
        try:
            with file.open("r+b" if file.exists() else "wb", buffering=0) as opened:
                opened.truncate(size)
                opened.seek(size)
                if opened.write(data) != len(data):
                    raise OSError("No space left on device")
        except OSError as error:
            cause = f"no training episode can be kept ({one_line(error)})"
            remedy = "choose a folder that can be written and has space, or give tracker.log_actions=false"
            raise StoreError(str(Problem("outputs", file.parent, cause, remedy))) from None
        return len(data)


def kept_type(space: spaces.Space[Any]) -> np.dtype[Any]:
    """The smallest type that holds every action of a space: float32 of a Box, else an integer."""
    match space:
        case spaces.Discrete():
            bounds = (int(space.start), int(space.start + space.n - 1))
        case spaces.MultiDiscrete():
            bounds = (int(np.min(space.start)), int(np.max(space.start + space.nvec - 1)))
        case spaces.MultiBinary():
            bounds = (0, 1)
        case _:
            return np.dtype(np.float32)
    types = (np.uint8, np.int8, np.int16, np.int32, np.int64)
    fitting = (each for each in types if np.iinfo(each).min <= bounds[0] and bounds[1] <= np.iinfo(each).max)
    return np.dtype(next(fitting))


def episode_of(file: Path, number: int) -> PlayedEpisode:
    """The `number`-th training episode, from 1 on, of a file that `EpisodeLog.save` wrote; reads no other's actions.

    Raises IndexError, with how many there are, if there is no such episode, ValueError if it is no such file.
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
