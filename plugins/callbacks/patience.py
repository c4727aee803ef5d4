"""Early stopping by the evaluations."""

from __future__ import annotations

from plexp import NonNegativeFloat, PositiveInt, TrainingProgress, register


@register("callbacks", "patience")
class Patience:
    """Ends the training when the best evaluation is too long ago (early stopping; Prechelt 1998, criterion UP).

    Args:
        evaluations: so many evaluations without a better one end it; larger: waits longer.
        min_delta: a better one is better by more than this, in return; larger: stops sooner.
    """

    def __init__(self, *, evaluations: PositiveInt, min_delta: NonNegativeFloat) -> None:
        self.evaluations, self.min_delta = evaluations, min_delta

    def on_start(self, progress: TrainingProgress) -> None: ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        best, since = -float("inf"), 0
        for _, mean in progress.evaluations:
            best, since = (mean, 0) if mean > best + self.min_delta else (best, since + 1)
        if since >= self.evaluations:
            progress.stop(f"no evaluation above {best:.1f} in the last {since}")

    def on_end(self, progress: TrainingProgress) -> None: ...
