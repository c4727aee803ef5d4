"""What each kind of plugin must be. Fulfil the Protocol; inheriting is not needed.

A plugin's keyword-only parameters are its configuration. An algorithm's positional parameters are wired in by
`experiment.build` by their names: `agent`, `learner`, and for one that does without plexp's learner `advantage` and `rng`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from plexp.nn.networks import CriticKind
from plexp.training.types import Metrics, Rollout, Targets

if TYPE_CHECKING:
    from plexp.envs.episodes import Episode


class Stateful(Protocol):
    """What a checkpoint keeps of an object: as torch has it, nested tensors, numpy arrays, numbers and texts.

    An algorithm or estimator that remembers anything between updates (beside the learner that is wired in) fulfils it too;
    one that does not is taken to remember nothing.
    """

    def state_dict(self) -> Mapping[str, Any]:
        """Of now; a copy is made of it before anything changes."""
        ...

    def load_state_dict(self, state_dict: Any) -> object:
        """Become what `state_dict` said, in place."""
        ...


class Algorithm(Protocol):
    """How a policy becomes better: a loss and its schedule (group `algo`)."""

    num_steps: int
    """T: steps of each environment in one rollout; the least, where the estimator needs whole episodes."""
    complete_episodes: bool
    """True: each rollout begins with new episodes and ends with their ends."""

    def update(self, rollout: Rollout, progress: float) -> Metrics:
        """Learn from one rollout; `progress` is the share of the training budget that is used up, 0…1 (for annealing)."""
        ...


class AdvantageEstimator(Protocol):
    """Φ, the weight of ∇ log π in the policy gradient (group `advantage`)."""

    critic: CriticKind
    """Which critic the agent must have: none, V(s), or Q(s, a)."""
    complete_episodes: bool
    """True: it cannot bootstrap, so rollouts must end with the ends of episodes."""
    off_policy: bool
    """True: it corrects for rollouts of an older policy, so that rollouts may be replayed."""

    def __call__(self, rollout: Rollout) -> Targets: ...


@dataclass(frozen=True)
class TrainingProgress:
    """What a callback is told: how far the training is, and what came of its last iteration."""

    steps: int
    """Environment steps learnt from."""
    episodes: int
    """That ended in them."""
    updates: int
    fraction: float
    """Share of the training budget that is used up, 0…1."""
    seconds: float
    """Spent collecting and updating."""
    finished: Sequence[Episode]
    """The episodes that ended in the last iteration."""
    metrics: Metrics
    """What the last update said of itself: `policy_loss`, `approx_kl`, …; empty before the first."""
    evaluations: Sequence[tuple[int, float]]
    """(environment steps, mean greedy return) of all evaluations so far."""
    log: Callable[[Mapping[str, float]], None]
    """Keeps metrics of the callback's own, at this step, below `callbacks/` and its name."""
    stop: Callable[[str], None]
    """Ends the training after this iteration, as if its budget were used up; the reason becomes the run's tag `stopped`."""


class TrainingCallback(Protocol):
    """Is told how the training goes (group `callbacks`). One that remembers anything between iterations is `Stateful` too."""

    def on_start(self, progress: TrainingProgress) -> None:
        """Before the first iteration, and again when a run is taken up."""
        ...

    def on_iteration(self, progress: TrainingProgress) -> None:
        """After each rollout and what was learnt from it."""
        ...

    def on_end(self, progress: TrainingProgress) -> None:
        """When the training has come to its end; not after an error or an interrupt."""
        ...
