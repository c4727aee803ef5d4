"""Progress of a run, and its seconds by activity."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plexp.envs.episodes import Episode
from plexp.training.types import Metrics


@dataclass
class TrainingProgress:
    """Progress of the training, and the results of its last iteration. Callbacks read it; the trainer alone changes it."""

    steps: int = 0
    """Number of environment steps learnt from."""
    episodes: int = 0
    """Number of episodes that ended in those steps."""
    updates: int = 0
    """Number of iterations: a trajectory and the update that it was used for."""
    fraction: float = 0.0
    """Share of the training budget that has been used, 0…1."""
    seconds: float = 0.0
    """Seconds spent collecting and updating, without compiling, evaluation and tracking."""
    finished: Sequence[Episode] = ()
    """Episodes that ended in the last iteration."""
    metrics: Metrics = field(default_factory=dict)
    """Metrics of the last update (`policy_loss`, `approx_kl`, …); empty before the first."""
    evaluations: Sequence[tuple[int, float]] = ()
    """(environment steps, mean greedy return) of every evaluation so far."""
    stopped: bool = False
    """True once the training ends after this iteration, as if its budget were used up."""
    stop_reason: str = ""
    """Reason that a callback gave for stopping."""
    logged: dict[str, float] = field(default_factory=dict)
    """Metrics that a callback has logged and that are not recorded yet."""

    def stop(self, reason: str) -> None:
        """End the training after this iteration, as if its budget were used up.

        The reason of a callback plugin becomes the run's tag `stopped`.
        """
        self.stopped, self.stop_reason = True, reason

    def log(self, metrics: Mapping[str, float]) -> None:
        """Record metrics of a callback plugin at this step, as `callbacks/<name of the callback>/<metric>`."""
        self.logged |= metrics

    def state_dict(self) -> dict[str, Any]:
        names = ("steps", "episodes", "updates", "fraction", "seconds", "stopped")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        vars(self).update(state_dict)


@dataclass
class Profile:
    """Seconds that a run has spent so far, by activity."""

    environment: float = 0.0
    """Stepping and resetting the environments."""
    acting: float = 0.0
    """Sampling the policy's actions, and storing what the environments gave."""
    estimating: float = 0.0
    """Values, log-probabilities and targets of whole trajectories."""
    updating: float = 0.0
    """Gradient descent and running statistics."""
    compiling: float = 0.0
    """Tracing and compiling, or loading compiled code; not part of a run's `seconds`."""
    evaluation: float = 0.0
    """Playing evaluation episodes, and filming them."""
    tracking: float = 0.0
    """Recording metrics, and the progress bar."""
    checkpointing: float = 0.0
    """Copying and writing checkpoints."""

    def state_dict(self) -> dict[str, float]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        vars(self).update(state_dict)

    def start(self) -> tuple[float, float]:
        """Return the present for `stop`: the clock, and the seconds counted so far."""
        return time.perf_counter(), sum(vars(self).values())

    def stop(self, activity: str, started: tuple[float, float]) -> None:
        """Count the seconds since `start` for an activity, without those that other activities have counted meanwhile."""
        clock, counted = self.start()
        self.count(activity, clock - started[0] - (counted - started[1]))

    def count(self, activity: str, seconds: float) -> None:
        """Add seconds to an activity."""
        setattr(self, activity, getattr(self, activity) + seconds)
