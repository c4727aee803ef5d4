"""`hydra/sweeper=optuna`: a search runs its trials with whatever launcher is chosen. Importing this needs no Optuna."""

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
from plexp.errors import ConfigError, Problem
from plexp.execution.state import list_runs, state_folder
from plexp.sweeps.pruning import missing
from plexp.sweeps.status import SEARCH, searched

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from plexp.sweeps.search_space import Range
    from plexp.sweeps.trials import Search


log = logging.getLogger("plexp")
STEPS_TO_THRESHOLD = "speed/steps_to_threshold"


class OptunaSweeper(Sweeper):
    """Samples trials with Optuna, runs each over seeds, and its best one again on fresh seeds.

    Args are those of the sheet `conf/hydra/sweeper/optuna.yaml`, which says what they do.
    """

    def __init__(
        self,
        *,
        n_trials: PositiveInt,
        seeds_per_trial: PositiveInt,
        trials_at_once: PositiveInt,
        confirmation_seeds: NonNegativeInt,
        direction: Literal["maximize", "minimize"],
        sampler_seed: NonNegativeInt,
        startup_trials: PositiveInt,
        prune_below: UnitInterval | None,
        prune_warmup: UnitInterval,
        prune_after_trials: PositiveInt,
        params: dict[str, Any],
        job: dict[str, Any] | None,
    ) -> None: ...

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises ConfigError for a setting that cannot be, or where Optuna is not installed."""
        self.config: DictConfig = config
        self.loader = hydra_context.config_loader
        self.settings: dict[str, Any] = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
        del self.settings["_target_"]
        types = registry.parameters(type(self))
        if problems := registry.check(type(self).__name__, "hydra.sweeper", types, self.settings):
            raise ConfigError(problems)
        if find_spec("optuna") is None:
            raise missing()
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Raises ConfigError before the first trial if a range does not fit what it is of."""
        from plexp.sweeps.search_space import parse, range_of, usual_point
        from plexp.sweeps.trials import Search

        self.folder = Path(self.config.hydra.sweep.dir)
        parser = OverridesParser.create(config_loader=self.loader)
        wanted, self.fixed = parse(self.settings["params"], arguments, parser)
        usual = self._compose(self.fixed)
        ranges = [range_of(key, override, usual) for key, override in wanted.items()]
        self._check(ranges)
        self.values: dict[str, Any] = OmegaConf.to_container(usual, resolve=True)  # type: ignore[assignment]
        self.fixed = [each for each in self.fixed if not each.startswith("seed=")]
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        self._wait_for_those_before()
        space = {each.key: each.distribution for each in ranges}
        search = Search(self.folder, self.settings, space, usual_point(ranges, usual))
        while batch := search.batch():
            self._run(search, batch)
            log.info("%s", said(search))
            self._write(search, {}, False)
        if not self._is_confirmed():
            self._write(search, self._confirm(search), True)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """As a job gets it."""
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        return composed

    def _check(self, ranges: Sequence[Range]) -> None:
        """Build an experiment with each end of each range. Raises ConfigError with all that is wrong."""
        from plexp.execution.experiment import build

        problems: dict[str, Problem] = {}
        for each in ranges:
            for end in each.ends:
                try:
                    build(resolve(self._compose([*self.fixed, f"{each.key}={end}"]))).close()
                except ConfigError as error:
                    problems = {problem.key: problem for problem in error.problems} | problems  # the first of each key
        if problems:
            raise ConfigError(problems.values())

    def _wait_for_those_before(self) -> None:
        """For jobs whose search was killed, and which still run: what they are at is theirs."""
        while alive := [
            record.name
            for folder, record in list_runs(state_folder(self.values["outputs"]))
            if self.folder.name in record.sweeps and folder.alive()
        ]:
            log.info("waits for %s jobs that still run since this search was started before", len(alive))
            time.sleep(2)

    def _run(self, search: Search, batch: Sequence[FrozenTrial]) -> None:
        """All seeds of some trials; those of one seed first, so that what one seed decides saves the others."""
        seeds = self.settings["seeds_per_trial"]
        twins = {trial.number: search.twin(trial) for trial in batch}
        own = [trial for trial in batch if twins[trial.number] is None]
        places = [(trial, index) for index in range(seeds) for trial in own]
        jobs = [self._job(self._point(trial), index, "trial", trial.number) for trial, index in places]
        found = self._launch(jobs, batch[0].number * seeds)
        for trial in batch:
            if twin := twins[trial.number]:
                search.tell_as(trial, twin)
                continue
            mine = [each for each, (other, _) in zip(found, places, strict=True) if other is trial]
            search.tell(trial, [value for value, _ in mine], next((why for _, why in mine if why), ""))

    def _is_confirmed(self) -> bool:
        """Whether this search has been through before, with nothing that failed."""
        found = searched(self.folder) or {}
        runs = found.get("confirmation") or {}
        return bool(found.get("is_done")) and None not in [*runs.get("confirmation", []), *runs.get("baseline", [])]

    def _confirm(self, search: Search) -> dict[str, list[float | None]]:
        """The objective of the best trial and of the untuned configuration on seeds that the search has not seen."""
        from plexp.config.identity import identity

        best, seeds = search.best(), self.settings["confirmation_seeds"]
        found: dict[str, list[float | None]] = {}
        if best is not None and seeds:
            points: dict[str, list[str]] = {"confirmation": self._point(best), "baseline": []}
            configurations = [
                OmegaConf.to_container(self._compose([*self.fixed, *point]), resolve=True) for point in points.values()
            ]
            if identity(configurations[0]) == identity(configurations[1]):  # type: ignore[arg-type]
                del points["baseline"]  # the best trial is the untuned configuration
            first = self.settings["seeds_per_trial"]
            jobs = [
                self._job(point, first + index, role, best.number)
                for index in range(seeds)
                for role, point in points.items()
            ]
            outcomes = self._launch(jobs, self.settings["n_trials"] * first)
            for at, role in enumerate(points):
                found[role] = [value for value, _ in outcomes[at :: len(points)]]
        return found

    def _write(self, search: Search, confirmed: dict[str, list[float | None]], is_done: bool) -> None:
        from plexp.sweeps.search_report import report

        facts = report(search, self.values, self.fixed, self.folder, confirmed, is_done)
        draft = self.folder / f"{SEARCH}.draft"
        draft.write_text(json.dumps(facts, indent=1))
        draft.replace(self.folder / SEARCH)

    def _point(self, trial: FrozenTrial) -> list[str]:
        from plexp.sweeps.search_space import written

        return [f"{key}={written(trial.distributions[key], value)}" for key, value in trial.params.items()]

    def _job(self, point: Sequence[str], index: int, role: str, trial: int) -> list[str]:
        place = f"hydra.sweeper.job={{trial:{trial},index:{index},role:{role}}}"
        return [*self.fixed, *point, f"seed={self.values['seed'] + index}", place]

    def _launch(self, jobs: Sequence[Sequence[str]], number: int) -> list[tuple[float | None, str]]:
        """The objective of each job, or None and why."""
        if not jobs:
            return []
        returns = self.launcher.launch(jobs, initial_job_idx=number)
        return [self._outcome(each, number + at) for at, each in enumerate(returns)]

    def _outcome(self, returned: JobReturn, number: int) -> tuple[float | None, str]:
        try:
            value = returned.return_value
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"
        if value is None:
            said = json.loads((self.folder / str(number) / "result.json").read_text())
            return None, "; ".join(said.get("error", []))
        never = value == float("inf") and self.values["objective"] == STEPS_TO_THRESHOLD
        return float(self.values["total_timesteps"]) if never else float(value), ""


def register_with_hydra() -> None:
    """Make `hydra/sweeper=optuna` known to Hydra, under the module name that conf/hydra/sweeper/optuna.yaml gives.

    Hydra 1.3 instantiates only sweepers whose module begins with `hydra_plugins.` (hydra/core/plugins.py, `_instantiate`),
    a top-level package that plexp does not install; so this module is also known by such a name.
    """
    OptunaSweeper.__module__ = "hydra_plugins.plexp"
    sys.modules[OptunaSweeper.__module__] = sys.modules[__name__]
    Plugins.instance().register(OptunaSweeper)


def said(search: Search) -> str:
    """`8 of 20 trials: 5 finished, 3 pruned; the best is trial 4 with 213.0`."""
    states = [trial.state.name for trial in search.study.get_trials()]
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    counts = ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)
    best = search.best()
    ahead = "" if best is None else f"; the best is trial {best.number} with {best.value:.4g}"
    return f"{len(states)} of {search.settings['n_trials']} trials: {counts}{ahead}"
