"""A search: which points are tried, in which order, and their outcomes. It needs Optuna, and knows no Hydra."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from plexp.sweeps.pruning import NAME, PRUNED, STUDY, open_storage

VALUES, ERROR = "values", "error"
"""Attributes of a trial: its objective on each seed; why it failed."""


class Search:
    """Trials in batches, each sampled from the outcomes of earlier batches.

    Everything is in the study's file, and each trial has its own source of randomness: a search that is started again,
    after whatever end, continues as if it had never stopped.

    Args:
        folder: folder of the study's file.
        settings: settings of the sweeper.
        space: distribution of each key.
        first: point of trial 0; None: it is sampled like the others.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        space: Mapping[str, BaseDistribution],
        first: dict[str, Any] | None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mend(folder / STUDY)
        self.settings, self.space, self.first = settings, dict(space), first
        direction = settings["direction"]
        self.study = optuna.create_study(
            storage=open_storage(folder), study_name=NAME, direction=direction, load_if_exists=True
        )

    def batch(self) -> list[FrozenTrial]:
        """Return the trials to run now: those that an earlier start has left, and new ones; none if the search is done."""
        size, total = self.settings["trials_at_once"], self.settings["n_trials"]
        trials = self.study.get_trials()
        begun = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        if not begun and len(trials) >= total:
            return []
        begin = (begun[0] if begun else len(trials)) // size * size
        end = min(begin + size, total)
        for number in range(len(trials), end):
            self.study.add_trial(self._sample(number))
        return self.study.get_trials()[begin:end]

    def _sample(self, number: int) -> FrozenTrial:
        """Sample a trial by TPE (Bergstra et al. 2011), in a copy: the file has a trial with all its values or not at all."""
        from plexp.sweeps.search_space import rounded

        params = self.first if number == 0 else None
        if params is None:
            seed = np.random.SeedSequence([self.settings["sampler_seed"], number]).generate_state(1)[0]
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.settings["startup_trials"], constant_liar=True, seed=int(seed)
            )
            copy = optuna.create_study(direction=self.settings["direction"], sampler=sampler)
            copy.add_trials(self.study.get_trials())
            params = copy.ask(self.space).params
        params = {key: rounded(self.space[key], value) for key, value in params.items()}
        return create_trial(state=TrialState.RUNNING, params=params, distributions=self.space)

    def twin(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return an earlier trial at the same point, whose outcome counts for this one; None if there is none."""
        earlier = self.study.get_trials()[: trial.number]
        return next((other for other in earlier if other.params == trial.params), None)

    def tell(self, trial: FrozenTrial, values: Sequence[float | None], reason: str) -> None:
        """Record the outcome of a trial: the objective on each seed, None where a job failed, and the reason."""
        if trial.state.is_finished():
            return
        if PRUNED in self.study.get_trials()[trial.number].user_attrs:
            self.study.tell(trial.number, state=TrialState.PRUNED)
            return
        numbers = [value for value in values if value is not None and not math.isnan(value)]
        if len(numbers) < len(values):
            self._note(trial, ERROR, reason or "its objective is no number")
            self.study.tell(trial.number, state=TrialState.FAIL)
            return
        self._note(trial, VALUES, numbers)
        self.study.tell(trial.number, math.fsum(numbers) / len(numbers))

    def tell_as(self, trial: FrozenTrial, twin: FrozenTrial) -> None:
        """Record the outcome of another trial at the same point as that of this one."""
        if trial.state.is_finished():
            return
        twin = self.study.get_trials()[twin.number]
        for key, value in twin.user_attrs.items():
            self._note(trial, key, value)
        # Optuna gives pruned trials their last evaluation as value, and takes none
        value = twin.value if twin.state == TrialState.COMPLETE else None
        self.study.tell(trial.number, value, state=twin.state)

    def best(self) -> FrozenTrial | None:
        """Return the finished trial with the best mean, the earlier one of equals; None if there is none."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[FrozenTrial]:
        """Return the finished trials, the best first."""
        done = self.study.get_trials(states=(TrialState.COMPLETE,))
        sign = -1.0 if self.settings["direction"] == "maximize" else 1.0
        return sorted(done, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))

    def _note(self, trial: FrozenTrial, key: str, value: Any) -> None:
        """Set an attribute of a trial, by private members of Optuna: its public ones need a running trial; tried with 5.0."""
        self.study._storage.set_trial_user_attr(trial._trial_id, key, value)


def mend(file: Path) -> None:
    """Cut off a last line that a power cut or a full disk left unfinished, after which nothing could be read."""
    if file.is_file() and (text := file.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(file, text.rfind(b"\n") + 1)
