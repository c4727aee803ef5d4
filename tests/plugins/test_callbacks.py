"""Tests of callback plugins: what they see, log and stop; that they change nothing; and that they are resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plexp.plugins.callbacks.patience import Patience
from plexp.plugins.callbacks.time_limit import TimeLimit

from plexp.errors import ConfigError, TrainingError
from plexp.execution.callbacks.dispatcher import CallbackDispatcher
from plexp.training.progress import TrainingProgress


class Witness:
    """Callback that remembers its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_start(self, progress: Any) -> None:
        self.events.append(("start", progress))

    def on_iteration(self, progress: Any) -> None:
        self.events.append(("iteration", progress))

    def on_end(self, progress: Any) -> None:
        self.events.append(("end", progress))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": len(self.events)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.events = [("earlier", None)] * state_dict["seen"]


def dispatcher_of(**plugins: Any) -> tuple[CallbackDispatcher, list[Any], dict[str, str]]:
    logged: list[Any] = []
    tags: dict[str, str] = {}

    def log(metrics: Mapping[str, float], step: int) -> None:
        logged.append((dict(metrics), step))

    return CallbackDispatcher(plugins, log, tags.update), logged, tags


def test_callbacks_see_the_progress_of_the_training_at_each_event() -> None:
    witness = Witness()
    plugins, _, _ = dispatcher_of(witness=witness)
    progress = TrainingProgress(steps=100, metrics={"entropy": 0.6}, evaluations=[(0, 10.0), (100, 20.0)])
    plugins.on_start(progress)
    plugins.on_iteration(progress)
    plugins.on_end(progress)
    assert witness.events == [("start", progress), ("iteration", progress), ("end", progress)]
    assert not any(name in dir(progress) for name in ("agent", "trainer", "profile", "experiment"))


@pytest.mark.parametrize("event", ["on_start", "on_iteration", "on_end"])
@pytest.mark.parametrize("name", ["steps", "episodes", "updates", "fraction", "seconds"])
def test_a_callback_that_changes_the_progress_ends_the_run_and_is_named(event: str, name: str) -> None:
    class Meddling(Witness):
        def change(self, progress: TrainingProgress) -> None:
            setattr(progress, name, 7)

        on_start = on_iteration = on_end = change

    plugins, _, _ = dispatcher_of(mine=Meddling())
    with pytest.raises(TrainingError, match=rf"^callbacks\.mine changed the progress in {event}; "):
        getattr(plugins, event)(TrainingProgress())


def test_metrics_have_the_callbacks_name_and_the_reason_of_a_stop_is_a_tag() -> None:
    class Stopping(Witness):
        def on_iteration(self, progress: TrainingProgress) -> None:
            progress.log({"x": 1.0})
            if progress.steps == 200:
                progress.stop("enough")

    plugins, logged, tags = dispatcher_of(first=Stopping(), second=Witness())
    plugins.on_iteration(progress := TrainingProgress(steps=100))
    assert logged == [({"callbacks/first/x": 1.0}, 100)] and not progress.stopped and not tags
    progress.steps = 200
    plugins.on_iteration(progress)
    assert logged[1:] == [({"callbacks/first/x": 1.0}, 200)]
    assert progress.stopped and tags == {"stopped": "callbacks.first at step 200: enough"}


def test_a_callback_that_raises_ends_the_run_and_is_named() -> None:
    class Broken(Witness):
        def on_iteration(self, progress: Any) -> None:
            raise ValueError("first\nsecond")

    plugins, _, _ = dispatcher_of(mine=Broken())
    with pytest.raises(TrainingError, match=r"^callbacks\.mine raised ValueError in on_iteration: first second$"):
        plugins.on_iteration(TrainingProgress())


def test_the_state_of_callbacks_that_have_one_is_in_the_checkpoint() -> None:
    first, second = Witness(), Witness()
    plugins, _, _ = dispatcher_of(witness=first, patience=Patience(evaluations=1, min_delta=0.0))
    plugins.on_start(TrainingProgress())
    others, _, _ = dispatcher_of(witness=second, patience=Patience(evaluations=1, min_delta=0.0))
    others.load_state_dict(plugins.state_dict())
    assert plugins.state_dict() == {"witness": {"seen": 1}} == others.state_dict()


@pytest.mark.parametrize(
    ("evaluations", "min_delta", "curve", "stops"),
    [
        (2, 0.0, [1.0, 2.0, 1.5], False),
        (2, 0.0, [1.0, 2.0, 1.5, 2.0], True),
        (2, 0.0, [1.0, 2.0, 1.5, 2.1], False),
        (2, 0.5, [1.0, 2.0, 2.4, 2.5], True),
        (2, 0.5, [1.0, 2.0, 2.6, 2.7], False),
        (1, 0.0, [3.0], False),
        (1, 0.0, [], False),
    ],
)
def test_patience_stops_after_evaluations_without_improvement(
    evaluations: int, min_delta: float, curve: list[float], stops: bool
) -> None:
    reasons: list[str] = []
    progress: Any = SimpleNamespace(evaluations=list(enumerate(curve)), stop=reasons.append)
    Patience(evaluations=evaluations, min_delta=min_delta).on_iteration(progress)
    assert bool(reasons) == stops


def test_time_limit_stops_after_its_seconds() -> None:
    reasons: list[str] = []
    limit = TimeLimit(seconds=2.0)
    for seconds in (0.0, 1.9, 2.0):
        progress: Any = SimpleNamespace(seconds=seconds, stop=reasons.append)
        limit.on_iteration(progress)
        assert len(reasons) == (seconds == 2.0)


def test_callbacks_do_not_change_a_run_until_they_stop_it(
    compose: Callable[..., Any], build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    weights = []
    for overrides in ([], ["callbacks=[patience,time_limit]"]):
        experiment = build(compose("compile=false", "net.width=8", *overrides))
        train(experiment, 2)
        weights.append([p.detach().clone() for p in experiment.agent.parameters()])
    assert all(x.equal(y) for x, y in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["callbacks=[patience]", "callbacks.patience.evaluations=0"],
            "callbacks.patience.evaluations=0: must be greater",
        ),
        (["+callbacks.patience.plugin=nobody"], "callbacks.patience.plugin=nobody|callbacks.plugin=nobody"),
        (["+callbacks={patience:{plugin:patience}}"], "callbacks.patience.evaluations: has no value"),
    ],
)
def test_wrong_values_are_refused(
    overrides: list[str], message: str, compose: Callable[..., Any], build: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(compose(*overrides))


def test_early_stopping_from_the_command_line_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    from plexp.cli.main import main

    monkeypatch.chdir(tmp_path)
    short = ["compile=false", "net.width=8", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    chosen = ["callbacks=[patience]", "callbacks.patience.evaluations=1", "callbacks.patience.min_delta=1000"]
    assert main([*short, *chosen, "total_timesteps=20000", "evaluation.every=2000", "tracker.log_model=false"]) == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.data.tags["stopped"].startswith("callbacks.patience at step 2048: no evaluation above")
    assert run.data.metrics["train/episodes"] > 0 and run.info.status == "FINISHED"
    assert main(["compare"]) == 2
    assert "ended by callbacks.patience, so the rest of its curve is unknown" in capsys.readouterr().err
