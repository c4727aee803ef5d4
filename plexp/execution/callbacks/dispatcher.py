"""Calls the callback plugins of a run, and records what they log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from plexp.errors import TrainingError, one_line
from plexp.execution.callbacks.recorder import Log
from plexp.training.interfaces import TrainingCallback
from plexp.training.progress import TrainingProgress


class CallbackDispatcher:
    """Calls callback plugins one after the other, records what they log, and tags the run with their reason to stop it.

    Args:
        plugins: the callbacks by the names of their configuration sections.
        log: records metrics at a step.
        set_tags: sets tags of the run.

    Raises TrainingError for whatever one of them raises.
    """

    def __init__(
        self,
        plugins: Mapping[str, TrainingCallback],
        log: Log,
        set_tags: Callable[[Mapping[str, str]], object],
    ) -> None:
        self.plugins, self.log, self.set_tags = plugins, log, set_tags

    def on_start(self, progress: TrainingProgress) -> None:
        self._call("on_start", progress)

    def on_iteration(self, progress: TrainingProgress) -> None:
        self._call("on_iteration", progress)

    def on_end(self, progress: TrainingProgress) -> None:
        self._call("on_end", progress)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the plugins that have one."""
        return {name: plugin.state_dict() for name, plugin in self.plugins.items() if hasattr(plugin, "state_dict")}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for name, state in state_dict.items():
            self.plugins[name].load_state_dict(state)  # type: ignore[attr-defined]  # one that has state_dict

    def _call(self, event: str, progress: TrainingProgress) -> None:
        for name, plugin in self.plugins.items():
            progress.stop_reason, before = "", _counts(progress)
            try:
                getattr(plugin, event)(progress)
            except Exception as error:
                what = f"callbacks.{name} raised {type(error).__name__} in {event}: {one_line(error)}"
                raise TrainingError(what) from error
            if _counts(progress) != before:
                raise TrainingError(f"callbacks.{name} changed the progress in {event}; it may read it, log and stop")
            if progress.logged:
                self.log({f"callbacks/{name}/{key}": value for key, value in progress.logged.items()}, progress.steps)
                progress.logged.clear()
            if progress.stop_reason:
                self.set_tags({"stopped": f"callbacks.{name} at step {progress.steps}: {progress.stop_reason}"})


def _counts(progress: TrainingProgress) -> tuple[float, ...]:
    """Return what the trainer alone changes."""
    return progress.steps, progress.episodes, progress.updates, progress.fraction, progress.seconds
