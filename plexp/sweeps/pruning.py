"""The place of a job in a hyperparameter search, and the rule that prunes hopeless trials.

Importing this needs neither torch, MLflow nor Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plexp.errors import ConfigError, Problem

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


STUDY, NAME = "study.log", "search"
"""Optuna's file in the sweep's folder, and the name of its one study."""
PRUNED = "pruned"
"""Attribute of a pruned trial: the seed and step that decided it, and why."""


@dataclass(frozen=True)
class TrialJob:
    """A job's place in a search."""

    folder: Path
    """Folder of the sweep."""
    trial: int
    index: int
    """Index of the seed among those of the trial."""
    role: Literal["trial", "confirmation", "baseline"]
    settings: Mapping[str, Any]
    """Settings of the sweeper."""

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the job's run."""
        numbered = {} if self.role == "baseline" else {"search.trial": str(self.trial)}
        return {"search.role": self.role, **numbered}

    def pruner(self) -> TrialPruner | None:
        """Return the pruning rule of the job's run; None if it is never pruned."""
        return TrialPruner(self) if self.role == "trial" else None


def trial_job_of(
    sweeper: Mapping[str, Any], folder: Path, choices: Mapping[str, object], in_sweep: bool
) -> TrialJob | None:
    """Return the place in a search that Hydra's configuration describes; None if the job is in no search.

    Raises ConfigError for a search without -m.
    """
    if not in_sweep:
        if search := choices.get("search"):
            raise ConfigError(Problem("search", search, "a search is a sweep", "add -m"))
        return None
    job = sweeper.get("job")
    if choices.get("search") and not job:
        raise ConfigError(
            Problem("search", choices["search"], "several configs of ranges are one list", "give search=[a,b]")
        )
    return TrialJob(folder, **job, settings=sweeper) if job else None


class TrialPruner:
    """Reports the evaluations of one seed to its trial, and decides when the trial is hopeless.

    It is the median stopping rule (Golovin et al. 2017), seed by seed at equal steps; a trial that one seed has pruned is
    pruned for its other seeds.

    Args:
        job: the place in the search.
    """

    def __init__(self, job: TrialJob) -> None:
        self.job, self.seeds = job, int(job.settings["seeds_per_trial"])
        self.storage = open_storage(job.folder)
        self.study = self.storage.get_study_id_from_name(NAME)
        self.id = self.storage.get_trial_id_from_study_id_trial_number(self.study, job.trial)

    def pruned(self) -> str | None:
        """Return why the trial was pruned; None if it was not."""
        reason = self.storage.get_trial(self.id).user_attrs.get(PRUNED)
        return None if reason is None else f"trial {self.job.trial} was pruned: {reason}"

    def __call__(self, curve: Sequence[tuple[int, float]], fraction: float) -> str | None:
        """Return why the run ends now; None if it continues.

        Args:
            curve: its evaluations (step, return) so far.
            fraction: share of the training budget that is used up; at 1 nothing is left to save.
        """
        steps = [self._step(evaluation) for evaluation in range(len(curve))]
        reported = self.storage.get_trial(self.id).intermediate_values
        for step, (_, value) in zip(steps, curve, strict=True):
            if step not in reported:
                self.storage.set_trial_intermediate_value(self.id, step, value)
        if fraction >= 1:
            return None
        if other := self.pruned():
            return other
        reason = self._hopeless(curve) if fraction >= self.job.settings["prune_warmup"] else None
        if reason is not None:
            self.storage.set_trial_user_attr(self.id, PRUNED, f"seed {self.job.index}, step {curve[-1][0]:,}: {reason}")
        return reason

    def _step(self, evaluation: int) -> int:
        """Return Optuna's step of an evaluation of this seed."""
        return evaluation * self.seeds + self.job.index

    def _hopeless(self, curve: Sequence[tuple[int, float]]) -> str | None:
        from optuna.trial import TrialState

        settings = self.job.settings
        done = self.storage.get_all_trials(self.study, deepcopy=False, states=(TrialState.COMPLETE,))
        step = self._step(len(curve) - 1)
        others = [trial.intermediate_values[step] for trial in done if step in trial.intermediate_values]
        if settings["prune_below"] is None or len(others) < settings["prune_after_trials"]:
            return None
        best, bar = best_of([value for _, value in curve]), quantile(others, settings["prune_below"])
        if best >= bar:
            return None
        what = "the median" if settings["prune_below"] == 0.5 else f"the {settings['prune_below']:g} quantile"
        return f"its best evaluation, {best:.4g}, is below {what}, {bar:.4g}, of {len(others)} trials on this seed"


def best_of(values: Sequence[float]) -> float:
    """Return the highest value, without NaN; −∞ if there is none."""
    return max((value for value in values if not math.isnan(value)), default=-math.inf)


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile, linear between the sorted values; NaN counts as −∞."""
    ordered = sorted(-math.inf if math.isnan(value) else value for value in values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high or math.isinf(low) else low + (high - low) * (place - math.floor(place))


def open_storage(folder: Path) -> BaseStorage:
    """Open the file of the study. Raises ConfigError if Optuna is missing."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise missing() from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = str(folder / STUDY)
    return JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))


def missing() -> ConfigError:
    """Return the error of a search without Optuna."""
    return ConfigError(
        Problem("hydra/sweeper", "optuna", "the package optuna is missing", 'pip install "plexp[optuna]"')
    )
