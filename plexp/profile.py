"""Where the time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Profile:
    """Seconds of a run so far, by what they went into."""

    environment: float = 0.0
    """Stepping and resetting the environments."""
    acting: float = 0.0
    """The policy's actions, and keeping what the environments gave."""
    estimating: float = 0.0
    """Values, log-probabilities and targets of whole rollouts."""
    updating: float = 0.0
    """Gradient descent, and the running statistics."""
    compiling: float = 0.0
    """Tracing and compiling, or loading what is on disk; once in a run, and not in its `seconds`."""
    evaluation: float = 0.0
    tracking: float = 0.0
    """Metrics and the progress bar."""
    checkpointing: float = 0.0

    def state_dict(self) -> dict[str, float]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        vars(self).update(state_dict)

    def now(self) -> tuple[float, float]:
        """For `add`."""
        return time.perf_counter(), sum(vars(self).values())

    def add(self, part: str, began: tuple[float, float]) -> None:
        """Count for `part` what has passed since `began = now()`, without what other parts have counted meanwhile."""
        clock, counted = self.now()
        setattr(self, part, getattr(self, part) + clock - began[0] - (counted - began[1]))
