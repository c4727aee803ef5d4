"""The loop: collect, update, tell the callbacks. It knows no algorithm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from plexp.agent import Agent
from plexp.collector import Collector
from plexp.episodes import Episode
from plexp.interfaces import Algorithm
from plexp.profile import Profile
from plexp.types import Metrics


@dataclass
class Progress:
    """How far a run is."""

    steps: int = 0
    """Environment steps learnt from."""
    episodes: int = 0
    updates: int = 0
    fraction: float = 0.0
    """Share of the training budget that is used up, 0…1."""
    seconds: float = 0.0
    """Spent collecting and updating; compiling, evaluation and tracking are not in it."""
    finished: list[Episode] = field(default_factory=list)
    """Episodes that ended in the last iteration."""
    profile: Profile = field(default_factory=Profile)
    stopped: bool = False
    """Set by a callback to end the training early."""

    def state_dict(self) -> dict[str, Any]:
        names = ("steps", "episodes", "updates", "fraction", "seconds", "stopped")
        return {**{name: getattr(self, name) for name in names}, "profile": self.profile.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for name, value in state_dict.items():
            if name != "profile":
                setattr(self, name, value)
        self.profile.load_state_dict(state_dict["profile"])


class Callback(Protocol):
    """Is told what happens; changes nothing but `Progress.stopped`."""

    def on_start(self, progress: Progress) -> None: ...

    def on_iteration(self, progress: Progress, metrics: Metrics) -> None: ...

    def on_end(self, progress: Progress) -> None: ...


class Trainer:
    """Runs an algorithm until `total_timesteps` environment steps, or `total_episodes` if that is given, are reached."""

    def __init__(
        self,
        agent: Agent,
        collector: Collector,
        algorithm: Algorithm,
        *,
        total_timesteps: int,
        total_episodes: int | None,
        profile: Profile | None = None,
    ) -> None:
        self.agent, self.collector, self.algorithm = agent, collector, algorithm
        self.total_timesteps, self.total_episodes = total_timesteps, total_episodes
        self.profile = profile or Profile()

    def run(self, callbacks: Sequence[Callback], progress: Progress | None = None) -> Progress:
        """Train, from `progress` on; `on_end` is called only if it came to its end."""
        progress = progress or Progress(profile=self.profile)
        with self._counted_as_tracking():
            for callback in callbacks:
                callback.on_start(progress)
        while progress.fraction < 1 and not progress.stopped:
            metrics = self.iterate(progress)
            with self._counted_as_tracking():
                for callback in callbacks:
                    callback.on_iteration(progress, metrics)
        for callback in callbacks:
            callback.on_end(progress)
        return progress

    @contextmanager
    def _counted_as_tracking(self) -> Iterator[None]:
        """What callbacks take, but for evaluation, which counts itself."""
        began = self.profile.now()
        yield
        self.profile.add("tracking", began)

    def iterate(self, progress: Progress) -> Metrics:
        """One rollout and what is learnt from it; moves `progress` on."""
        started = time.perf_counter() - self.profile.compiling
        rollout = self.collector.collect()
        began = self.profile.now()
        metrics = self.algorithm.update(rollout, progress.fraction)
        if self.agent.normalizer is not None:
            self.agent.normalizer.update(rollout.observations[rollout.valid])
        progress.finished = self.collector.episodes
        progress.steps += rollout.num_valid
        progress.episodes += len(progress.finished)
        progress.updates += 1
        used = progress.steps / self.total_timesteps
        if self.total_episodes is not None:
            used = max(used, progress.episodes / self.total_episodes)
        progress.fraction = min(1.0, used)
        self.profile.add("updating", began)
        progress.seconds += time.perf_counter() - self.profile.compiling - started
        return metrics
