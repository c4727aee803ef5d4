"""Callbacks that let a run be resumed: checkpoints and the heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from plexp.execution.callbacks.recorder import StepSchedule
from plexp.execution.checkpoint import State, copied
from plexp.execution.state import RunFolder
from plexp.training.interfaces import Stateful
from plexp.training.progress import Profile, TrainingProgress


class Heartbeat:
    """Reports to the run's folder how far the run is, for the heartbeat."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_start(self, progress: TrainingProgress) -> None:
        self.folder.progress = (progress.steps, progress.fraction)

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.folder.progress = (progress.steps, progress.fraction)

    def on_end(self, progress: TrainingProgress) -> None: ...


class Checkpointer:
    """Writes checkpoints; the last of the callbacks, so that a checkpoint has what the others have counted.

    The state is copied in memory about four times a second, and never more than a twentieth of the time goes into that. The
    copy is written when `every` more steps are done, at the end of training, and by `save_last`.

    Args:
        parts: objects whose state is saved, by name.
        write: writes a state at an environment step.
        every: environment steps between two checkpoints; None: only `save_last` writes one.
        profile: gets the seconds that it takes.
    """

    PAUSE, SHARE = 0.25, 0.05
    """Seconds between two copies at least, and the largest share of the time that copies may take."""

    def __init__(
        self,
        parts: Mapping[str, Stateful],
        write: Callable[[State, int], object],
        every: int | None,
        profile: Profile,
    ) -> None:
        self.parts, self.write, self.grid, self.profile = parts, write, StepSchedule(every), profile
        self.last: tuple[State, int] | None = None
        """Latest copy, and its environment step."""
        self.written = -1
        """Environment step of the latest checkpoint on disk."""
        self.next = 0.0
        """Time from which the next copy is due."""

    def on_start(self, progress: TrainingProgress) -> None:
        self.grid.last, self.written = progress.steps, progress.steps
        self._copy(progress)

    def on_iteration(self, progress: TrainingProgress) -> None:
        due = bool(self.grid.passed(progress.steps)) or progress.fraction >= 1 or progress.stopped
        if due or time.perf_counter() >= self.next:
            started = self.profile.start()
            self._copy(progress)
            if due and self.grid.every is not None:
                self.save_last()
            self.profile.stop("checkpointing", started)

    def on_end(self, progress: TrainingProgress) -> None: ...

    def save_last(self) -> None:
        """Write the latest copy, unless it is on disk already."""
        if self.last is not None and self.last[1] != self.written:
            self.write(*self.last)
            self.written = self.last[1]

    def _copy(self, progress: TrainingProgress) -> None:
        began = time.perf_counter()
        self.last = ({name: copied(part.state_dict()) for name, part in self.parts.items()}, progress.steps)
        ended = time.perf_counter()
        self.next = ended + max(self.PAUSE, (ended - began) / self.SHARE)
