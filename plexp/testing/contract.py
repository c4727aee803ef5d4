"""The contract of plugins, checked on tiny environments and networks: `plexp check` and `plexp.testing.faults`.

A check yields one line for each fault; an exception of the plugin is a fault too.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from plexp.config import config_files, registry
from plexp.config.compose import compose, resolve
from plexp.config.hydra_errors import compose_values
from plexp.config.schema import check as check_values
from plexp.errors import ConfigError, Problem, one_line
from plexp.execution.checkpoint import copied
from plexp.execution.experiment import Experiment, build
from plexp.testing import checks
from plexp.testing.fixtures import PARTS, PIXELS
from plexp.training.progress import TrainingProgress

TINY = {
    "env.num_envs": 2,
    "env.max_episode_steps": 12,
    "net.width": 8,
    "algo.num_steps": 8,
    "algo.num_minibatches": 2,
    "algo.update_epochs": 2,
    "algo.train_every": 16,
    "algo.batch_size": 8,
    "algo.learning_starts": 16,
    "algo.gradient_steps": 2,
    "evaluation.every": 16,
}
"""Overrides that make an experiment tiny, where its configuration has these keys."""
DOCUMENTATION = "documentation"
"""Title of the check of docstring and comments, which says nothing about what the plugin does."""
WIRED = {"algo": ("agent", "networks", "learner", "advantage", "rng")}
"""Positional parameters that each kind of plugin may have."""


@dataclass(frozen=True)
class Result:
    """Result of one check."""

    title: str
    faults: list[str] = field(default_factory=list)
    """A line for each fault; empty if the check passes."""


@dataclass(frozen=True)
class Subject:
    """The plugin that is checked."""

    group: str
    name: str
    cls: type
    overrides: tuple[str, ...] = ()
    """Further overrides of the experiments that it is checked in."""

    @property
    def choice(self) -> str:
        """The override that chooses the plugin."""
        return f"{self.group}=[{self.name}]" if self.group == "callbacks" else f"{self.group}={self.name}"

    def experiments(self) -> list[tuple[str, ...]]:
        """Return the overrides of experiments with it: discrete and continuous actions; images and parts for networks."""
        others = {"advantage": ("algo=a2c",), "replay": ("algo=dqn",)}.get(self.group, ())
        if (self.group, self.name) == ("advantage", "none"):
            others = ("algo=dqn",)
        environments: list[tuple[str, ...]] = [("env=cartpole",), ("env=pendulum",)]
        environments += [PIXELS, PARTS] if self.group == "net" else []
        if self.group == "env":
            environments = [()]
        return [(*others, self.choice, *environment, *self.overrides) for environment in environments]

    def config(self) -> dict[str, Any]:
        """Return the values that its config composes to, unresolved. Raises what Hydra raises."""
        section: Any = compose(self.choice, *self.overrides)[self.group]
        return dict((section[self.name] if self.group == "callbacks" else section).items_ex(resolve=False))


Check: TypeAlias = Callable[[Subject], Iterator[str]]


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Log a warning that several experiments repeat only once."""
    log, seen = logging.getLogger("plexp"), set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_first = text not in seen
        seen.add(text)
        return is_first

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


@_each_warning_once()
def check(group: str, name: str, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> list[Result]:
    """Check a plugin, and return the result of each check in order.

    The checks of its behaviour run only if its file and its config are right; the one of its documentation comes last.

    Args:
        group, name: the plugin.
        overrides: further overrides of the experiments that it is checked in.
        only: titles of the checks of behaviour to run; empty: all.

    Raises ConfigError if there is no such plugin, or if it cannot be imported.
    """
    subject = Subject(group, name, registry.find(group, name), tuple(overrides))
    form: list[tuple[str, Check]] = [("signature", _signature), ("config", _config), ("builds", _builds)]
    results: list[Result] = []
    for title, function in form:
        results.append(_result(title, function, subject))
        if results[-1].faults:
            break
    else:
        results += _behaviour(subject, only)
    if not only or DOCUMENTATION in only:
        results.append(_result(DOCUMENTATION, _documentation, subject))
    return results


def _behaviour(subject: Subject, only: Sequence[str]) -> list[Result]:
    group = subject.group
    own = {} if (group, subject.name) == ("advantage", "none") else checks.CHECKS[group]
    behaviour: list[tuple[str, Check]] = [
        *((title, partial(_in_experiment, function)) for title, function in own.items()),
        *(("trains", _trains), ("determinism", _determinism), ("resuming", _resumes)),
    ]
    if group in ("algo", "advantage", "net", "replay"):
        behaviour.append(("device", lambda subject: checks.on_another_device(_first_that_builds(subject))))
    return [_result(title, function, subject) for title, function in behaviour if not only or title in only]


def faults(group: str, name: str, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> list[str]:
    """Return a line for each fault of a plugin, none if it satisfies its contract. See `check`."""
    return [f"{result.title}: {fault}" for result in check(group, name, overrides, only) for fault in result.faults]


def _result(title: str, function: Check, subject: Subject) -> Result:
    try:
        return Result(title, list(function(subject)))
    except ConfigError as error:
        return Result(title, str(error).splitlines())
    except Exception as error:
        return Result(title, [f"raised {type(error).__name__}: {one_line(error)}"])


def _in_experiment(function: Callable[[Any, type], Iterator[str]], subject: Subject) -> Iterator[str]:
    with _built(*_first_that_builds(subject)) as experiment:
        yield from function(experiment, subject.cls)


def _signature(subject: Subject) -> Iterator[str]:
    allowed = WIRED.get(subject.group, ())
    for parameter in inspect.signature(subject.cls).parameters.values():
        own = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if not own and parameter.name not in allowed:
            wired = ", ".join(allowed) or "nothing"
            yield f"{parameter.name} is positional, and {wired} is wired in: write it behind a *, as a value of its config"
        if own and parameter.annotation is inspect.Parameter.empty:
            yield f"parameter {parameter.name} has no type: write {parameter.name}: PositiveInt, or another"
        if parameter.default is not inspect.Parameter.empty:
            yield f"parameter {parameter.name} has a default: its value belongs in the config"


def _config(subject: Subject) -> Iterator[str]:
    group, name = subject.group, subject.name
    if not (files := config_files.files(group, name)):
        yield f"there is no conf/{group}/{name}.yaml: write one with plugin: {name} and a value for each parameter"
        return
    values = subject.config()
    if values.pop("plugin", None) != name:
        yield f"{files[-1]} does not say plugin: {name}"
    problem = set(registry.ENV_PRESET_FIELDS) if group == "env" else set()
    expected = set(registry.parameters(subject.cls))
    for key in sorted(expected - values.keys()):
        yield f"{files[-1]} has no value for {key}"
    for key in sorted(values.keys() - expected - problem):
        yield f"{files[-1]} has {key}, which {subject.cls.__name__} has not as a keyword-only parameter"


def _documentation(subject: Subject) -> Iterator[str]:
    if not (inspect.getdoc(subject.cls) or "").strip():
        yield f"{subject.cls.__name__} has no docstring: say in one line what it is, and its source"
    for file in config_files.files(subject.group, subject.name)[-1:]:
        parameters = set(registry.parameters(subject.cls))
        for line in re.finditer(r"^ *(\w+):([^#\n]*)$", file.read_text(), re.M):
            if line[1] in parameters and "${" not in line[2]:
                yield f"{file} does not say in a comment what {line[1]} does"


def _trains(subject: Subject) -> Iterator[str]:
    for overrides in subject.experiments():
        try:
            before, _ = _weights(overrides, updates=0)
        except ConfigError:
            continue
        after, metrics = _weights(overrides, updates=2)
        where = " ".join(overrides)
        for name, value in metrics.items():
            if not math.isfinite(value):
                yield f"its metric {name} is {value} ({where})"
        if not all(x.isfinite().all() for x in after):
            yield f"weights are not finite after two updates ({where})"
        if all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
            yield f"two updates changed no weight ({where})"


def _determinism(subject: Subject) -> Iterator[str]:
    overrides = _first_that_builds(subject)
    once, again = (_weights(overrides, updates=2)[0] for _ in range(2))
    if not all(torch.equal(x, y) for x, y in zip(once, again, strict=True)):
        yield "the same seed gives other weights: draw from what is wired in, from torch, or from the episode's seed only"
    other, _ = _weights((*overrides, "seed=1"), updates=2)
    if all(torch.equal(x, y) for x, y in zip(once, other, strict=True)):
        yield "another seed gives the same weights"


def _resumes(subject: Subject) -> Iterator[str]:
    overrides = _first_that_builds(subject)
    whole, _ = _weights(overrides, updates=3)
    with _built(*overrides) as first, _built(*overrides) as second, tempfile.TemporaryDirectory() as folder:
        for experiment in (first, second):
            if experiment.memory is not None:
                experiment.memory.attach(Path(folder))
        if first.stateful is None or second.stateful is None:
            yield "it learns by itself and has no state_dict: its runs cannot be resumed"
            return
        progress = TrainingProgress()
        _iterate(first, 2, progress)
        state = {name: copied(part.state_dict()) for name, part in first.stateful.items()}
        if first.memory is not None:
            first.memory.sync()
        for name, part in second.stateful.items():
            part.load_state_dict(state[name])
        if second.trainer.collector.not_replayed:
            yield "an episode differs when it is re-simulated from its seed and actions: a reset must forget everything"
            return
        _iterate(second, 1, progress)
        if not all(torch.equal(x, y) for x, y in zip(whole, second.agent.state_dict().values(), strict=True)):
            yield "a resumed run differs: return what it remembers in state_dict, and restore it in load_state_dict"


def _builds(subject: Subject) -> Iterator[str]:
    _first_that_builds(subject)
    yield from ()


def _first_that_builds(subject: Subject) -> tuple[str, ...]:
    refusal = None
    for overrides in subject.experiments():
        try:
            _built(*overrides).close()
        except ConfigError as error:  # an algorithm for discrete actions may refuse others, a network vectors
            refusal = refusal or error
            continue
        return overrides
    raise refusal or AssertionError


def problems_of(group: str, name: str, overrides: Sequence[str]) -> list[Problem]:
    """Return what is wrong with the overrides for a check, leaving out what is wrong with the plugin without them."""
    cls = registry.find(group, name)

    def problems(*given: str) -> list[Problem]:
        choices = Subject(group, name, cls, given).experiments()[0]
        try:
            steps = compose_values(*choices)["total_timesteps"]
            check_values({**_tiny(*choices), "total_timesteps": steps})
        except ConfigError as error:
            return error.problems
        return []

    known = problems()
    return [problem for problem in problems(*overrides) if problem not in known]


def _built(*overrides: str) -> Experiment:
    return build(_tiny(*overrides))


def _tiny(*overrides: str) -> dict[str, Any]:
    """Return the values of an experiment that takes little time."""
    config = compose(*overrides, "compile=false", "total_timesteps=64")
    for key, value in TINY.items():
        section, _, name = key.partition(".")
        if name in config[section] and f"{key}=" not in " ".join(overrides):
            config[section][name] = value
    return resolve(config)


def _weights(overrides: tuple[str, ...], *, updates: int) -> tuple[list[Tensor], dict[str, float]]:
    """Return all tensors of the agent after so many updates, and the metrics of the last one."""
    with _built(*overrides) as experiment:
        metrics = _iterate(experiment, updates)
        return [x.detach().clone() for x in experiment.agent.state_dict().values()], metrics


def _iterate(experiment: Experiment, updates: int, progress: TrainingProgress | None = None) -> dict[str, float]:
    progress, metrics = progress or TrainingProgress(), {}
    for _ in range(updates):
        metrics = dict(experiment.trainer.iterate(progress))
    return metrics
