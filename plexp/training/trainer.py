"""The training loop: collect, update, call the callbacks. It knows no algorithm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from plexp.training.collector import Collector
from plexp.training.frames import whole_observations
from plexp.training.interfaces import Algorithm, TrainingCallback
from plexp.training.policy import Policy
from plexp.training.progress import Profile, TrainingProgress
from plexp.training.types import Metrics


class Trainer:
    """Runs an algorithm until its budget is used up: `total_timesteps`, or `total_episodes` if that is given.

    Args:
        total_timesteps: environment steps to learn from, of all environments together.
        total_episodes: episodes after which the training ends earlier; None: steps alone count.
        profile: gets the seconds of each activity.
    """

    def __init__(
        self,
        policy: Policy,
        collector: Collector,
        algorithm: Algorithm,
        *,
        total_timesteps: int,
        total_episodes: int | None,
        profile: Profile | None = None,
    ) -> None:
        self.policy, self.collector, self.algorithm = policy, collector, algorithm
        self.total_timesteps, self.total_episodes = total_timesteps, total_episodes
        self.profile = profile or Profile()

    def run(self, callbacks: Sequence[TrainingCallback], progress: TrainingProgress | None = None) -> TrainingProgress:
        """Train from `progress` to the end of the budget, and return how far it came.

        Callbacks run in their order; `on_end` runs only if the training reached its end.
        """
        progress = progress or TrainingProgress()
        with self._timed_as_tracking():
            for callback in callbacks:
                callback.on_start(progress)
        while progress.fraction < 1 and not progress.stopped:
            self.iterate(progress)
            with self._timed_as_tracking():
                for callback in callbacks:
                    callback.on_iteration(progress)
        for callback in callbacks:
            callback.on_end(progress)
        if self.collector.bounds is not None:
            self.collector.bounds.report()
        return progress

    def iterate(self, progress: TrainingProgress) -> Metrics:
        """Collect one trajectory, learn from it, advance `progress`, and return the update's metrics."""
        started = time.perf_counter() - self.profile.compiling
        trajectory = self.collector.collect()
        updating = self.profile.start()
        progress.metrics = self.algorithm.update(trajectory, progress.fraction)
        if self.policy.normalizer is not None:
            self.policy.reader.update(whole_observations(trajectory)[trajectory.valid])
        progress.finished = self.collector.episodes
        progress.steps += trajectory.num_valid
        progress.episodes += len(progress.finished)
        progress.updates += 1
        used = progress.steps / self.total_timesteps
        if self.total_episodes is not None:
            used = max(used, progress.episodes / self.total_episodes)
        progress.fraction = min(1.0, used)
        self.profile.stop("updating", updating)
        progress.seconds += time.perf_counter() - self.profile.compiling - started
        return progress.metrics

    @contextmanager
    def _timed_as_tracking(self) -> Iterator[None]:
        """Count the callbacks' seconds as tracking, but for what they count themselves, such as evaluation."""
        started = self.profile.start()
        yield
        self.profile.stop("tracking", started)
