"""One run: trains an experiment, or resumes it, and records everything in MLflow."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from plexp.config import plain
from plexp.config.schema import flattened
from plexp.errors import EnvironmentFault, Pruned, StoreError, TrainingError, is_full, one_line, writing
from plexp.execution import checkpoint, results
from plexp.execution.callbacks.checkpointer import Checkpointer, Heartbeat
from plexp.execution.callbacks.default import default_callbacks
from plexp.execution.callbacks.episode_log import EpisodeLog
from plexp.execution.callbacks.evaluator import PruningRule
from plexp.execution.callbacks.films import EvaluationFilms
from plexp.execution.experiment import Experiment
from plexp.execution.outcome import Outcome
from plexp.execution.provenance import provenance
from plexp.execution.recovery import settle
from plexp.execution.resume import lost
from plexp.execution.state import RunFolder
from plexp.tracking.format import masked
from plexp.tracking.tracker import Status, Tracker
from plexp.training.interfaces import Stateful, TrainingCallback
from plexp.training.progress import TrainingProgress
from plexp.training.replay.log import DamagedLog

log = logging.getLogger("plexp")


def run(
    experiment: Experiment,
    tags: Mapping[str, str],
    console: Console,
    folder: RunFolder,
    pruning: PruningRule | None = None,
) -> Outcome:
    """Train to the end, and return the outcome; a folder with a checkpoint is resumed, in the same MLflow run.

    The run ends as FINISHED, as KILLED by Ctrl-C, SIGTERM or its search, or as FAILED with the traceback.

    Args:
        experiment: what to train.
        tags: tags of the run.
        console: gets the progress bar.
        folder: state of the run; its lock must be held.
        pruning: rule of the search that the run belongs to; a run that it ends raises Pruned.

    Raises StoreError, before any run exists, if the store cannot be reached; TrainingError if the training fails.
    """
    with experiment:
        return Run(experiment, tags, console, folder, pruning).train()


class Run:
    """An experiment with its record in MLflow and its folder; see `run`."""

    def __init__(
        self,
        experiment: Experiment,
        tags: Mapping[str, str],
        console: Console,
        folder: RunFolder,
        pruning: PruningRule | None = None,
    ) -> None:
        config, values = experiment.config, experiment.values
        uri, outputs = config.tracker.uri, Path(config.outputs).absolute()
        recorded = {**values, "tracker": {**values["tracker"], "uri": uri and masked(uri)}}
        self.experiment, self.folder, record = experiment, folder, folder.record()
        self.tracker = tracker = Tracker(
            uri=uri,
            outputs=outputs,
            outbox=folder.outbox,
            experiment=config.tracker.experiment or experiment.environment.label,
            run_name=experiment.name,
            params=dict(flattened(recorded)),
            tags={"kind": "training", "state": folder.path.name, **provenance(), **tags},
            run_id=record.run_id if record else None,
            created=lambda run_id: folder.change(run_id=run_id),
        )
        try:
            settle(tracker.client, outputs, uri)
        except StoreError as error:  # other runs must not stop this one
            log.warning("other runs that were killed are not settled: %s", error)
        if not tracker.is_resumed:
            folder.remove_progress()
            tracker.log_text(yaml.safe_dump(recorded, sort_keys=False, allow_unicode=True), "config.yaml")
        films = EvaluationFilms(experiment, tracker.log_file, folder.path) if config.evaluation.film else None
        self.callbacks = default_callbacks(experiment, tracker.log, tracker.set_tags, console, film=films, rule=pruning)
        actions = folder.episodes if config.tracker.log_actions else None
        self.episodes = EpisodeLog(experiment.trainer.collector, actions)
        self.progress, profile = TrainingProgress(), experiment.trainer.profile
        own: dict[str, Stateful] = {
            "recorder": self.callbacks.recorder,
            "evaluator": self.callbacks.evaluator,
            "progress": self.progress,
            "callbacks": self.callbacks.plugins,
            "episodes": self.episodes,
            "profile": profile,
        }
        if experiment.memory is not None:
            experiment.memory.attach(folder.replay)
        self.parts = None if experiment.stateful is None else {**experiment.stateful, **own}
        self.checkpointer = Checkpointer(self.parts or {}, self._write, config.checkpoint.every, profile)

    def train(self) -> Outcome:
        """Train from the last checkpoint, if there is one, to the end."""
        try:
            self._resume()
            callbacks: list[TrainingCallback] = [self.episodes, *self.callbacks, Heartbeat(self.folder)]
            callbacks += [] if self.parts is None else [self.checkpointer]
            try:
                self.experiment.trainer.run(callbacks, self.progress)
            finally:
                self.callbacks.bar.close()
            outcome = results.record_results(
                self.experiment, self.tracker, self.callbacks.evaluator, self.progress, self.folder.path
            )
            self._record_episodes()
            self._close("FINISHED", [], outcome=asdict(outcome), metrics=self.tracker.last)
            self._check_recorded()
        except KeyboardInterrupt:
            self._save()
            self._record_episodes()
            self._close("KILLED", [])
            raise
        except Pruned as pruned:
            self.tracker.set_tags({"pruned": str(pruned)})
            self._record_episodes()
            self._close("KILLED", [], pruned=str(pruned))
            self.folder.remove_progress()
            raise
        except BaseException as error:
            self._fail(error)
            if isinstance(error, StoreError):  # it is no fault of the configuration any more
                raise TrainingError(f"{error}; the same command resumes the run then") from None
            raise
        self.folder.remove_progress()
        return outcome

    def _check_recorded(self) -> None:
        """Warn if others have removed the run, or its database, while it ran."""
        record, run_id = self.folder.record(), self.tracker.run_id
        gone = {} if record is None else lost([(self.folder, record)], self.experiment.config.tracker.uri)
        if run_id in gone:
            log.warning("run %s %s: the same command trains it again", run_id, gone[run_id])

    def _resume(self) -> None:
        """Restore the last checkpoint that is whole. Raises TrainingError if it does not fit."""
        if self.parts is None:
            plugin = self.experiment.config.algo["plugin"]
            log.warning("algo=%s has no state_dict, so this run cannot be resumed if it is interrupted", plugin)
            return
        last = checkpoint.load(self.folder.checkpoints, self._restore)
        if last is None:
            return
        if last.damaged and not last.state and self.experiment.memory is not None:
            damages = "; ".join(last.damaged)
            raise TrainingError(f"no checkpoint can be used; resume=never starts a new run ({damages})")
        for damage in last.damaged:
            log.warning("damaged checkpoint, the one before it is used: %s", damage)
        tags = {"resume.damaged": "; ".join(last.damaged)} if last.damaged else {}
        if last.state:
            tags["resume.steps"] = str(last.steps)
            log.info("%s resumes at step %s (resume=never starts a new run)", self.experiment.name, f"{last.steps:,}")
        if lost := self.experiment.trainer.collector.not_replayed:
            which = ", ".join(map(str, lost))
            tags["resume.not_replayed"] = f"environments {which}, at step {last.steps}"
            log.warning(
                "the episodes of environments %s differ when they are re-simulated: new ones begin there", which
            )
        self.tracker.set_tags(tags)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Restore all parts. Raises DamagedLog, or TrainingError for a state that does not fit."""
        try:
            for name, part in (self.parts or {}).items():
                part.load_state_dict(state[name])
        except DamagedLog:
            raise
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise TrainingError(f"the checkpoint does not fit ({reason}); resume=never starts a new run") from error

    def _write(self, state: checkpoint.State, steps: int) -> None:
        self.tracker.sync()
        self.episodes.sync()
        memory = self.experiment.memory
        if memory is not None:
            memory.sync()
        with writing("outputs", self.experiment.config.outputs, "make it one that you can write"):
            checkpoint.save(self.folder.checkpoints, state, steps)
        if memory is not None:
            memory.trim(state["memory"], checkpoint.KEPT)

    def _save(self) -> None:
        """Write the last checkpoint; if it cannot be written, the one before it stays."""
        try:
            self.checkpointer.save_last()
        except Exception as error:
            log.warning("the last checkpoint cannot be written (%s); the one before it stays", one_line(error))

    def _record_episodes(self) -> None:
        try:
            seeds = self.experiment.streams.training
            results.record_episodes(self.tracker, self.callbacks.recorder, self.episodes, seeds, self.folder.path)
        except Exception as error:
            log.warning("the training episodes are not all recorded: %s", one_line(error))

    def _fail(self, error: BaseException) -> None:
        """Record why the run failed; on a full disk before anything else, in the space that was set aside for it."""
        full = is_full(error)
        self.folder.spend_reserve()
        if not full:
            self._save()
            self._record_episodes()
        line = f"{type(error).__name__}: {one_line(error)}"
        with suppress(StoreError):  # the error itself is what matters
            self.tracker.set_tags({"error": line})
            self.tracker.log_text(traceback.format_exc(), "traceback.txt")
            if isinstance(error, EnvironmentFault) and error.episode is not None:
                self.tracker.log_text(plain.dumps(error.recorded(self.experiment.config.env), indent=1), "fault.json")
        with suppress(StoreError, OSError):
            self._close("FAILED", [line])
        if full:
            self._save()

    def _close(self, status: Status, error: list[str], **facts: Any) -> None:
        if status == "FINISHED" and self.tracker.is_resumed:
            self.tracker.remove_tag("error")
        self.folder.is_settled = False  # until MLflow, or the outbox at least, knows it too
        self.folder.change(status=status, error=error, **facts)
        self.tracker.finish(status)
        self.folder.is_settled = True
