"""Sweeper for hyperparameter search, `hydra/sweeper=optuna`; any launcher runs its trials. Importing this needs no Optuna."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from plexp.config import registry
from plexp.config.compose import resolve
from plexp.config.fields import NonNegativeInt, PositiveInt, UnitInterval
from plexp.config.schema import Section
from plexp.errors import ConfigError, Problem
from plexp.execution.state import list_runs, state_folder
from plexp.files import write_whole
from plexp.sweeps.pruning import missing
from plexp.sweeps.status import SEARCH, rows_of, searched

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from plexp.sweeps.search_space import Range
    from plexp.sweeps.trials import Search


log = logging.getLogger("plexp")
STEPS_TO_THRESHOLD = "speed/steps_to_threshold"


class SweeperConfig(Section):
    """Settings of the search; what they do stands in conf/hydra/sweeper/optuna.yaml."""

    n_trials: PositiveInt
    seeds_per_trial: PositiveInt
    trials_at_once: PositiveInt
    confirmation_seeds: NonNegativeInt
    direction: Literal["maximize", "minimize"]
    sampler_seed: NonNegativeInt
    startup_trials: PositiveInt
    prune_below: UnitInterval | None
    prune_warmup: UnitInterval
    prune_after_trials: PositiveInt
    params: dict[str, Any]
    job: dict[str, Any] | None


class OptunaSweeper(Sweeper):
    """Samples trials with Optuna, runs each over seeds, and the best one again on fresh seeds.

    Hydra makes it from `SweeperConfig`, and hands that over again in `setup`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings, and make the launcher.

        Raises ConfigError for a setting that is not allowed, and if Optuna is not installed.
        """
        self.config: DictConfig = config
        self.loader = hydra_context.config_loader
        self.settings = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
        del self.settings["_target_"]
        if problems := registry.check("OptunaSweeper", "hydra.sweeper", SweeperConfig.types(), self.settings):
            raise ConfigError(problems)
        if find_spec("optuna") is None:
            raise missing()
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the search.

        Raises ConfigError, before the first trial, for a range that does not fit its parameter.
        """
        from plexp.sweeps.search_space import parse, range_of, usual_point
        from plexp.sweeps.trials import Search

        self.folder = Path(self.config.hydra.sweep.dir)
        parser = OverridesParser.create(config_loader=self.loader)
        overrides, self.fixed = parse(self.settings["params"], arguments, parser)
        untuned = self._compose(self.fixed)
        ranges = [range_of(key, override, untuned) for key, override in overrides.items()]
        self._check(ranges)
        self.values = resolve(untuned)
        self.fixed = [override for override in self.fixed if not override.startswith("seed=")]
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        self._wait_for_earlier_jobs()
        space = {range_.key: range_.distribution for range_ in ranges}
        search = Search(self.folder, self.settings, space, usual_point(ranges, untuned))
        gone, trials = self._deleted_jobs(), search.study.get_trials()
        at_once, seeds = self.settings["trials_at_once"], self.settings["seeds_per_trial"]
        for first in range(0, len(trials), at_once):
            batch, numbers = trials[first : first + at_once], range(first * seeds, (first + at_once) * seeds)
            if gone.intersection(numbers) and all(trial.state.is_finished() for trial in batch):
                self._run(search, batch)
        while batch := search.batch():
            self._run(search, batch)
            log.info("%s", summary(search))
            self._write(search, {}, False)
        if not self._is_confirmed() or any(number >= self.settings["n_trials"] * seeds for number in gone):
            self._write(search, self._confirm(search), True)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration that a job with these overrides gets."""
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        return composed

    def _check(self, ranges: Sequence[Range]) -> None:
        """Build an experiment with each end of each range. Raises ConfigError with all that is wrong."""
        from plexp.execution.experiment import build

        problems: dict[str, Problem] = {}
        for range_ in ranges:
            for end in range_.ends:
                try:
                    build(resolve(self._compose([*self.fixed, f"{range_.key}={end}"]))).close()
                except ConfigError as error:
                    problems = {problem.key: problem for problem in error.problems} | problems  # the first of each key
        if problems:
            raise ConfigError(problems.values())

    def _wait_for_earlier_jobs(self) -> None:
        """Wait for jobs that still run although their search was killed."""
        while alive := [
            record.name
            for folder, record in list_runs(state_folder(self.values["outputs"]))
            if self.folder.name in record.sweeps and folder.alive()
        ]:
            log.info("waiting for %s jobs that an earlier start of this search has left running", len(alive))
            time.sleep(2)

    def _deleted_jobs(self) -> set[int]:
        """Return the numbers of the jobs whose runs others have removed from the store; the outcomes of trials stay."""
        runs = list_runs(state_folder(self.values["outputs"]))
        rows = rows_of(self.folder, runs, self.values["tracker"]["uri"])
        return {row.job for row in rows if row.status == "DELETED" and row.job is not None}

    def _run(self, search: Search, batch: Sequence[FrozenTrial]) -> None:
        """Run all seeds of some trials; those of one seed first, so that a trial it prunes saves the other seeds."""
        seeds = self.settings["seeds_per_trial"]
        twins = {trial.number: search.twin(trial) for trial in batch}
        new = [trial for trial in batch if twins[trial.number] is None]
        places = [(trial, index) for index in range(seeds) for trial in new]
        jobs = [self._job(self._point(trial), index, "trial", trial.number) for trial, index in places]
        outcomes = self._launch(jobs, batch[0].number * seeds)
        for trial in batch:
            if twin := twins[trial.number]:
                search.tell_as(trial, twin)
                continue
            own = [outcome for outcome, (other, _) in zip(outcomes, places, strict=True) if other is trial]
            search.tell(trial, [value for value, _ in own], next((reason for _, reason in own if reason), ""))

    def _is_confirmed(self) -> bool:
        """Return True if the best trial has been confirmed before, and no run of that failed."""
        facts = searched(self.folder) or {}
        runs = facts.get("confirmation") or {}
        return bool(facts.get("is_done")) and None not in [*runs.get("confirmation", []), *runs.get("baseline", [])]

    def _confirm(self, search: Search) -> dict[str, list[float | None]]:
        """Return the objective of the best trial, and of the untuned configuration, on seeds that the search has not used."""
        from plexp.config.identity import identity

        best, seeds = search.best(), self.settings["confirmation_seeds"]
        objectives: dict[str, list[float | None]] = {}
        if best is not None and seeds:
            points: dict[str, list[str]] = {"confirmation": self._point(best), "baseline": []}
            configurations = [resolve(self._compose([*self.fixed, *point])) for point in points.values()]
            if identity(configurations[0]) == identity(configurations[1]):
                del points["baseline"]  # the best trial is the untuned configuration
            first = self.settings["seeds_per_trial"]
            jobs = [
                self._job(point, first + index, role, best.number)
                for index in range(seeds)
                for role, point in points.items()
            ]
            outcomes = self._launch(jobs, self.settings["n_trials"] * first)
            for at, role in enumerate(points):
                objectives[role] = [value for value, _ in outcomes[at :: len(points)]]
        return objectives

    def _write(self, search: Search, confirmed: dict[str, list[float | None]], is_done: bool) -> None:
        from plexp.sweeps.search_report import report

        facts = report(search, self.values, self.fixed, self.folder, confirmed, is_done)
        write_whole(self.folder / SEARCH, json.dumps(facts, indent=1))

    def _point(self, trial: FrozenTrial) -> list[str]:
        from plexp.sweeps.search_space import written

        return [f"{key}={written(trial.distributions[key], value)}" for key, value in trial.params.items()]

    def _job(self, point: Sequence[str], index: int, role: str, trial: int) -> list[str]:
        place = f"hydra.sweeper.job={{trial:{trial},index:{index},role:{role}}}"
        return [*self.fixed, *point, f"seed={self.values['seed'] + index}", place]

    def _launch(self, jobs: Sequence[Sequence[str]], number: int) -> list[tuple[float | None, str]]:
        """Run jobs, and return the objective of each, or None and the reason."""
        if not jobs:
            return []
        returns = self.launcher.launch(jobs, initial_job_idx=number)
        return [self._outcome(returned, number + index) for index, returned in enumerate(returns)]

    def _outcome(self, returned: JobReturn, number: int) -> tuple[float | None, str]:
        try:
            value = returned.return_value
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"
        if value is None:
            result = json.loads((self.folder / str(number) / "result.json").read_text())
            return None, "; ".join(result.get("error", []))
        never_reached = value == float("inf") and self.values["objective"] == STEPS_TO_THRESHOLD
        return float(self.values["total_timesteps"]) if never_reached else float(value), ""


def register_with_hydra() -> None:
    """Make `hydra/sweeper=optuna` known to Hydra, under the module name that conf/hydra/sweeper/optuna.yaml gives.

    Hydra 1.3 instantiates only sweepers whose module begins with `hydra_plugins.` (hydra/core/plugins.py, `_instantiate`),
    a top-level package that plexp does not install; so this module is also known by such a name.
    """
    OptunaSweeper.__module__ = "hydra_plugins.plexp"
    sys.modules[OptunaSweeper.__module__] = sys.modules[__name__]
    Plugins.instance().register(OptunaSweeper)


def summary(search: Search) -> str:
    """Return one line, such as `8 of 20 trials: 5 finished, 3 pruned; the best is trial 4 with 213.0`."""
    states = [trial.state.name for trial in search.study.get_trials()]
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    counts = ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)
    best = search.best()
    ahead = "" if best is None else f"; the best is trial {best.number} with {best.value:.4g}"
    return f"{len(states)} of {search.settings['n_trials']} trials: {counts}{ahead}"
