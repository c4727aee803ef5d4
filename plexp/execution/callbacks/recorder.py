"""The callback that records metrics of the training on a grid of environment steps."""

from __future__ import annotations

import statistics
from array import array
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from plexp.training.progress import Profile, TrainingProgress


class Log(Protocol):
    """A function that records metrics at an environment step."""

    def __call__(self, metrics: Mapping[str, float], step: int) -> None: ...


class StepSchedule:
    """A grid of environment steps, the same for every seed, whatever the lengths of rollouts and episodes.

    Args:
        every: distance of two grid points; None: there are none.
    """

    def __init__(self, every: int | None) -> None:
        self.every, self.last = every, 0

    def passed(self, steps: int) -> range:
        """Return the grid points that were reached since the last call."""
        if self.every is None:
            return range(0)
        first, self.last = self.last + self.every, steps // self.every * self.every
        return range(first, self.last + 1, self.every)


class Recorder:
    """Records `train/` and `time/` metrics: at each grid point the mean since the last one.

    Args:
        log: records metrics at a step.
        every: environment steps between two grid points.
        profile: seconds by activity.
    """

    COLUMNS = ("steps", "return", "length", "environment", "environment_episode")
    """Columns of `episodes.csv`: steps so far; the episode's return and length; its environment, and its number there."""

    def __init__(self, log: Log, every: int, profile: Profile) -> None:
        self.log, self.grid, self.profile = log, StepSchedule(every), profile
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.episodes = array("d")
        """The `COLUMNS` of every training episode, one after the other."""
        self.start = (0, 0.0)
        """Environment steps and seconds at the last grid point."""

    def on_start(self, progress: TrainingProgress) -> None: ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        for name, value in progress.metrics.items():
            self.sums[f"train/{name}"].append(value)
        for episode in progress.finished:
            self.sums["train/episode_return"].append(episode.total_reward)
            self.sums["train/episode_length"].append(episode.length)
            self.episodes.extend((progress.steps, episode.total_reward, episode.length))
            self.episodes.extend((episode.environment, episode.number))
        points = self.grid.passed(progress.steps)
        if points:
            self._write(progress, points)

    def on_end(self, progress: TrainingProgress) -> None:
        if self.sums and not self.grid.last:  # a run shorter than one interval; a later rest would lie off the grid
            self._write(progress, range(progress.steps, progress.steps + 1))

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.grid.last, "sums": self.sums, "episodes": np.array(self.episodes), "start": self.start}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.grid.last, self.start = state_dict["last"], tuple(state_dict["start"])
        self.sums.update(state_dict["sums"])
        self.episodes = array("d", state_dict["episodes"].tobytes())

    def episodes_as_csv(self) -> str:
        """Return every training episode as a line of CSV, in the order in which they ended."""
        rows = zip(*[iter(self.episodes)] * len(self.COLUMNS), strict=True)
        lines = [f"{int(steps)},{total:g},{','.join(str(int(n)) for n in rest)}\n" for steps, total, *rest in rows]
        return ",".join(self.COLUMNS) + "\n" + "".join(lines)

    def _write(self, progress: TrainingProgress, points: range) -> None:
        means = {name: statistics.fmean(values) for name, values in self.sums.items()}
        steps, seconds = progress.steps - self.start[0], progress.seconds - self.start[1]
        means |= {"train/episodes": progress.episodes, "time/seconds": progress.seconds}
        means["time/steps_per_second"] = steps / max(seconds, 1e-9)
        means |= {f"time/{part}": spent for part, spent in vars(self.profile).items()}
        for step in points:
            self.log(means, step)
        self.sums.clear()
        self.start = (progress.steps, progress.seconds)
