"""Callbacks that are plugins: what they are told, and what they may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from plexp.errors import TrainingError, one_line
from plexp.execution.callbacks.evaluator import Evaluator
from plexp.execution.callbacks.recorder import Log
from plexp.training.interfaces import TrainingCallback, TrainingProgress
from plexp.training.progress import Progress
from plexp.training.types import Metrics


class CallbackDispatcher:
    """Tells them, one after the other, how the training goes; keeps what they log, and why they stop it.

    Raises TrainingError for whatever one of them raises.
    """

    def __init__(
        self,
        plugins: Mapping[str, TrainingCallback],
        evaluator: Evaluator,
        log: Log,
        tag: Callable[[Mapping[str, str]], object],
    ) -> None:
        self.plugins, self.evaluator, self.log, self.tag = plugins, evaluator, log, tag

    def on_start(self, progress: Progress) -> None:
        self._tell("on_start", progress, {})

    def on_iteration(self, progress: Progress, metrics: Metrics) -> None:
        self._tell("on_iteration", progress, metrics)

    def on_end(self, progress: Progress) -> None:
        self._tell("on_end", progress, {})

    def state_dict(self) -> dict[str, Any]:
        """Of those that remember something."""
        return {name: each.state_dict() for name, each in self.plugins.items() if hasattr(each, "state_dict")}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for name, state in state_dict.items():
            self.plugins[name].load_state_dict(state)  # type: ignore[attr-defined]  # one that has state_dict

    def _tell(self, moment: str, progress: Progress, metrics: Metrics) -> None:
        for name, plugin in self.plugins.items():
            told = TrainingProgress(
                steps=progress.steps,
                episodes=progress.episodes,
                updates=progress.updates,
                fraction=progress.fraction,
                seconds=progress.seconds,
                finished=tuple(progress.finished),
                metrics=metrics,
                evaluations=tuple(self.evaluator.curve),
                log=partial(self._log, name, progress.steps),
                stop=partial(self._stop, name, progress),
            )
            try:
                getattr(plugin, moment)(told)
            except Exception as error:
                what = f"callbacks.{name} raised {type(error).__name__} in {moment}: {one_line(error)}"
                raise TrainingError(what) from error

    def _log(self, name: str, steps: int, metrics: Mapping[str, float]) -> None:
        self.log({f"callbacks/{name}/{key}": value for key, value in metrics.items()}, steps)

    def _stop(self, name: str, progress: Progress, reason: str) -> None:
        progress.stopped = True
        self.tag({"stopped": f"callbacks.{name} at step {progress.steps}: {reason}"})
