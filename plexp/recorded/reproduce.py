"""Trains a recorded run again from its record, and compares every number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from rich.console import Console
from safetensors.torch import load_file

from plexp.config.identity import identity
from plexp.errors import decoration
from plexp.execution.callbacks.default import default_callbacks
from plexp.execution.callbacks.recorder import Recorder
from plexp.execution.experiment import Experiment
from plexp.execution.provenance import provenance
from plexp.recorded.restore import rebuilt
from plexp.tracking.format import name_for_mlflow
from plexp.tracking.history import LARGEST
from plexp.tracking.lookup import RunHandle
from plexp.training.progress import TrainingProgress

LATER = ("time/", "speed/", "stability/", "evaluate/", "eval/seconds", "eval/normalised_score")
"""Prefixes of metrics that measure time, are made of others, or were added after the run."""


class Differs(Exception):
    """Raised at the first difference."""


@dataclass
class Reproduction:
    """Result of a reproduction."""

    numbers: int = 0
    """Number of metric values that were compared."""
    episodes: int = 0
    """Number of training episodes that were compared."""
    tensors: int = 0
    """Number of weight tensors that were compared."""
    differences: list[str] = field(default_factory=list)
    """Differences in the order in which they were met; the first one only, unless it goes on to the end."""
    changes: list[str] = field(default_factory=list)
    """Changes since the run: versions, machine, commit, the plugins' code."""

    @property
    def identical(self) -> bool:
        """True if everything is equal bit for bit."""
        return not self.differences

    def lines(self) -> list[str]:
        """Return the lines that the command prints."""
        parts = f"{self.numbers:,} numbers, {self.episodes:,} episodes and {self.tensors} tensors of weights"
        if self.identical:
            return [f"identical: {parts}, bit for bit", *(f"although {change}" for change in self.changes)]
        others = [f"note that {change}" for change in self.changes]
        others = others or ["versions, machine, commit and plugins are the same"]
        return [f"differs: {self.differences[0]}", *self.differences[1:20], *others]


def reproduce(run: RunHandle, console: Console, *, to_the_end: bool = False) -> Reproduction:
    """Train a run again, compiled as it was, and compare all metrics at all steps, all training episodes and the weights.

    It stops at the first difference unless `to_the_end`. Raises ConfigError for a run without a record, or one that does
    not fit this version of plexp, and TrainingError if the training fails.
    """
    weights, episodes, values = run.file("agent.safetensors"), run.file("episodes.csv"), run.values
    reproduction = Reproduction(changes=_changes(run))
    comparison = _Comparison(run.history(), reproduction, to_the_end)
    with rebuilt(values, run.newer) as experiment:
        try:
            recorder = _train(experiment, comparison, console)
            comparison.end()
            _compare_episodes(episodes.read_text(), recorder.episodes_as_csv(), comparison)
            _compare_weights(load_file(weights), experiment.agent.state_dict(), comparison)
        except Differs:
            pass
        if names := experiment.streams.use.names:
            reproduction.changes.append(
                f"the environment draws from the global generator of {' and '.join(sorted(names))}, not from self.np_random"
            )
    word = "identical" if reproduction.identical else reproduction.lines()[0]
    with decoration("the record of the reproduction"):
        run.set_tags({"reproduced": f"{time.strftime('%Y-%m-%d %H:%M')} on {provenance()['host.name']}: {word}"})
    return reproduction


class _Comparison:
    """Takes the metrics that are logged, as a tracker does, and compares them with the recorded ones."""

    def __init__(self, history: Mapping[str, Mapping[int, float]], result: Reproduction, to_the_end: bool) -> None:
        self.history, self.result, self.to_the_end = history, result, to_the_end
        self.seen: set[tuple[str, int]] = set()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            if name.startswith(LATER):
                continue
            key, then, now = name_for_mlflow(name), self.history.get(name_for_mlflow(name), {}).get(step), float(value)
            self.seen.add((key, step))
            self.result.numbers += 1
            if then is None:
                self.differs(f"{name} at step {step:,} is {now!r}, and was not logged then")
            elif not _equal(then, now):
                self.differs(f"{name} at step {step:,} was {then!r} and is {now!r}")

    def end(self) -> None:
        """Note what was recorded and has not been logged now."""
        for name, points in self.history.items():
            if missing := [step for step in points if (name, step) not in self.seen and not name.startswith(LATER)]:
                self.differs(f"{name} was logged at step {missing[0]:,}, and is not now")

    def differs(self, what: str) -> None:
        self.result.differences.append(what)
        if not self.to_the_end:
            raise Differs


def _train(experiment: Experiment, comparison: _Comparison, console: Console) -> Recorder:
    callbacks = default_callbacks(
        experiment, comparison.log, lambda tags: None, console, name=f"{experiment.name}, again"
    )
    try:
        experiment.trainer.run(list(callbacks), TrainingProgress())
    finally:
        callbacks.bar.close()
    return callbacks.recorder


def _equal(then: float, now: float) -> bool:
    infinite = abs(then) > LARGEST and math.isinf(now) and (then > 0) == (now > 0)
    return then == now or infinite or (math.isnan(then) and math.isnan(now))


def _compare_episodes(then: str, now: str, comparison: _Comparison) -> None:
    rows, columns = now.splitlines(), len(then.partition("\n")[0].split(","))
    for number, (old, new) in enumerate(zip(then.splitlines()[1:], rows[1:], strict=False)):
        comparison.result.episodes += 1
        if old.split(",") != (played := new.split(",")[:columns]):
            comparison.differs(f"training episode {number} (steps, return, length) was {old} and is {','.join(played)}")
    if len(then.splitlines()) != len(rows):
        comparison.differs(f"there were {len(then.splitlines()) - 1:,} training episodes, and are {len(rows) - 1:,}")


def _compare_weights(
    then: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor], comparison: _Comparison
) -> None:
    for name in sorted(then.keys() | now.keys()):
        comparison.result.tensors += 1
        if name not in then or name not in now or then[name].shape != now[name].shape:
            comparison.differs(f"the weights {name} have another shape, or are not there")
        elif not torch.equal(then[name], now[name].cpu()):
            most = (then[name].double() - now[name].cpu().double()).abs().max()
            comparison.differs(f"the weights {name} differ by up to {most:.3g}")


def _changes(run: RunHandle) -> list[str]:
    present, changes = provenance(), []
    for key in sorted(key for key in run.tags.keys() | present.keys() if key.startswith(("version.", "host.", "git."))):
        then, now = run.tags.get(key, "unknown"), present.get(key, "unknown")
        if then != now:
            changes.append(f"{key} was {then} and is {now}")
        if (resumed := run.tags.get(f"resume.{key}")) is not None:
            changes.append(f"{key} was {resumed} in a part of the run")
    if run.tags.get("state", "").partition("-")[0] not in ("", identity(run.values)):
        changes.append("the code of its plugins, or what plexp makes of its configuration, is another")
    return changes
