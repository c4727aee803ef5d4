"""The progress of a run: a bar on a terminal or in a notebook, and a line for each tenth elsewhere."""

from __future__ import annotations

import html
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from plexp.errors import decoration
from plexp.execution.callbacks.evaluator import Evaluator
from plexp.training.progress import TrainingProgress

REFRESHES_PER_SECOND = 4
RECENT_EPISODES = 100
"""Number of training episodes whose mean return is shown."""


class ProgressBar:
    """Callback that shows how far a run is, its speed, and its recent returns.

    Args:
        name: name of the run.
        evaluator: has the evaluations so far.
        console: where to show it; a quiet one shows nothing.
    """

    def __init__(self, name: str, evaluator: Evaluator, console: Console) -> None:
        self.name, self.evaluator, self.console = name, evaluator, console
        self.returns: list[float] = []
        self.display: TerminalBar | NotebookBar | Lines | None = _display(name, console)

    def on_start(self, progress: TrainingProgress) -> None:
        self._try(lambda display: display.start())

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.returns = (self.returns + [episode.total_reward for episode in progress.finished])[-RECENT_EPISODES:]
        self._try(lambda display: display.show(progress.fraction, self._note(progress)))

    def on_end(self, progress: TrainingProgress) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back; also after an exception."""
        self._try(lambda display: display.stop())

    def _try(self, use: Callable[[TerminalBar | NotebookBar | Lines], None]) -> None:
        """Use the display; one that fails is not used again, and the training continues without."""
        display, self.display = self.display, None
        if display is not None:
            with decoration("the progress bar"):
                use(display)
                self.display = display

    def _note(self, progress: TrainingProgress) -> str:
        parts = [f"{progress.steps:,} steps", f"{progress.steps / progress.seconds:,.0f}/s"]
        parts += [f"train {statistics.fmean(self.returns):.1f}"] if self.returns else []
        parts += [f"eval {self.evaluator.curve[-1][1]:.1f}"] if self.evaluator.curve else []
        return "  ".join(parts)


def _display(name: str, console: Console) -> TerminalBar | NotebookBar | Lines:
    if console.is_jupyter and not console.quiet:
        return NotebookBar(name)
    return TerminalBar(name, console) if console.is_terminal else Lines(name, console)


class TerminalBar:
    """A bar on a terminal."""

    def __init__(self, name: str, console: Console) -> None:
        columns = [TextColumn("{task.description}", markup=False), BarColumn(None), TextColumn("{task.fields[note]}")]
        self.bar = RichProgress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            expand=True,
        )
        self.name = name

    def start(self) -> None:
        self.task = self.bar.add_task(self.name, total=1.0, note="")
        self.bar.start()

    def show(self, fraction: float, note: str) -> None:
        self.bar.update(self.task, completed=fraction, note=note)

    def stop(self) -> None:
        self.bar.stop()


class NotebookBar:
    """A bar in the output of a notebook's cell, drawn by the browser; it needs no widgets."""

    def __init__(self, name: str) -> None:
        self.name, self.drawn_at, self.latest = name, 0.0, (0.0, "")
        self.handle: Any = None

    def start(self) -> None:
        self.handle = _ipython().display(_ipython().HTML(self._html()), display_id=True)

    def show(self, fraction: float, note: str) -> None:
        self.latest = fraction, note
        if time.monotonic() - self.drawn_at > 1 / REFRESHES_PER_SECOND:
            self._draw()

    def stop(self) -> None:
        if self.handle is not None:
            self._draw()

    def _draw(self) -> None:
        self.handle.update(_ipython().HTML(self._html()))
        self.drawn_at = time.monotonic()

    def _html(self) -> str:
        fraction, note = self.latest
        return f"{html.escape(self.name)} <progress value={fraction:.4f} max=1></progress> {html.escape(note)}"


def _ipython() -> Any:
    from IPython import display

    return display


class Lines:
    """A line for each tenth of the run, where there is neither a terminal nor a notebook."""

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console, self.tenths = name, console, 0

    def start(self) -> None: ...

    def show(self, fraction: float, note: str) -> None:
        if int(fraction * 10) > self.tenths:
            self.tenths = int(fraction * 10)
            self.console.print(f"{self.name}  {note}", soft_wrap=True, highlight=False, markup=False)

    def stop(self) -> None: ...
