"""Callbacks that are plugins: what they are told, that they change nothing, that they stop a run and are taken up again."""

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
from plexp.training.progress import Progress


class Witness:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def on_start(self, progress: Any) -> None:
        self.told.append(("start", progress))

    def on_iteration(self, progress: Any) -> None:
        self.told.append(("iteration", progress))

    def on_end(self, progress: Any) -> None:
        self.told.append(("end", progress))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": len(self.told)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.told = [("before", None)] * state_dict["seen"]


def plugged(**plugins: Any) -> tuple[CallbackDispatcher, list[Any], dict[str, str]]:
    logged: list[Any] = []
    tags: dict[str, str] = {}
    evaluator: Any = SimpleNamespace(curve=[(0, 10.0), (100, 20.0)])
    return (
        CallbackDispatcher(plugins, evaluator, lambda metrics, step: logged.append((dict(metrics), step)), tags.update),
        logged,
        tags,
    )


def test_they_are_told_the_progress_and_the_metrics_of_the_iteration() -> None:
    witness = Witness()
    plugins, _, _ = plugged(witness=witness)
    progress = Progress(steps=100, episodes=3, updates=2, fraction=0.5, seconds=1.5)
    plugins.on_start(progress)
    plugins.on_iteration(progress, {"entropy": 0.6})
    plugins.on_end(progress)
    assert [moment for moment, _ in witness.told] == ["start", "iteration", "end"]
    told = witness.told[1][1]
    assert (told.steps, told.episodes, told.updates, told.fraction, told.seconds) == (100, 3, 2, 0.5, 1.5)
    assert told.metrics == {"entropy": 0.6} and told.evaluations == ((0, 10.0), (100, 20.0))
    with pytest.raises(AttributeError):
        told.steps = 0
    assert not any(name in dir(told) for name in ("agent", "trainer", "profile", "experiment"))


def test_what_they_log_stands_below_their_name_and_why_they_stop_is_a_tag() -> None:
    plugins, logged, tags = plugged(witness=(witness := Witness()))
    progress = Progress(steps=100)
    plugins.on_iteration(progress, {})
    told = witness.told[0][1]
    told.log({"x": 1.0})
    assert logged == [({"callbacks/witness/x": 1.0}, 100)] and not progress.stopped
    told.stop("enough")
    assert progress.stopped and tags == {"stopped": "callbacks.witness at step 100: enough"}


def test_what_one_raises_ends_the_run_with_its_name() -> None:
    class Broken(Witness):
        def on_iteration(self, progress: Any) -> None:
            raise ValueError("first\nsecond")

    plugins, _, _ = plugged(mine=Broken())
    with pytest.raises(TrainingError, match=r"^callbacks\.mine raised ValueError in on_iteration: first second$"):
        plugins.on_iteration(Progress(), {})


def test_those_that_remember_something_are_in_the_checkpoint() -> None:
    first, second = Witness(), Witness()
    plugins, _, _ = plugged(witness=first, patience=Patience(evaluations=1, min_delta=0.0))
    plugins.on_start(Progress())
    others, _, _ = plugged(witness=second, patience=Patience(evaluations=1, min_delta=0.0))
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
def test_patience(evaluations: int, min_delta: float, curve: list[float], stops: bool) -> None:
    reasons: list[str] = []
    progress: Any = SimpleNamespace(evaluations=list(enumerate(curve)), stop=reasons.append)
    Patience(evaluations=evaluations, min_delta=min_delta).on_iteration(progress)
    assert bool(reasons) == stops


def test_time_limit() -> None:
    reasons: list[str] = []
    limit = TimeLimit(seconds=2.0)
    for seconds in (0.0, 1.9, 2.0):
        progress: Any = SimpleNamespace(seconds=seconds, stop=reasons.append)
        limit.on_iteration(progress)
        assert len(reasons) == (seconds == 2.0)


def test_a_run_with_callbacks_is_the_run_without_until_it_is_stopped(
    compose: Callable[..., Any], build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    weights = []
    for overrides in ([], ["callbacks=[patience,time_limit]"]):
        experiment = build(compose("compile=false", "net.width=8", *overrides))
        train(experiment, 2)
        weights.append([p.detach().clone() for p in experiment.agent.parameters()])
    assert all(x.equal(y) for x, y in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["callbacks=[patience]", "callbacks.patience.evaluations=0"],
            "callbacks.patience.evaluations=0: must be greater",
        ),
        (["+callbacks.patience.plugin=nobody"], "callbacks.patience.plugin=nobody|callbacks.plugin=nobody"),
        (["+callbacks={patience:{plugin:patience}}"], "callbacks.patience.evaluations: has no value"),
    ],
)
def test_wrong_values_are_told(
    overrides: list[str], said: str, compose: Callable[..., Any], build: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(compose(*overrides))


def test_early_stopping_from_the_command_line_is_in_the_record(
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
