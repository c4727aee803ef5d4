"""Callbacks for evaluations during training, and for pruning by a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from plexp.errors import Pruned
from plexp.execution.callbacks.recorder import Log, StepSchedule
from plexp.training.evaluation import EvaluationResult
from plexp.training.progress import Profile, TrainingProgress


class Film(Protocol):
    """A function that films an evaluation: its result, its number, and its step (None: the last one of a run)."""

    def __call__(self, result: EvaluationResult, index: int, step: int | None) -> None: ...


class Evaluator:
    """Evaluates the agent at fixed steps and after training, and has the learning curve.

    A rollout that passes several grid points is evaluated once and recorded at each of them.

    Args:
        evaluate: plays episodes, given the number of the evaluation and the number of episodes.
        log: records metrics at a step.
        every: environment steps between two evaluations; None: only after training.
        episodes, final_episodes: number of episodes of each evaluation, and of the last one.
        solved_return: mean return that counts as solved; None: there is no such mark.
        stop_when_solved: whether training ends at the first evaluation that reaches it.
        profile: gets the seconds of evaluations and films.
        film: films each evaluation; None: none.
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
        """Environment step and mean return of each evaluation on the grid."""
        self.seconds: list[float] = []
        """Seconds of training until each evaluation."""
        self.solved_at: int | None = None
        """First grid point after the start whose mean return reached `solved_return`."""
        self.final: EvaluationResult | None = None
        """Result of the evaluation after training."""

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
        metrics = {"eval/final_return": mean, "eval/final_return_std": deviation}
        if self.final.num_cut_off:
            metrics["eval/final_cut_off"] = float(self.final.num_cut_off)
        self.log(metrics, progress.steps)
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
        if result.num_cut_off:
            metrics["eval/cut_off"] = float(result.num_cut_off)
        for step in points:
            self.log(metrics, step)
            self.curve.append((step, mean))
            self.seconds.append(progress.seconds)
        solved = self.solved_return is not None and mean >= self.solved_return and progress.steps > 0
        if solved and self.solved_at is None:
            self.solved_at = points[0]
            progress.stopped |= self.stop_when_solved


class PruningRule(Protocol):
    """A rule that decides at each evaluation whether a run continues."""

    def __call__(self, curve: Sequence[tuple[int, float]], fraction: float) -> str | None:
        """Return why the run with these evaluations (step, return) ends now; None if it continues.

        `fraction` of the training budget is used up, 0…1.
        """
        ...


class Pruning:
    """Raises Pruned when the rule of a search ends the run, at one of its evaluations."""

    def __init__(self, rule: PruningRule, evaluator: Evaluator) -> None:
        self.rule, self.evaluator, self.seen = rule, evaluator, 0

    def on_start(self, progress: TrainingProgress) -> None:
        if len(curve := self.evaluator.curve) > self.seen:
            self.seen = len(curve)
            if reason := self.rule(curve, progress.fraction):
                raise Pruned(reason, progress.steps)

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.on_start(progress)

    def on_end(self, progress: TrainingProgress) -> None: ...
