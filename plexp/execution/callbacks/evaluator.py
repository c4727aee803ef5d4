"""Greedy evaluations during training, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from plexp.errors import Pruned
from plexp.execution.callbacks.recorder import Log, StepSchedule
from plexp.training.evaluation import EvaluationResult
from plexp.training.progress import Profile, TrainingProgress


class Film(Protocol):
    """Films an evaluation: its result, its number, and the step that it belongs to (None: the last one of a run)."""

    def __call__(self, result: EvaluationResult, index: int, step: int | None) -> None: ...


class Evaluator:
    """Greedy evaluations at fixed steps, and a last one of `final_episodes`; keeps the learning curve.

    A rollout that passes several grid points is evaluated once and logged at each: it is the agent one had there.
    """

    def __init__(
        self,
        evaluate: Callable[[int, int], EvaluationResult],
        log: Log,
        *,
        every: int | None,
        episodes: int,
        final_episodes: int,
        solved_return: float | None,
        stop_when_solved: bool,
        profile: Profile,
        film: Film | None = None,
    ) -> None:
        self.film, self.profile = film, profile
        self.evaluate, self.log, self.grid = evaluate, log, StepSchedule(every)
        self.episodes, self.final_episodes = episodes, final_episodes
        self.solved_return, self.stop_when_solved = solved_return, stop_when_solved
        self.count = 0
        self.curve: list[tuple[int, float]] = []
        """(step, mean return) of each evaluation on the grid."""
        self.seconds: list[float] = []
        """Of training until each of them."""
        self.solved_at: int | None = None
        """The first grid point after the start whose mean return reached `solved_return`."""
        self.final: EvaluationResult | None = None

    def on_start(self, progress: TrainingProgress) -> None:
        progress.evaluations = self.curve
        if self.grid.every is not None and not self.count:
            self._evaluate(range(1), progress)

    def on_iteration(self, progress: TrainingProgress) -> None:
        points = self.grid.passed(progress.steps)
        if points:
            self._evaluate(points, progress)

    def on_end(self, progress: TrainingProgress) -> None:
        self.final = self.evaluate(self.count, self.final_episodes)
        mean, deviation = float(self.final.returns.mean()), float(self.final.returns.std())
        self.log({"eval/final_return": mean, "eval/final_return_std": deviation}, progress.steps)
        if self.film is not None:
            self.film(self.final, self.count, None)

    def state_dict(self) -> dict[str, Any]:
        names = ("count", "curve", "seconds", "solved_at")
        return {"last": self.grid.last, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.grid.last, self.count = state_dict["last"], state_dict["count"]
        self.curve = [(step, mean) for step, mean in state_dict["curve"]]
        self.seconds, self.solved_at = state_dict["seconds"], state_dict["solved_at"]

    def _evaluate(self, points: range, progress: TrainingProgress) -> None:
        started = self.profile.start()
        result = self.evaluate(self.count, self.episodes)
        if self.film is not None:
            self.film(result, self.count, points[-1])
        self.profile.stop("evaluation", started)
        self.count += 1
        mean = float(result.returns.mean())
        metrics = {"eval/return": mean, "eval/return_std": float(result.returns.std())}
        metrics |= {"eval/length": float(result.lengths.mean()), "eval/seconds": progress.seconds}
        for step in points:
            self.log(metrics, step)
            self.curve.append((step, mean))
            self.seconds.append(progress.seconds)
        solved = self.solved_return is not None and mean >= self.solved_return and progress.steps > 0
        if solved and self.solved_at is None:
            self.solved_at = points[0]
            progress.stopped |= self.stop_when_solved


class PruningRule(Protocol):
    """A rule that decides, at each evaluation, whether a run is worth going on with."""

    def __call__(self, curve: Sequence[tuple[int, float]], fraction: float) -> str | None:
        """Return why the run with these evaluations (step, return) ends now; None if it goes on.

        `fraction` of the training budget is used up, 0…1.
        """
        ...


class Pruning:
    """Raises Pruned when the search to which a run belongs gives it up, at one of its evaluations."""

    def __init__(self, judge: PruningRule, evaluator: Evaluator) -> None:
        self.judge, self.evaluator, self.seen = judge, evaluator, 0

    def on_start(self, progress: TrainingProgress) -> None:
        if len(curve := self.evaluator.curve) > self.seen:
            self.seen = len(curve)
            if why := self.judge(curve, progress.fraction):
                raise Pruned(why, progress.steps)

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.on_start(progress)

    def on_end(self, progress: TrainingProgress) -> None: ...
