"""Where the time goes."""

from __future__ import annotations

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
    evaluation: float = 0.0
    tracking: float = 0.0
    """Metrics and the progress bar."""
