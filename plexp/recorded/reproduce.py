"""`plexp reproduce`: runs a kept run again from its record, and compares every number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from rich.console import Console
from safetensors.torch import load_file

from plexp.config.identity import identity
from plexp.execution.callbacks.dispatcher import CallbackDispatcher
from plexp.execution.callbacks.evaluator import Evaluator
from plexp.execution.callbacks.progress_bar import ProgressBar
from plexp.execution.callbacks.recorder import Recorder
from plexp.execution.experiment import Experiment
from plexp.execution.provenance import provenance
from plexp.recorded.restore import rebuilt
from plexp.tracking.format import name_for_mlflow
from plexp.tracking.lookup import RunHandle
from plexp.training.interfaces import TrainingCallback
from plexp.training.progress import TrainingProgress

LATER = ("time/", "speed/", "stability/", "evaluate/", "eval/seconds", "eval/normalised_score")
"""Metrics that measure time, are made of others, or were added when the run was over."""
LARGEST = 1.7e308
"""MLflow keeps ±inf as ±1.8e308."""


class Differs(Exception):
    """The first difference."""


@dataclass
class Reproduction:
    """What came of it."""

    numbers: int = 0
    """Metrics compared, each at each step."""
    episodes: int = 0
    tensors: int = 0
    differences: list[str] = field(default_factory=list)
    """In the order in which they came; the first one only, unless it goes on to the end."""
    changes: list[str] = field(default_factory=list)
    """What is another than then: versions, machine, commit, the plugins' code."""

    @property
    def identical(self) -> bool:
        """Bit for bit."""
        return not self.differences

    def lines(self) -> list[str]:
        """As it is printed."""
        parts = f"{self.numbers:,} numbers, {self.episodes:,} episodes and {self.tensors} tensors of weights"
        if self.identical:
            return [f"identical: {parts}, bit for bit", *(f"although {each}" for each in self.changes)]
        others = [f"note that {each}" for each in self.changes]
        others = others or ["versions, machine, commit and plugins are those of then"]
        return [f"differs: {self.differences[0]}", *self.differences[1:20], *others]


def reproduce(run: RunHandle, console: Console, *, to_the_end: bool = False) -> Reproduction:
    """Train it again, compiled as it was, and compare all metrics at all steps, all training episodes and the weights.

    It stops at the first difference unless `to_the_end`. Raises ConfigError for a run without a record, or one that does
    not fit this plexp, and TrainingError where it cannot be trained any more.
    """
    weights, episodes, values = run.file("agent.safetensors"), run.file("episodes.csv"), run.values
    found = Reproduction(changes=_changes(run))
    comparison = _Comparison(run.history(), found, to_the_end)
    with rebuilt(values, run.newer) as experiment:
        try:
            recorder = _train(experiment, comparison, console)
            comparison.end()
            _compare_episodes(episodes.read_text(), recorder.episodes_as_csv(), comparison)
            _compare_weights(load_file(weights), experiment.agent.state_dict(), comparison)
        except Differs:
            pass
    word = "identical" if found.identical else found.lines()[0]
    run.set_tags({"reproduced": f"{time.strftime('%Y-%m-%d %H:%M')} on {provenance()['host.name']}: {word}"})
    return found


class _Comparison:
    """Takes what is logged, as a tracker does, and holds it against what was."""

    def __init__(self, history: Mapping[str, Mapping[int, float]], found: Reproduction, to_the_end: bool) -> None:
        self.history, self.found, self.to_the_end = history, found, to_the_end
        self.seen: set[tuple[str, int]] = set()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            if name.startswith(LATER):
                continue
            key, then, now = name_for_mlflow(name), self.history.get(name_for_mlflow(name), {}).get(step), float(value)
            self.seen.add((key, step))
            self.found.numbers += 1
            if then is None:
                self.differs(f"{name} at step {step:,} is {now!r}, and was not logged then")
            elif not _equal(then, now):
                self.differs(f"{name} at step {step:,} was {then!r} and is {now!r}")

    def end(self) -> None:
        """All that was logged then must have been logged now."""
        for name, points in self.history.items():
            if missing := [step for step in points if (name, step) not in self.seen and not name.startswith(LATER)]:
                self.differs(f"{name} was logged at step {missing[0]:,}, and is not now")

    def differs(self, what: str) -> None:
        self.found.differences.append(what)
        if not self.to_the_end:
            raise Differs


def _train(experiment: Experiment, comparison: _Comparison, console: Console) -> Recorder:
    from plexp.training.evaluation import evaluate

    config, streams = experiment.config, experiment.streams
    settings = {**config.evaluation.model_dump(), "film": None}
    settings["solved_return"] = experiment.environment.solved_return
    evaluator = Evaluator(
        lambda index, episodes: evaluate(experiment.agent, experiment.environment, streams.evaluation(index), episodes),
        comparison.log,
        profile=experiment.trainer.profile,
        **settings,
    )
    recorder = Recorder(comparison.log, config.tracker.every, experiment.trainer.profile)
    bar = ProgressBar(f"{experiment.name}, again", evaluator, console)
    plugins = CallbackDispatcher(experiment.callbacks, comparison.log, lambda tags: None)
    listeners: list[TrainingCallback] = [recorder, evaluator, plugins, bar]
    try:
        experiment.trainer.run(listeners, TrainingProgress())
    finally:
        bar.close()
    return recorder


def _equal(then: float, now: float) -> bool:
    infinite = abs(then) > LARGEST and math.isinf(now) and (then > 0) == (now > 0)
    return then == now or infinite or (math.isnan(then) and math.isnan(now))


def _compare_episodes(then: str, now: str, comparison: _Comparison) -> None:
    rows, columns = now.splitlines(), len(then.partition("\n")[0].split(","))
    for number, (old, new) in enumerate(zip(then.splitlines()[1:], rows[1:], strict=False)):
        comparison.found.episodes += 1
        if old.split(",") != (played := new.split(",")[:columns]):
            comparison.differs(f"training episode {number} (steps, return, length) was {old} and is {','.join(played)}")
    if len(then.splitlines()) != len(rows):
        comparison.differs(f"there were {len(then.splitlines()) - 1:,} training episodes, and are {len(rows) - 1:,}")


def _compare_weights(
    then: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor], comparison: _Comparison
) -> None:
    for name in sorted(then.keys() | now.keys()):
        comparison.found.tensors += 1
        if name not in then or name not in now or then[name].shape != now[name].shape:
            comparison.differs(f"the weights {name} have another shape, or are not there")
        elif not torch.equal(then[name], now[name].cpu()):
            most = (then[name].double() - now[name].cpu().double()).abs().max()
            comparison.differs(f"the weights {name} differ by up to {most:.3g}")


def _changes(run: RunHandle) -> list[str]:
    today, changes = provenance(), []
    for key in sorted(key for key in run.tags.keys() | today.keys() if key.startswith(("version.", "host.", "git."))):
        then, now = run.tags.get(key, "unknown"), today.get(key, "unknown")
        if then != now:
            changes.append(f"{key} was {then} and is {now}")
        if (resumed := run.tags.get(f"resume.{key}")) is not None:
            changes.append(f"{key} was {resumed} in a part of the run")
    if run.tags.get("state", "").partition("-")[0] not in ("", identity(run.values)):
        changes.append("the code of its plugins, or what plexp makes of its configuration, is another")
    return changes
