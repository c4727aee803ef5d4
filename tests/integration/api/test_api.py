"""Tests of the public functions for scripts and notebooks."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import plexp
from plexp.cli.main import main
from plexp.tracking.history import open_history

QUICK = (
    *("algo=ppo", "env=cartpole", "total_timesteps=3000", "compile=false", "net.width=16"),
    *("evaluation.every=1000", "evaluation.episodes=2", "evaluation.final_episodes=3", "tracker.log_model=false"),
)


def state_of_the_process() -> dict[str, Any]:
    """Return what `plexp` must leave as it is."""
    root = logging.getLogger()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return {
        "folder": Path.cwd(),
        "handlers": [signal.getsignal(number) for number in numbers],
        "logging": (root.level, list(root.handlers), logging.raiseExceptions, logging.getLogRecordFactory()),
        "plexp's logger": (logging.getLogger("plexp").level, list(logging.getLogger("plexp").handlers)),
        "threads": torch.get_num_threads(),
        "hydra": GlobalHydra.instance().hydra,
        "environment": dict(os.environ),
    }


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def run(outputs: Path) -> Iterator[plexp.Run]:
    """Yield a run of `plexp.train`, which leaves the process as it was, also the two threads given to torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = state_of_the_process()
    run = plexp.train(*QUICK, f"outputs={outputs}")
    after = state_of_the_process()
    torch.set_num_threads(threads)
    before["environment"] |= {key: os.environ[key] for key in after["environment"] if key.startswith(("MLFLOW", "SDL"))}
    assert before == after
    yield run


def test_a_trained_run_equals_one_of_the_command_line(run: plexp.Run, outputs: Path, tmp_path: Path) -> None:
    """Compare name, params, metrics and tags, apart from those on place and time."""
    assert main([*QUICK, f"outputs={tmp_path}"]) == 0
    (ours,), (theirs,) = (open_history(None, folder).runs() for folder in (outputs, tmp_path))
    assert ours.run_id == run.run_id and ours.name == theirs.name and ours.status == "FINISHED"
    place = {"outputs"}
    assert {k: v for k, v in ours.params.items() if k not in place} == {
        k: v for k, v in theirs.params.items() if k not in place
    }
    assert ours.tags.keys() == theirs.tags.keys() and ours.tags["group"] == theirs.tags["group"]
    timed = ("time/", "eval/seconds", "speed/seconds")
    metrics = [{k: v for k, v in r.metrics.items() if not k.startswith(timed)} for r in (ours, theirs)]
    assert metrics[0] == metrics[1] and len(metrics[0]) > 20


def test_a_run_prints_in_one_line(run: plexp.Run) -> None:
    assert str(run).startswith(
        f"ppo-mlp2x16-gae-cartpole-s0  FINISHED  final return {run.metrics['eval/final_return']:.1f}"
    )
    assert "\n" not in str(run) and run.run_id in run._repr_html_()


def test_the_curve_has_a_row_for_each_evaluation(run: plexp.Run) -> None:
    curve = run.curve()
    assert list(curve.columns) == ["step", "return", "return_std", "length", "seconds"]
    assert curve["step"].tolist() == [0, 1000, 2000, 3000]
    assert curve["return"].iloc[-1] == run.metrics["eval/return"] and curve["seconds"].is_monotonic_increasing


def test_the_history_has_every_metric_and_episodes_has_every_training_episode(run: plexp.Run) -> None:
    history, episodes = run.history(), run.episodes()
    assert set(history.columns) == {"step", *run.metrics}
    assert episodes["return"].tolist() == episodes["length"].tolist() and episodes["length"].sum() <= 3072
    assert len(episodes) >= run.metrics["train/episodes"] > 50, "those that ended after the last recorded step too"


def test_the_configuration_is_the_one_it_was_trained_with(run: plexp.Run, outputs: Path) -> None:
    assert run.config == plexp.compose(*QUICK, f"outputs={outputs}")
    assert run.params["net.width"] == "16"


def test_the_agent_acts_on_an_observation_and_on_a_batch(run: plexp.Run) -> None:
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    action = run.agent.act(observation)
    env.step(action)
    assert run.agent.act(np.stack([observation] * 3)).tolist() == [action] * 3
    assert {int(run.agent.act(np.zeros(4), sampled=True)) for _ in range(50)} == {0, 1}
    with pytest.raises(plexp.ConfigError, match=r"^observation=\[3\]: the agent's observations have the shape \[4\]; "):
        run.agent.act([1.0, 2.0, 3.0])


def test_new_episodes_are_evaluated_and_recorded_with_the_run(run: plexp.Run, outputs: Path) -> None:
    evaluation = run.evaluate(episodes=5)
    assert len(evaluation.result.returns) == 5 and str(evaluation).splitlines()[1].startswith("mean return ")
    recorded = plexp.load_run(run.run_id, outputs=outputs)
    assert recorded.metrics["evaluate/return"] == evaluation.mean.value
    with pytest.raises(plexp.ConfigError, match="--episodes=0"):
        run.evaluate(episodes=0)


def test_films_are_files_and_show_in_a_notebook(run: plexp.Run, tmp_path: Path) -> None:
    films = run.film(episode=1, to=tmp_path)
    assert [film.files[0].name for film in films] == ["episode-000001.mp4"] and films[0].files[1].is_file()
    assert films._repr_html_().count("data:image/gif;base64,") == 1
    assert str(films).startswith("training episode 1, ppo-mlp2x16-gae-cartpole-s0: return ")


def test_runs_are_selected_by_env_and_by_any_param(run: plexp.Run, outputs: Path) -> None:
    runs = plexp.runs(env="cartpole", net__width=[16, 32], algo="ppo", outputs=outputs)
    assert len(runs) == 1 and runs[0].run_id == run.run_id and len(runs[:1]) == 1
    assert runs.table().loc[run.run_id, "final_return"] == run.metrics["eval/final_return"]
    assert run.name in repr(runs) and run.name in runs._repr_html_()
    with pytest.raises(plexp.ConfigError, match=r"--where net\.width=64"):
        plexp.runs(net__width=64, outputs=outputs)


def test_a_comparison_prints_and_shows_its_verdict(run: plexp.Run, outputs: Path) -> None:
    comparison = plexp.compare(by="algo", env="cartpole", outputs=outputs)
    for text in (str(comparison), comparison._repr_html_()):
        assert "there is one group only" in text and "cartpole" in text
    assert len(open_history(None, outputs).runs()) == 1, "nothing is recorded of it"


def test_the_same_training_again_is_another_run(run: plexp.Run, outputs: Path) -> None:
    again = plexp.train(*QUICK, f"outputs={outputs}", "resume=never", progress_bar=False)
    assert again.run_id != run.run_id and again.metrics["eval/final_return"] == run.metrics["eval/final_return"]
    assert [r.run_id for r in plexp.runs(outputs=outputs)] == [run.run_id, again.run_id]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algo=pp",), "algo=pp: there is no such option; did you mean ppo?"),
        (("sede=1",), "sede: there is no such key; did you mean seed?"),
        (("gamma=2",), "gamma=2: must be less than or equal to 1; give float ≥ 0 and ≤ 1"),
        (("seed=0,1",), "seed=0,1: several values make a sweep; add -m for a sweep, or [a,b] for a list"),
        (("env=gymnasium",), "env.id: has no value; give env.id=…"),
    ],
)
def test_errors_have_the_text_of_the_command_line(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(plexp.ConfigError) as error:
        plexp.train(*overrides, f"outputs={tmp_path}")
    assert str(error.value) == message
    assert not (tmp_path / "mlflow.db").exists()


def test_a_missing_store_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    for look in (plexp.load_run, plexp.runs, plexp.compare):
        with pytest.raises(plexp.StoreError, match="no run has been kept there yet"):
            look(outputs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_raises_and_is_recorded_as_failed(tmp_path: Path) -> None:
    with pytest.raises(plexp.TrainingError, match=r"algo\.learning_rate"):
        plexp.train(*QUICK, f"outputs={tmp_path}", "algo.learning_rate=1e30", progress_bar=False)
    assert plexp.load_run("last", outputs=tmp_path).status == "FAILED"


def test_ctrl_c_closes_the_run_and_the_same_call_resumes_it(
    outputs: Path, run: plexp.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plexp.training.trainer import Trainer

    iterate, calls = Trainer.iterate, []

    def interrupted(self: Trainer, progress: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return iterate(self, progress)

    monkeypatch.setattr(Trainer, "iterate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plexp.train(*QUICK, f"outputs={tmp_path}", progress_bar=False)
    stopped = plexp.load_run("last", outputs=tmp_path)
    assert stopped.status == "KILLED"
    resumed = plexp.train(*QUICK, f"outputs={tmp_path}", progress_bar=False)
    assert resumed.run_id == stopped.run_id and resumed.status == "FINISHED"
    assert resumed.metrics["eval/final_return"] == run.metrics["eval/final_return"]


@pytest.mark.slow
def test_a_notebook_shows_progress_run_films_and_comparison(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    train = ", ".join(f'"{override}"' for override in (*QUICK, f"outputs={tmp_path}"))
    cells = [
        f"import plexp\nrun = plexp.train({train})\nrun",
        f'plexp.compare(by="algo", outputs="{tmp_path}")',
        f'plexp.runs(outputs="{tmp_path}")',
        f'run.film(episode=1, to="{tmp_path}")',
        "run.evaluate(episodes=2)",
        "import signal, logging\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300).execute()
    shown = ["".join(o.get("data", {}).get("text/html", "") for o in cell.outputs) for cell in notebook.cells]
    for html, text in zip(
        shown, ("<progress value=1.0000", "there is one group only", "<table", "image/gif", "mean return"), strict=False
    ):
        assert text in html
