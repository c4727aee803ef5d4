"""Tests of `plexp export` on real runs: its files, its output, and MLflow's model registry."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_repositories

from plexp.cli.main import main
from plexp.tracking.format import sqlite_uri
from plexp.tracking.lookup import open_run
from tests.support import forks

SHORT = ("compile=false", "net.width=8", "total_timesteps=1024", "evaluation.every=512", "evaluation.episodes=2")
NAME = "ppo-mlp2x8-gae-cartpole-s"
Run = Callable[..., tuple[int, list[str], list[str]]]
LOADS = """
import os, sys, json
sys.modules["plexp"] = None
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, numpy as np, torch
mlflow.set_tracking_uri(sys.argv[1])
rows = np.array(json.loads(sys.argv[3]), np.float32)
general, own = mlflow.pyfunc.load_model(sys.argv[2]), mlflow.pytorch.load_model(sys.argv[2])
assert [i.shape for i in general.metadata.signature.inputs.inputs] == [(-1, 4)]
print(json.dumps([general.predict(rows).tolist(), own(torch.tensor(rows)).tolist(), own(torch.tensor(rows[:1])).tolist()]))
"""


@pytest.fixture(scope="module")
def recorded_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two recorded runs: seed 0 with its model, seed 1 without."""
    folder = tmp_path_factory.mktemp("recorded_runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, model in ((0, "true"), (1, "false")):
            assert main([*SHORT, f"seed={seed}", "evaluation.final_episodes=2", f"tracker.log_model={model}"]) == 0
    return folder


@pytest.fixture
def folder(recorded_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which a test may change, with final returns of 100 (seed 0) and 200 (seed 1)."""
    artifact_repositories.clear()  # keyed by run id, and here several folders have the same ones
    shutil.copytree(recorded_runs / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    assert main(["repair"]) == 0
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as connection:
        statement = """UPDATE latest_metrics SET value = ? WHERE key = 'eval/final_return' AND run_uuid =
            (SELECT run_uuid FROM runs WHERE name = ?)"""
        for seed, value in ((0, 100.0), (1, 200.0)):
            assert connection.execute(statement, (value, f"{NAME}{seed}")).rowcount == 1
    connection.close()
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command there and returns its status, lines of output and lines of errors."""

    def command(*arguments: str) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        status = main(list(arguments))
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return command


def client(folder: Path) -> MlflowClient:
    return MlflowClient(sqlite_uri(folder / "outputs" / "mlflow.db"))


def test_the_exported_policy_acts_as_the_trained_agent(run: Run, folder: Path) -> None:
    pytest.importorskip("onnxruntime", reason='pip install "plexp[onnx]"')
    status, lines, errors = run("export", f"{NAME}1", "--to", "here/there", "--format", "all")
    assert status == 0 and not errors
    assert sorted(file.name for file in (folder / "here" / "there").iterdir()) == [
        *("play.py", "play_onnx.py", "policy.onnx", "policy.pt2")
    ]
    assert [line.split()[0].rpartition("/")[2] for line in lines] == [
        *("policy.pt2", "play.py", "policy.onnx", "play_onnx.py")
    ]
    assert lines[0].endswith("actions on 455 observations, by 1, 2 and 7: equal")
    from plexp.recorded.restore import restored

    with open_run(f"{NAME}1", outputs=folder / "outputs", uri=None) as recorded:
        experiment = restored(recorded.values, recorded.file("agent.safetensors"))
        run_id = recorded.run_id
    experiment.training_env.close()
    observations = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    expected = experiment.agent.act_greedily(observations, torch.zeros(len(observations), 0))[0]
    assert 0 < expected.sum() < 40
    assert torch.equal(torch.export.load(folder / "here/there/policy.pt2").module()(observations), expected)
    text = (folder / "here/there/play.py").read_text()
    assert run_id in text and 'gymnasium.make("CartPole-v1"' in text and "final return 200.0" in text


def test_the_default_folder_has_the_name_of_the_run(run: Run, folder: Path) -> None:
    status, lines, _ = run("export", "best")
    made = [path for path in (folder / "outputs" / "exports").iterdir()]
    assert status == 0 and len(made) == 1 and made[0].name.startswith(f"{NAME}1-")
    assert lines[0].startswith(f"{made[0]}/policy.pt2")


def actions_of(folder: Path, model: str, rows: list[list[float]]) -> list[list[int]]:
    """Return a model's actions by pyfunc, by torch, and by torch on the first row, in a process without plexp."""
    arguments = [sqlite_uri(folder / "outputs" / "mlflow.db"), model, json.dumps(rows)]
    done = forks.run(arguments, code=LOADS, cwd="/")
    assert done.returncode == 0, done.stderr
    actions: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return actions


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, id="trained with log_model", marks=pytest.mark.slow),
        pytest.param(1, id="trained without log_model"),
    ],
)
def test_a_registered_model_loads_without_plexp_and_without_pickle(seed: int, run: Run, folder: Path) -> None:
    status, lines, errors = run("export", f"{NAME}{seed}", "--register")
    assert status == 0 and not errors
    assert lines[-1].startswith(f"models:/cartpole@best is version 1 now: run {NAME}{seed}")
    from plexp.recorded.restore import restored

    with open_run(f"{NAME}{seed}", outputs=folder / "outputs", uri=None) as recorded:
        experiment = restored(recorded.values, recorded.file("agent.safetensors"))
    experiment.training_env.close()
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    expected = experiment.agent.act_greedily(rows, torch.zeros(len(rows), 0))[0].tolist()
    general, own, single = actions_of(folder, "models:/cartpole@best", rows.tolist())
    assert general == own == expected and single == expected[:1]


def test_the_alias_moves_to_a_better_run_but_to_a_worse_one_only_with_force(run: Run, folder: Path) -> None:
    def best() -> str:
        version = client(folder).get_model_version_by_alias("lander", "best")
        assert run("evaluate", "lander@best", "--episodes", "1")[0] == 0
        return str(client(folder).get_run(version.run_id).info.run_name)

    assert run("export", f"{NAME}0", "--register", "lander")[0] == 0 and best() == f"{NAME}0"
    assert run("export", f"{NAME}1", "--register", "lander")[0] == 0 and best() == f"{NAME}1"
    status, lines, errors = run("export", f"{NAME}0", "--register", "lander", "--to", "never")
    assert status == 2 and not lines and not (folder / "never").exists()
    assert len(errors) == 1 and errors[0].startswith(f"--register=lander: its alias best is at {NAME}1 (")
    assert errors[0].endswith("with a final return of 200.0, and this one has 100.0; give --force")
    assert best() == f"{NAME}1"
    assert run("export", f"{NAME}0", "--register", "lander", "--force")[0] == 0 and best() == f"{NAME}0"
    assert run("export", f"{NAME}0", "--register", "lander")[0] == 0, "this run already has the alias"
    assert len(client(folder).search_model_versions("name = 'lander'")) == 2, "one version of each run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "run=nobody: there is no such run"),
        (["last", "--to", "/proc/nothing"], "--to=/proc/nothing: it cannot be written"),
        (["last", "--to", "a file"], "--to="),
        (["last", "--register", "a/b"], "--register=a/b: "),
        (["last", "--register", "it's"], "--register=it's: "),
        (["last", "--register", "a:b"], "--register=a:b: "),
        (["last", "--register", " "], "--register= : "),
        (["last", "--register", ""], "--register=: "),
        (["last", "--register", "."], "--register=.: "),
        (["last", "--uri", "http://127.0.0.1:1"], "--uri=http://127.0.0.1:1: "),
    ],
)
def test_an_invalid_export_is_refused_in_one_line(arguments: list[str], message: str, run: Run, folder: Path) -> None:
    (folder / "a file").write_text("")
    status, lines, errors = run("export", *arguments)
    assert status == 2 and len(errors) == 1 and errors[0].startswith(message), errors
    assert not lines and not (folder / "outputs" / "exports").exists()


def test_the_error_on_a_run_without_an_agent_names_one_to_export_instead(run: Run, folder: Path) -> None:
    with open_run(f"{NAME}0", outputs=folder / "outputs", uri=None) as found:
        client(folder).set_terminated(found.run_id, "KILLED")
        for file in (folder / "outputs" / "artifacts").rglob("agent.safetensors"):
            if found.run_id in str(file):
                file.unlink()
    status, _, errors = run("export", f"{NAME}0")
    assert status == 2 and len(errors) == 1
    assert f"it is KILLED and has no agent.safetensors; choose a finished one: {NAME}1" in errors[0]


def test_an_environment_that_raises_is_reported_in_one_line(run: Run, folder: Path) -> None:
    for file in (folder / "outputs" / "artifacts").rglob("config.yaml"):
        changed = "tests.support.environments:plexp-tests/Faulty-v0"
        file.write_text(file.read_text().replace("CartPole-v1", changed).replace("kwargs: {}", "kwargs: {fault: step}"))
    for file in (folder / "outputs" / "artifacts").rglob("agent.safetensors"):
        from safetensors.torch import load_file, save_file

        weights = load_file(file)
        width = {
            key: value[..., :2] if value.shape and value.shape[-1] == 4 else value for key, value in weights.items()
        }
        save_file({key: value.contiguous() for key, value in width.items()}, file)
    status, _, errors = run("export", "last")
    assert status == 1 and len(errors) == 1 and "the physics broke" in errors[0], errors
