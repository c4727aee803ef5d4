"""How far a run is, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plexp.envs.episodes import Episode


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

    def count_compiling(self, seconds: float) -> None:
        """Add to the seconds that went into compiling."""
        self.compiling += seconds

    def now(self) -> tuple[float, float]:
        """For `add`."""
        return time.perf_counter(), sum(vars(self).values())

    def add(self, part: str, began: tuple[float, float]) -> None:
        """Count for `part` what has passed since `began = now()`, without what other parts have counted meanwhile."""
        clock, counted = self.now()
        setattr(self, part, getattr(self, part) + clock - began[0] - (counted - began[1]))


@dataclass
class Progress:
    """How far a run is."""

    steps: int = 0
    """Environment steps learnt from."""
    episodes: int = 0
    updates: int = 0
    fraction: float = 0.0
    """Share of the training budget that is used up, 0…1."""
    seconds: float = 0.0
    """Spent collecting and updating; compiling, evaluation and tracking are not in it."""
    finished: list[Episode] = field(default_factory=list)
    """Episodes that ended in the last iteration."""
    profile: Profile = field(default_factory=Profile)
    stopped: bool = False
    """Set by a callback to end the training early."""

    def state_dict(self) -> dict[str, Any]:
        names = ("steps", "episodes", "updates", "fraction", "seconds", "stopped")
        return {**{name: getattr(self, name) for name in names}, "profile": self.profile.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for name, value in state_dict.items():
            if name != "profile":
                setattr(self, name, value)
        self.profile.load_state_dict(state_dict["profile"])
