"""Protocols of algorithms, advantage estimators and callbacks; a plugin fulfils one without inheriting from it.

A plugin's keyword-only parameters are its configuration. An algorithm's positional parameters are wired in by their names:
`agent`, `learner`, and for an algorithm that does without plexp's learner `advantage` and `rng`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from plexp.nn.networks import CriticKind
from plexp.training.progress import TrainingProgress
from plexp.training.types import Metrics, Rollout, Targets, Trajectory


class Stateful(Protocol):
    """An object whose state a checkpoint stores, with the methods that torch's modules and optimizers have.

    The state is nested dicts and lists of tensors, numpy arrays, numbers and strings. An algorithm, estimator or callback
    that remembers anything between updates fulfils this protocol too; one that does not is taken to remember nothing.
    """

    def state_dict(self) -> Mapping[str, Any]:
        """Return the current state; whoever stores it copies it first."""
        ...

    def load_state_dict(self, state_dict: Any) -> object:
        """Restore the state in place."""
        ...


class Algorithm(Protocol):
    """A loss and its schedule: how the policy is improved (group `algo`)."""

    num_steps: int
    """T, steps of each environment in one trajectory; the minimum, where trajectories are complete episodes."""
    complete_episodes: bool
    """True if each trajectory begins with new episodes and ends with their ends."""

    def update(self, trajectory: Trajectory, progress: float) -> Metrics:
        """Learn from one trajectory.

        `progress` is the share of the training budget that has been used, 0…1, for annealing.
        """
        ...


class AdvantageEstimator(Protocol):
    """An estimator of Φ, the weight of ∇ log π in the policy gradient (group `advantage`)."""

    critic: CriticKind
    """The critic that the agent must have: none, V(s), or Q(s, a)."""
    complete_episodes: bool
    """True if it cannot bootstrap, so that trajectories must end with the ends of episodes."""
    off_policy: bool
    """True if it corrects for an older policy's actions, so that trajectories may be replayed."""

    def __call__(self, rollout: Rollout) -> Targets:
        """Return the advantages, and the targets of the critic if there is one."""
        ...


class TrainingCallback(Protocol):
    """An observer of the training (group `callbacks`); it acts by `progress.log` and `progress.stop` alone."""

    def on_start(self, progress: TrainingProgress) -> None:
        """Run before the first iteration, also of a resumed run."""
        ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        """Run after each trajectory and the update that it was used for."""
        ...

    def on_end(self, progress: TrainingProgress) -> None:
        """Run when the training has reached its end; not after an error or an interrupt."""
        ...
