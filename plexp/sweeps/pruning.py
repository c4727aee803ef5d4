"""What a job is in a search, and when the search gives it up. Importing this needs neither torch, mlflow nor Optuna."""

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
"""The attribute of a trial that one of its jobs has given up: at which step, and why."""


@dataclass(frozen=True)
class TrialJob:
    """A job's place in a search."""

    folder: Path
    """Of the sweep."""
    trial: int
    index: int
    """Of the seed among those of the trial."""
    role: Literal["trial", "confirmation", "baseline"]
    settings: Mapping[str, Any]
    """The sheet of the sweeper."""

    @property
    def tags(self) -> dict[str, str]:
        """Of its run."""
        numbered = {} if self.role == "baseline" else {"search.trial": str(self.trial)}
        return {"search.role": self.role, **numbered}

    def judge(self) -> TrialPruner | None:
        """Who follows this run; None for those that are not pruned."""
        return TrialPruner(self) if self.role == "trial" else None


def trial_job_of(
    sweeper: Mapping[str, Any], folder: Path, choices: Mapping[str, object], in_sweep: bool
) -> TrialJob | None:
    """The job that Hydra's configuration describes; None: it is in no search. Raises ConfigError for a search without -m."""
    if not in_sweep:
        if search := choices.get("search"):
            raise ConfigError(Problem("search", search, "a search is a sweep", "add -m"))
        return None
    job = sweeper.get("job")
    if choices.get("search") and not job:
        raise ConfigError(
            Problem("search", choices["search"], "several sheets of ranges are one list", "give search=[a,b]")
        )
    return TrialJob(folder, **job, settings=sweeper) if job else None


class TrialPruner:
    """Tells a trial the evaluations of one of its seeds, and says when the trial is hopeless.

    That is the median stopping rule (Golovin et al. 2017), seed by seed at equal steps; and what one seed has decided
    holds for the trial's other seeds.
    """

    def __init__(self, part: TrialJob) -> None:
        self.part, self.seeds = part, int(part.settings["seeds_per_trial"])
        self.storage = open_storage(part.folder)
        study = self.storage.get_study_id_from_name(NAME)
        self.study = study
        self.id = self.storage.get_trial_id_from_study_id_trial_number(study, part.trial)

    def given_up(self) -> str | None:
        """Why the trial is, if one of its seeds was hopeless."""
        found = self.storage.get_trial(self.id).user_attrs.get(PRUNED)
        return None if found is None else f"trial {self.part.trial} was given up: {found}"

    def __call__(self, curve: Sequence[tuple[int, float]], fraction: float) -> str | None:
        """Why the run with these evaluations (step, return) is to be ended; None: it goes on.

        fraction: of the training budget that is used up; at 1 nothing is left to save.
        """
        steps = [self._step(evaluation) for evaluation in range(len(curve))]
        known = self.storage.get_trial(self.id).intermediate_values
        for step, (_, value) in zip(steps, curve, strict=True):
            if step not in known:
                self.storage.set_trial_intermediate_value(self.id, step, value)
        if fraction >= 1:
            return None
        if other := self.given_up():
            return other
        why = self._hopeless(curve) if fraction >= self.part.settings["prune_warmup"] else None
        if why is not None:
            self.storage.set_trial_user_attr(self.id, PRUNED, f"seed {self.part.index}, step {curve[-1][0]:,}: {why}")
        return why

    def _step(self, evaluation: int) -> int:
        """Optuna's number for an evaluation of this seed."""
        return evaluation * self.seeds + self.part.index

    def _hopeless(self, curve: Sequence[tuple[int, float]]) -> str | None:
        from optuna.trial import TrialState

        settings = self.part.settings
        done = self.storage.get_all_trials(self.study, deepcopy=False, states=(TrialState.COMPLETE,))
        step = self._step(len(curve) - 1)
        others = [each.intermediate_values[step] for each in done if step in each.intermediate_values]
        if settings["prune_below"] is None or len(others) < settings["prune_after_trials"]:
            return None
        best, bar = best_of([value for _, value in curve]), quantile(others, settings["prune_below"])
        if best >= bar:
            return None
        what = "the median" if settings["prune_below"] == 0.5 else f"the {settings['prune_below']:g} quantile"
        return f"its best evaluation, {best:.4g}, is below {what}, {bar:.4g}, of {len(others)} trials on this seed"


def best_of(values: Sequence[float]) -> float:
    """The highest that is a number; −∞ if none is."""
    return max((value for value in values if not math.isnan(value)), default=-math.inf)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the sorted values; what is not a number counts as −∞."""
    ordered = sorted(-math.inf if math.isnan(value) else value for value in values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high or math.isinf(low) else low + (high - low) * (place - math.floor(place))


def open_storage(folder: Path) -> BaseStorage:
    """The study's file. Raises ConfigError where Optuna is missing."""
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
    """Of the extra."""
    return ConfigError(
        Problem("hydra/sweeper", "optuna", "the package optuna is missing", 'pip install "plexp[optuna]"')
    )
