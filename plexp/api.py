"""Functions for scripts and notebooks: train, look up runs, evaluate, film and compare.

What the command line prints is returned here, and what it prints as an error is raised: `ConfigError`, `StoreError` or
`TrainingError`, with the same one-line text. Nothing of the caller's is changed: no signal handler, logging, working
folder or number of torch threads.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from plexp.config.hydra_errors import compose_with_choices
from plexp.config.registry import REQUIRED_GROUPS
from plexp.errors import StoreError
from plexp.execution.job import Job, run_job
from plexp.execution.state import state_folder, unsettled_runs
from plexp.tracking.history import RecordedRun, open_history

if TYPE_CHECKING:
    import pandas as pd

    from plexp.analysis.display import ShownComparison
    from plexp.execution.experiment import Experiment
    from plexp.recorded.evaluate import LaterEvaluation
    from plexp.recorded.film import Films
    from plexp.recorded.restore import RecordedAgent
    from plexp.tracking.lookup import RunHandle


log = logging.getLogger("plexp")


def compose(*overrides: str) -> dict[str, Any]:
    """Return the resolved configuration of a command line, such as `compose("algo=ppo", "env=cartpole")`.

    Raises ConfigError for overrides that do not compose and for values that are missing.
    """
    return _job(overrides).values


def build(config: Mapping[str, Any]) -> Experiment:
    """Check a resolved configuration, and return the objects of its experiment: agent, trainer, environments.

    Close its environments when you are done with it: `with plexp.build(config) as experiment`.

    Raises ConfigError, with all problems at once.
    """
    from plexp.execution.experiment import build as build_experiment

    with _torch_threads_kept():
        return build_experiment(dict(config))


def train(*overrides: str, progress_bar: bool = True) -> Run:
    """Train an agent and record the run in MLflow, as `python -m plexp` with these overrides does.

        run = plexp.train("algo=ppo", "env=cartpole", "total_timesteps=20_000")

    A run of the same configuration that was interrupted or failed is resumed from its last checkpoint.

    Args:
        overrides: what would stand on the command line; each is `key=value`.
        progress_bar: whether to show a bar, on a terminal or in a notebook (elsewhere: a line for each tenth).

    Raises ConfigError or StoreError before a run exists, TrainingError if the training fails, and KeyboardInterrupt with
    the run closed as KILLED and its checkpoint written.
    """
    from rich.console import Console

    job = _job(overrides)
    with _torch_threads_kept():
        outcome = run_job(job, Console(quiet=not progress_bar))
    return load_run(outcome.run_id, outputs=job.values["outputs"], uri=job.values["tracker"]["uri"])


def load_run(
    reference: str = "last", *, outputs: Path | str = "outputs", uri: str | None = None, env: str | None = None
) -> Run:
    """Return a recorded run.

    Args:
        reference: run id or its beginning, name of a run, `last`, `best` (highest final return), or a registered model
            such as `cartpole@best`.
        outputs: folder that was given as `outputs`.
        uri: another store, as given as `tracker.uri`; None: the file in `outputs`.
        env: environment that `last` and `best` are limited to, such as `cartpole`.

    Raises ConfigError if there is no such run, and StoreError if there is no store or it does not answer.
    """
    from plexp.tracking.lookup import open_run

    store = Store(Path(outputs).absolute(), uri)
    _settle(store)
    with open_run(reference, outputs=store.outputs, uri=uri, env=env) as handle:
        return Run(
            store,
            handle.run_id,
            handle.name,
            handle.status,
            dict(handle.params),
            dict(handle.tags),
            dict(handle.metrics),
        )


def runs(
    *,
    env: str | None = None,
    sweep: str | None = None,
    outputs: Path | str = "outputs",
    uri: str | None = None,
    **where: object,
) -> Runs:
    """Return the recorded runs, in the order in which they were started.

        plexp.runs(env="cartpole", algo="ppo", seed=[0, 1, 2])

    Args:
        env: environment, such as `cartpole`.
        sweep: name of a sweep.
        outputs, uri: see `load_run`.
        where: params, config groups or tags, each with its value or a list of values; `__` stands for a dot, as in
            `net__layers=3`.

    Raises ConfigError where no run is of that kind, and StoreError if there is no store or it does not answer.
    """
    from plexp.analysis.grouping import select

    store = Store(Path(outputs).absolute(), uri)
    _settle(store)
    found = select(open_history(uri, store.outputs).runs(), env=env, where=_conditions(where), sweep=sweep)
    return Runs(store, tuple(found))


def compare(
    *,
    by: str | Sequence[str] | None = None,
    env: str | None = None,
    sweep: str | None = None,
    baseline: str | None = None,
    threshold: float | None = None,
    outputs: Path | str = "outputs",
    uri: str | None = None,
    **where: object,
) -> ShownComparison:
    """Compare groups of recorded runs: which learns faster, which is more stable, and is it more than luck?

        plexp.compare(by="algo", env="cartpole")

    The comparison prints as the command `plexp compare` does and shows as tables in a notebook; it is written nowhere.

    Args:
        by: params or config groups that make the groups; None: all that differ.
        baseline: group that the others are compared with; None: every pair, or the best with the rest.
        threshold: mean return that counts as solved; None: the environment's `solved_return`.
        env, sweep, outputs, uri, where: see `runs`.

    Raises ConfigError where there is nothing to compare, and StoreError if there is no store or it does not answer.
    """
    from plexp.analysis.compare import compare as compare_runs
    from plexp.analysis.display import ShownComparison
    from plexp.analysis.request import Request, recorded

    keys = [by] if isinstance(by, str) else by
    store = Store(Path(outputs).absolute(), uri)
    _settle(store)
    request = Request(uri=uri, outputs=store.outputs, env=env, where=_conditions(where), sweep=sweep)
    comparison = compare_runs(recorded(request), by=keys, baseline=baseline, threshold=threshold)
    return ShownComparison.of(comparison)


@dataclass(frozen=True)
class Store:
    """The place where runs are recorded."""

    outputs: Path
    """Folder that was given as `outputs`."""
    uri: str | None
    """URI of MLflow's store; None: the file in `outputs`."""


@dataclass(frozen=True)
class Run:
    """A recorded run."""

    store: Store = field(repr=False)
    run_id: str
    name: str
    status: str
    """FINISHED, FAILED, KILLED, or RUNNING."""
    params: Mapping[str, str] = field(repr=False)
    """Resolved configuration with dotted names, as MLflow has it, such as `net.layers`: `2`."""
    tags: Mapping[str, str] = field(repr=False)
    """Tags of the run, such as `version.torch`."""
    metrics: Mapping[str, float] = field(repr=False)
    """Last value of each metric."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """Resolved configuration of the run."""
        with self._open() as handle:
            return handle.values

    @cached_property
    def agent(self) -> RecordedAgent:
        """The trained agent: `run.agent.act(observation)` returns the action for the environment.

        Raises ConfigError if the run has recorded no agent, or one that does not fit this version of plexp.
        """
        from plexp.recorded.restore import restore_agent

        with self._open() as handle, _torch_threads_kept():
            return restore_agent(handle)

    def curve(self) -> pd.DataFrame:
        """Return the learning curve, a row for each evaluation.

        The columns are `step`, `return`, `return_std`, `length` and `seconds`: environment steps, mean and standard
        deviation of the greedy return, mean length of an episode in steps, and seconds of training so far.
        """
        import pandas as pd

        names = {
            "return": "eval/return",
            "return_std": "eval/return_std",
            "length": "eval/length",
            "seconds": "eval/seconds",
        }
        with self._open() as handle:
            history = handle.history(list(names.values()))
        frame = pd.DataFrame({column: pd.Series(history.get(name, {}), dtype=float) for column, name in names.items()})
        return frame.rename_axis("step").sort_index().reset_index()

    def history(self) -> pd.DataFrame:
        """Return every metric at every step that it was recorded at: a row for each step, a column for each metric."""
        import pandas as pd

        with self._open() as handle:
            frame = pd.DataFrame(
                {name: pd.Series(points, dtype=float) for name, points in sorted(handle.history().items())}
            )
        return frame.rename_axis("step").sort_index().reset_index()

    def episodes(self) -> pd.DataFrame:
        """Return the training episodes, in the order in which they ended: steps so far, return, length, environment."""
        import pandas as pd

        with self._open() as handle:
            return pd.read_csv(handle.file("episodes.csv"))

    def evaluate(self, *overrides: str, episodes: int = 100, sampled: bool = False, seed: int = 0) -> LaterEvaluation:
        """Play new episodes with the trained agent, and record them with the run.

        Args:
            overrides: another environment, such as `env.kwargs.gravity=-5`.
            episodes: number of episodes.
            sampled: whether actions are sampled from the policy; False: the most likely one is taken.
            seed: seed of the episodes.
        """
        from plexp.recorded.evaluate import evaluate_run, record

        with self._open() as handle, _torch_threads_kept():
            evaluation = evaluate_run(handle, episodes=episodes, sampled=sampled, seed=seed, overrides=overrides)
            record(handle, evaluation, overrides)
            return evaluation

    def film(
        self,
        *,
        episode: int | None = None,
        episodes: int = 20,
        sampled: bool = False,
        seed: int = 0,
        speed: float = 1.0,
        to: Path | str | None = None,
    ) -> Films:
        """Film the best, the median and the worst of some new episodes, or a training episode; record the films.

        Args:
            episode: training episode to film instead, a row of `episodes()` counted from 1.
            episodes: number of new episodes.
            sampled, seed: see `evaluate`.
            speed: 2 is twice as fast as the environment.
            to: folder for the files; None: `films/` in the outputs folder.

        The result shows the films in a notebook, and is a sequence of their paths.
        """
        from plexp.recorded.film import Films, Request, default_folder, film_run

        with self._open() as handle, _torch_threads_kept():
            folder = default_folder(handle, self.store.outputs) if to is None else Path(to).absolute()
            request = Request(folder, episode, episodes, sampled, seed, speed)
            return Films(film_run(handle, request))

    def __str__(self) -> str:
        return f"{self.name}  {self.status}{self._final('  final return ')}  run {self.run_id}"

    def _repr_html_(self) -> str:
        facts = f"{self.status}{self._final(', final return ')}, run <code>{self.run_id}</code>"
        return f"<b>{html.escape(self.name)}</b>: {facts}"

    def _final(self, text: str) -> str:
        value = self.metrics.get("eval/final_return")
        return "" if value is None else f"{text}{value:.1f}"

    @contextmanager
    def _open(self) -> Iterator[RunHandle]:
        from plexp.tracking.lookup import open_run

        with open_run(self.run_id, outputs=self.store.outputs, uri=self.store.uri) as handle:
            yield handle


class Runs(Sequence[Run]):
    """Recorded runs: a sequence of `Run`, shown as a table."""

    def __init__(self, store: Store, records: Sequence[RecordedRun]) -> None:
        self.store, self.records = store, records

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        if isinstance(index, slice):
            return Runs(self.store, self.records[index])
        return load_run(self.records[index].run_id, outputs=self.store.outputs, uri=self.store.uri)

    def __len__(self) -> int:
        return len(self.records)

    def table(self) -> pd.DataFrame:
        """Return a row for each run: its name, how it ended, the config chosen in each group, seed, final return."""
        import pandas as pd

        rows = [_row(record) for record in self.records]
        return pd.DataFrame(rows).set_index("run_id") if rows else pd.DataFrame()

    def __repr__(self) -> str:
        return self.table().to_string() if self.records else "no runs"

    def _repr_html_(self) -> str:
        return str(self.table().to_html())


def _row(record: RecordedRun) -> dict[str, object]:
    groups = {
        group: record.tags.get(f"choice.{group}", record.params.get(f"{group}.plugin")) for group in REQUIRED_GROUPS
    }
    facts = {"run_id": record.run_id, "name": record.name, "status": record.status, **groups}
    return {**facts, "seed": record.params.get("seed"), "final_return": record.metrics.get("eval/final_return")}


def _settle(store: Store) -> None:
    """Mark the runs whose process was killed, which MLflow still shows as RUNNING, as every command does beforehand."""
    if not unsettled_runs(state_folder(store.outputs)):
        return
    from plexp.execution.recovery import can_settle, settle_outputs

    try:
        for line in settle_outputs(store.outputs, store.uri):
            log.info("%s", line)
    except StoreError as error:
        if can_settle(store.outputs, store.uri):
            log.warning("%s", error)


def _job(overrides: Sequence[str]) -> Job:
    return Job(*compose_with_choices(*overrides), overrides)


def _conditions(where: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the values that a param, group or tag may have, as MLflow has them."""
    values = {key.replace("__", "."): value for key, value in where.items()}
    return {key: list(map(str, v if isinstance(v, list | tuple | set | range) else [v])) for key, v in values.items()}


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Give torch back the number of threads that it had: an experiment sets its own."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
