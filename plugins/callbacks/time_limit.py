"""A limit of time."""

from __future__ import annotations

from plexp import PositiveFloat, TrainingProgress, register


@register("callbacks", "time_limit")
class TimeLimit:
    """Ends the training after so many seconds of collecting and updating, with the final evaluation and all that is kept.

    Where it ends depends on the machine: two such runs of one seed differ in length.

    Args:
        seconds: that may be spent; larger: trains longer.
    """

    def __init__(self, *, seconds: PositiveFloat) -> None:
        self.seconds = seconds

    def on_start(self, progress: TrainingProgress) -> None: ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        if progress.seconds >= self.seconds:
            progress.stop(f"{self.seconds:g} seconds are used up")

    def on_end(self, progress: TrainingProgress) -> None: ...
