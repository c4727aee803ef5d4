"""Mine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plexp import PositiveInt, TrainingProgress, register


@register("callbacks", "mine")
class Mine:
    """Logs the best return of a training episode so far: `on_iteration` is the place to change.

    Args:
        every: iterations between two points; larger: fewer.
    """

    def __init__(self, *, every: PositiveInt) -> None:
        self.every, self.best = every, -float("inf")

    def on_start(self, progress: TrainingProgress) -> None: ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.best = max([self.best, *(episode.total_reward for episode in progress.finished)])
        if progress.updates % self.every == 0 and self.best > -float("inf"):
            progress.log({"best_return": self.best})

    def on_end(self, progress: TrainingProgress) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run restores."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best = state_dict["best"]
