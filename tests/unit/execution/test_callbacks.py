"""Tests of plexp's own callbacks: the grid, the recorder, the evaluator and the progress bar."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from plexp.envs.episodes import Episode
from plexp.execution.callbacks.evaluator import Evaluator
from plexp.execution.callbacks.progress_bar import ProgressBar
from plexp.execution.callbacks.recorder import Recorder, StepSchedule
from plexp.execution.outcome import Outcome, summary
from plexp.training.evaluation import EvaluationResult
from plexp.training.progress import Profile, TrainingProgress


class Log:
    """Function that remembers the metrics it was called with."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(metrics)))

    def series(self, name: str) -> list[tuple[int, float]]:
        return [(step, metrics[name]) for step, metrics in self.rows if name in metrics]


def evaluator(log: Log, means: list[float], **changes: Any) -> Evaluator:
    """Return an evaluator whose evaluations have these means in turn, the last one again and again."""
    asked: list[tuple[int, int]] = []

    def play(index: int, episodes: int) -> EvaluationResult:
        asked.append((index, episodes))
        mean = means[min(index, len(means) - 1)]
        return EvaluationResult(np.array([mean - 1, mean + 1]), np.array([3, 5]))

    settings: dict[str, Any] = {"every": 100, "episodes": 10, "final_episodes": 50, "solved_return": None}
    made = Evaluator(play, log, profile=Profile(), **{**settings, "stop_when_solved": False, **changes})
    made.asked = asked  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("rollout", [1, 7, 50, 64, 100, 101, 250, 1000])
def test_grid_points_are_the_same_however_long_rollouts_are(rollout: int) -> None:
    grid = StepSchedule(100)
    points = [list(grid.passed(steps)) for steps in range(rollout, 2001, rollout)]
    reached = 2000 // rollout * rollout
    assert [point for group in points for point in group] == list(range(100, reached + 1, 100))
    assert all(
        point <= steps for group, steps in zip(points, range(rollout, 2001, rollout), strict=True) for point in group
    )


def test_without_an_interval_there_are_no_grid_points() -> None:
    grid = StepSchedule(None)
    assert [len(grid.passed(steps)) for steps in (1, 10**6)] == [0, 0]


def test_the_record_at_a_grid_point_is_the_mean_since_the_last_one() -> None:
    log = Log()
    recorder, progress = Recorder(log, 100, Profile()), TrainingProgress()
    recorder.on_start(progress)
    losses = [1.0, 2.0, 6.0, 10.0, 20.0]
    episodes = [[Episode(5.0, 10)], [], [Episode(7.0, 20), Episode(9.0, 30)], [], []]
    for loss, finished in zip(losses, episodes, strict=True):
        progress.steps, progress.seconds = progress.steps + 40, progress.seconds + 0.5
        progress.finished, progress.episodes = finished, progress.episodes + len(finished)
        progress.metrics = {"policy_loss": loss}
        recorder.on_iteration(progress)
    recorder.on_end(progress)
    (first, early), (second, late) = log.rows
    assert (first, second) == (100, 200)
    assert early["train/policy_loss"] == pytest.approx((1 + 2 + 6) / 3) and late["train/policy_loss"] == 15.0
    assert early["train/episode_return"] == 7.0 and early["train/episode_length"] == 20.0
    assert "train/episode_return" not in late, "no episode ended since"
    assert early["train/episodes"] == late["train/episodes"] == 3
    assert {f"time/{part}" for part in vars(Profile())} <= early.keys()
    assert early["time/seconds"] == 1.5 and early["time/steps_per_second"] == pytest.approx(120 / 1.5)
    assert late["time/steps_per_second"] == pytest.approx(80 / 1.0)


def test_a_run_shorter_than_one_interval_is_recorded_at_its_end() -> None:
    log = Log()
    recorder = Recorder(log, 1000, Profile())
    recorder.on_start(TrainingProgress())
    recorder.on_iteration(TrainingProgress(steps=60, seconds=1.0, metrics={"policy_loss": 3.0}))
    recorder.on_end(TrainingProgress(steps=60, seconds=1.0))
    assert log.series("train/policy_loss") == [(60, 3.0)]


@pytest.mark.parametrize("rollout", [30, 100, 260])
def test_the_record_has_every_grid_point_whatever_the_length_of_rollouts(
    rollout: int,
) -> None:
    log = Log()
    recorder = Recorder(log, 100, Profile())
    recorder.on_start(TrainingProgress())
    for steps in range(rollout, 1041, rollout):
        recorder.on_iteration(TrainingProgress(steps=steps, seconds=1.0, metrics={"policy_loss": 1.0}))
    assert [step for step, _ in log.series("train/policy_loss")] == list(range(100, 1001, 100))


def test_every_training_episode_is_recorded_with_the_steps_of_its_iteration() -> None:
    recorder = Recorder(Log(), 100, Profile())
    recorder.on_start(TrainingProgress())
    recorder.on_iteration(TrainingProgress(steps=40, seconds=1.0, finished=[Episode(5.0, 10, 1, 0), Episode(6.0, 20)]))
    recorder.on_iteration(TrainingProgress(steps=80, seconds=1.0, finished=[Episode(7.0, 30, 1, 1)]))
    assert list(recorder.episodes) == [40, 5.0, 10, 1, 0, 40, 6.0, 20, 0, 0, 80, 7.0, 30, 1, 1]
    rows = ("steps,return,length,environment,environment_episode", "40,5,10,1,0", "40,6,20,0,0", "80,7,30,1,1")
    assert recorder.episodes_as_csv().splitlines() == list(rows)


def test_evaluations_are_filmed_with_their_grid_point_and_the_last_without_one() -> None:
    filmed: list[tuple[float, int, int | None]] = []
    evaluations = evaluator(
        Log(),
        [float(i) for i in range(9)],
        film=lambda result, index, step: filmed.append((result.returns.mean(), index, step)),
    )
    evaluations.on_start(TrainingProgress())
    evaluations.on_iteration(TrainingProgress(steps=250))
    evaluations.on_iteration(TrainingProgress(steps=320))
    evaluations.on_end(TrainingProgress(steps=320))
    assert filmed == [(0.0, 0, 0), (1.0, 1, 200), (2.0, 2, 300), (3.0, 3, None)]


@pytest.mark.parametrize("rollout", [30, 100, 128, 260])
def test_every_passed_grid_point_is_in_the_learning_curve(rollout: int) -> None:
    log = Log()
    evaluations = evaluator(log, [float(i) for i in range(99)])
    evaluations.on_start(TrainingProgress())
    for steps in range(rollout, 1001, rollout):
        evaluations.on_iteration(TrainingProgress(steps=steps))
    last = 1000 // rollout * rollout // 100 * 100
    assert [step for step, _ in evaluations.curve] == list(range(0, last + 1, 100))
    assert log.series("eval/return") == evaluations.curve
    assert all(metrics["eval/return_std"] == 1.0 and metrics["eval/length"] == 4.0 for _, metrics in log.rows)
    assert [index for index, _ in evaluations.asked] == list(range(len(evaluations.asked)))  # type: ignore[attr-defined]
    together = [b[1] == a[1] for a, b in pairwise(evaluations.curve)]
    assert any(together) == (rollout > 100), "points passed by one rollout share one evaluation"


def test_the_last_evaluation_has_its_own_number_of_episodes_and_new_ones() -> None:
    log = Log()
    evaluations = evaluator(log, [1.0, 2.0, 3.0])
    evaluations.on_start(TrainingProgress())
    evaluations.on_iteration(TrainingProgress(steps=100))
    evaluations.on_end(TrainingProgress(steps=130))
    assert evaluations.asked == [(0, 10), (1, 10), (2, 50)]  # type: ignore[attr-defined]
    assert log.rows[-1] == (130, {"eval/final_return": 3.0, "eval/final_return_std": 1.0})
    assert evaluations.final is not None and evaluations.final.returns.mean() == 3.0


def test_without_an_interval_only_the_last_evaluation_is_played() -> None:
    log = Log()
    evaluations = evaluator(log, [1.0], every=None)
    evaluations.on_start(TrainingProgress())
    evaluations.on_iteration(TrainingProgress(steps=10**6))
    assert not log.rows and not evaluations.curve
    evaluations.on_end(TrainingProgress(steps=10**6))
    assert log.series("eval/final_return") == [(10**6, 1.0)]


@pytest.mark.parametrize("stop", [True, False])
def test_solved_at_is_the_first_solved_grid_point_and_ends_the_run_only_if_asked(stop: bool) -> None:
    evaluations = evaluator(Log(), [0.0, 5.0, 10.0, 3.0, 12.0], solved_return=10.0, stop_when_solved=stop)
    progress = TrainingProgress()
    evaluations.on_start(progress)
    solved = []
    for steps in (100, 360, 400, 530):  # 360 passes two points
        progress.steps = steps
        evaluations.on_iteration(progress)
        solved.append(progress.stopped)
    assert evaluations.solved_at == 200
    assert solved == [False, stop, stop, stop]


def test_an_untrained_policy_that_reaches_the_solved_return_has_solved_nothing() -> None:
    evaluations = evaluator(Log(), [12.0, 3.0, 11.0], solved_return=10.0, stop_when_solved=True)
    progress = TrainingProgress()
    evaluations.on_start(progress)
    assert evaluations.solved_at is None and not progress.stopped
    for progress.steps in (100, 200):
        evaluations.on_iteration(progress)
    assert evaluations.solved_at == 200 and progress.stopped


def test_without_a_solved_return_nothing_counts_as_solved() -> None:
    evaluations, progress = evaluator(Log(), [1e9], stop_when_solved=True), TrainingProgress()
    evaluations.on_start(progress)
    assert evaluations.solved_at is None and not progress.stopped


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_bar_shows_steps_and_recent_returns(terminal: bool) -> None:
    text, log = io.StringIO(), Log()
    console = Console(file=text, force_terminal=terminal, width=120)
    bar = ProgressBar("ppo-cartpole-s0", evaluator(log, [1.0]), console)
    bar.on_start(TrainingProgress())
    for steps in range(50, 1001, 50):
        fraction = steps / 1000
        progress = TrainingProgress(steps=steps, fraction=fraction, seconds=steps / 500, finished=[Episode(21.5, 3)])
        bar.on_iteration(progress)
    bar.on_end(progress)
    bar.close()
    lines = text.getvalue()
    assert "ppo-cartpole-s0" in lines and "train 21.5" in lines
    if not terminal:
        assert len(lines.splitlines()) == 10, "a line for each tenth"
        assert "1,000 steps" in lines and "500/s" in lines


@pytest.mark.parametrize(
    ("final", "solved_at", "expected"),
    [
        (480.0, 5000, "solved (≥ 475) at step 5,000"),
        (480.0, None, "solved (≥ 475)"),
        (100.0, 5000, "not solved (≥ 475), though reached at step 5,000"),
        (100.0, None, "not solved (≥ 475)"),
    ],
)
def test_the_verdict_is_that_of_the_last_evaluation(final: float, solved_at: int | None, expected: str) -> None:
    outcome = Outcome("name", "id", final, 1.0, 64, 3, 0.1, solved_at, 475.0, final, [])
    assert summary(outcome).endswith(f"; {expected}")
