"""The progress bar of a run."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from plexp.execution.callbacks.evaluator import Evaluator
from plexp.training.progress import TrainingProgress


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

    def on_start(self, progress: TrainingProgress) -> None:
        if self.console.is_terminal:
            self.task = self.bar.add_task(self.name, total=1.0, note="")
            self.bar.start()

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.recent = (self.recent + [episode.total_reward for episode in progress.finished])[-100:]
        if self.console.is_terminal:
            self.bar.update(self.task, completed=progress.fraction, note=self._note(progress))
        elif int(progress.fraction * 10) > self.tenths:
            self.tenths = int(progress.fraction * 10)
            self.console.print(f"{self.name}  {self._note(progress)}", soft_wrap=True, highlight=False)

    def on_end(self, progress: TrainingProgress) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back; also after an exception."""
        if self.console.is_terminal:
            self.bar.stop()

    def _note(self, progress: TrainingProgress) -> str:
        parts = [f"{progress.steps:,} steps", f"{progress.steps / progress.seconds:,.0f}/s"]
        parts += [f"train {statistics.fmean(self.recent):.1f}"] if self.recent else []
        parts += [f"eval {self.evaluator.curve[-1][1]:.1f}"] if self.evaluator.curve else []
        return "  ".join(parts)
