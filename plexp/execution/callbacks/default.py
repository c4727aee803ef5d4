"""The callbacks that every training of an experiment has, whether it is run, reproduced or checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console

from plexp.execution.callbacks.dispatcher import CallbackDispatcher
from plexp.execution.callbacks.evaluator import Evaluator, Film, Pruning, PruningRule
from plexp.execution.callbacks.progress_bar import ProgressBar
from plexp.execution.callbacks.recorder import Log, Recorder
from plexp.execution.experiment import Experiment
from plexp.training.evaluation import EvaluationResult, StepLimit, evaluate
from plexp.training.interfaces import TrainingCallback

Evaluate = Callable[[int, int], EvaluationResult]
"""A function that plays an evaluation, given its number and its number of episodes."""


@dataclass(frozen=True)
class DefaultCallbacks:
    """The default callbacks of an experiment, in the order in which they are called."""

    recorder: Recorder
    evaluator: Evaluator
    pruning: Pruning | None
    """Ends the run by the rule of a search; None: the run is in no search."""
    plugins: CallbackDispatcher
    bar: ProgressBar

    def __iter__(self) -> Iterator[TrainingCallback]:
        pruning = [] if self.pruning is None else [self.pruning]
        return iter([self.recorder, self.evaluator, *pruning, self.plugins, self.bar])


def default_callbacks(
    experiment: Experiment,
    log: Log,
    set_tags: Callable[[Mapping[str, str]], object],
    console: Console,
    *,
    name: str | None = None,
    play: Evaluate | None = None,
    film: Film | None = None,
    rule: PruningRule | None = None,
) -> DefaultCallbacks:
    """Return the default callbacks of an experiment.

    Args:
        experiment: the experiment.
        log: records metrics at a step.
        set_tags: sets tags of the run.
        console: gets the progress bar.
        name: name that the bar shows; None: the experiment's.
        play: plays evaluations; None: the agent does, in the experiment's environment.
        film: films evaluations; None: none is filmed.
        rule: rule of the search that the run belongs to.
    """
    config, profile = experiment.config, experiment.trainer.profile
    limit = StepLimit(config.evaluation.max_steps)

    def play_greedily(index: int, episodes: int) -> EvaluationResult:
        seeds, bounds = experiment.streams.evaluation(index), experiment.trainer.collector.bounds
        return evaluate(experiment.agent, experiment.environment, seeds, episodes, limit=limit, bounds=bounds)

    evaluator = Evaluator(
        play or play_greedily,
        log,
        every=config.evaluation.every,
        episodes=config.evaluation.episodes,
        final_episodes=config.evaluation.final_episodes,
        solved_return=experiment.environment.solved_return,
        stop_when_solved=config.evaluation.stop_when_solved,
        profile=profile,
        film=film,
    )
    return DefaultCallbacks(
        Recorder(log, config.tracker.every, profile),
        evaluator,
        None if rule is None else Pruning(rule, evaluator),
        CallbackDispatcher(experiment.callbacks, log, set_tags),
        ProgressBar(name or experiment.name, evaluator, console),
    )
