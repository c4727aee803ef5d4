"""The loop: collect, update, tell the callbacks. It knows no algorithm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from plexp.training.agent import Agent
from plexp.training.collector import Collector
from plexp.training.interfaces import Algorithm
from plexp.training.progress import Profile, Progress
from plexp.training.types import Metrics


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
