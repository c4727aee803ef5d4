"""What listens to a run: the record on its grid, evaluation, the progress bar."""

from __future__ import annotations

import statistics
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from plexp.errors import Pruned
from plexp.evaluation import EvaluationResult
from plexp.trainer import Progress
from plexp.types import Metrics


class Log(Protocol):
    """Where metrics go."""

    def __call__(self, metrics: Mapping[str, float], step: int) -> None: ...


class Film(Protocol):
    """Films an evaluation: its result, its number, and the step that it belongs to (None: the last one of a run)."""

    def __call__(self, result: EvaluationResult, index: int, step: int | None) -> None: ...


class Grid:
    """Multiples of `every` steps: the same for every seed, however long its rollouts and episodes are."""

    def __init__(self, every: int | None) -> None:
        self.every, self.last = every, 0

    def passed(self, steps: int) -> range:
        """The grid points that were reached since the last call."""
        if self.every is None:
            return range(0)
        first, self.last = self.last + self.every, steps // self.every * self.every
        return range(first, self.last + 1, self.every)


class Recorder:
    """Logs `train/` and `time/` metrics: at each grid point the mean since the last one."""

    COLUMNS = ("steps", "return", "length", "environment", "environment_episode")
    """Environment steps so far; the episode's return and length; which environment, and which of its episodes it was."""

    def __init__(self, log: Log, every: int) -> None:
        self.log, self.grid = log, Grid(every)
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.episodes = array("d")
        """Of every training episode, one after the other, its `COLUMNS`."""
        self.start = (0, 0.0)

    def on_start(self, progress: Progress) -> None: ...

    def on_iteration(self, progress: Progress, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self.sums[f"train/{name}"].append(value)
        for episode in progress.finished:
            self.sums["train/episode_return"].append(episode.total_reward)
            self.sums["train/episode_length"].append(episode.length)
            self.episodes.extend((progress.steps, episode.total_reward, episode.length))
            self.episodes.extend((episode.environment, episode.number))
        points = self.grid.passed(progress.steps)
        if points:
            self._write(progress, points)

    def on_end(self, progress: Progress) -> None:
        if self.sums and not self.grid.last:  # a run shorter than one interval; a later rest would lie off the grid
            self._write(progress, range(progress.steps, progress.steps + 1))

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.grid.last, "sums": self.sums, "episodes": np.array(self.episodes), "start": self.start}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.grid.last, self.start = state_dict["last"], tuple(state_dict["start"])
        self.sums.update(state_dict["sums"])
        self.episodes = array("d", state_dict["episodes"].tobytes())

    def episodes_as_csv(self) -> str:
        """The `COLUMNS` of every training episode, in the order in which they ended."""
        rows = zip(*[iter(self.episodes)] * len(self.COLUMNS), strict=True)
        lines = [f"{int(steps)},{total:g},{','.join(str(int(n)) for n in rest)}\n" for steps, total, *rest in rows]
        return ",".join(self.COLUMNS) + "\n" + "".join(lines)

    def _write(self, progress: Progress, points: range) -> None:
        means = {name: statistics.fmean(values) for name, values in self.sums.items()}
        steps, seconds = progress.steps - self.start[0], progress.seconds - self.start[1]
        means |= {"train/episodes": progress.episodes, "time/seconds": progress.seconds}
        means["time/steps_per_second"] = steps / max(seconds, 1e-9)
        means |= {f"time/{part}": spent for part, spent in vars(progress.profile).items()}
        for step in points:
            self.log(means, step)
        self.sums.clear()
        self.start = (progress.steps, progress.seconds)


class Evaluator:
    """Greedy evaluations at fixed steps, and a last one of `final_episodes`; keeps the learning curve.

    A rollout that passes several grid points is evaluated once and logged at each: it is the agent one had there.
    """

    def __init__(
        self,
        evaluate: Callable[[int, int], EvaluationResult],
        log: Log,
        *,
        every: int | None,
        episodes: int,
        final_episodes: int,
        solved_return: float | None,
        stop_when_solved: bool,
        film: Film | None = None,
    ) -> None:
        self.film = film
        self.evaluate, self.log, self.grid = evaluate, log, Grid(every)
        self.episodes, self.final_episodes = episodes, final_episodes
        self.solved_return, self.stop_when_solved = solved_return, stop_when_solved
        self.count = 0
        self.curve: list[tuple[int, float]] = []
        """(step, mean return) of each evaluation on the grid."""
        self.seconds: list[float] = []
        """Of training until each of them."""
        self.solved_at: int | None = None
        """The first grid point after the start whose mean return reached `solved_return`."""
        self.final: EvaluationResult | None = None

    def on_start(self, progress: Progress) -> None:
        if self.grid.every is not None and not self.count:
            self._evaluate(range(1), progress)

    def on_iteration(self, progress: Progress, metrics: Metrics) -> None:
        points = self.grid.passed(progress.steps)
        if points:
            self._evaluate(points, progress)

    def on_end(self, progress: Progress) -> None:
        self.final = self.evaluate(self.count, self.final_episodes)
        mean, deviation = float(self.final.returns.mean()), float(self.final.returns.std())
        self.log({"eval/final_return": mean, "eval/final_return_std": deviation}, progress.steps)
        if self.film is not None:
            self.film(self.final, self.count, None)

    def state_dict(self) -> dict[str, Any]:
        names = ("count", "curve", "seconds", "solved_at")
        return {"last": self.grid.last, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.grid.last, self.count = state_dict["last"], state_dict["count"]
        self.curve = [(step, mean) for step, mean in state_dict["curve"]]
        self.seconds, self.solved_at = state_dict["seconds"], state_dict["solved_at"]

    def _evaluate(self, points: range, progress: Progress) -> None:
        began = progress.profile.now()
        result = self.evaluate(self.count, self.episodes)
        if self.film is not None:
            self.film(result, self.count, points[-1])
        progress.profile.add("evaluation", began)
        self.count += 1
        mean = float(result.returns.mean())
        metrics = {"eval/return": mean, "eval/return_std": float(result.returns.std())}
        metrics |= {"eval/length": float(result.lengths.mean()), "eval/seconds": progress.seconds}
        for step in points:
            self.log(metrics, step)
            self.curve.append((step, mean))
            self.seconds.append(progress.seconds)
        solved = self.solved_return is not None and mean >= self.solved_return and progress.steps > 0
        if solved and self.solved_at is None:
            self.solved_at = points[0]
            progress.stopped |= self.stop_when_solved


class Pruning:
    """Raises Pruned when the search to which a run belongs gives it up, at one of its evaluations."""

    def __init__(self, judge: Callable[[Sequence[tuple[int, float]], float], str | None], evaluator: Evaluator) -> None:
        self.judge, self.evaluator, self.seen = judge, evaluator, 0

    def on_start(self, progress: Progress) -> None:
        if len(curve := self.evaluator.curve) > self.seen:
            self.seen = len(curve)
            if why := self.judge(curve, progress.fraction):
                raise Pruned(why, progress.steps)

    def on_iteration(self, progress: Progress, metrics: Metrics) -> None:
        self.on_start(progress)

    def on_end(self, progress: Progress) -> None: ...


class ProgressBar:
    """A bar on a terminal, a line for each tenth elsewhere."""

    def __init__(self, name: str, evaluator: Evaluator, console: Console) -> None:
        self.name, self.evaluator, self.console = name, evaluator, console
        self.tenths = 0
        self.recent: list[float] = []
        columns = [TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[note]}")]
        self.bar = Bar(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, refresh_per_second=4, expand=True
        )

    def on_start(self, progress: Progress) -> None:
        if self.console.is_terminal:
            self.task = self.bar.add_task(self.name, total=1.0, note="")
            self.bar.start()

    def on_iteration(self, progress: Progress, metrics: Metrics) -> None:
        self.recent = (self.recent + [episode.total_reward for episode in progress.finished])[-100:]
        if self.console.is_terminal:
            self.bar.update(self.task, completed=progress.fraction, note=self._note(progress))
        elif int(progress.fraction * 10) > self.tenths:
            self.tenths = int(progress.fraction * 10)
            self.console.print(f"{self.name}  {self._note(progress)}", soft_wrap=True, highlight=False)

    def on_end(self, progress: Progress) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back; also after an exception."""
        if self.console.is_terminal:
            self.bar.stop()

    def _note(self, progress: Progress) -> str:
        parts = [f"{progress.steps:,} steps", f"{progress.steps / progress.seconds:,.0f}/s"]
        parts += [f"train {statistics.fmean(self.recent):.1f}"] if self.recent else []
        parts += [f"eval {self.evaluator.curve[-1][1]:.1f}"] if self.evaluator.curve else []
        return "  ".join(parts)
