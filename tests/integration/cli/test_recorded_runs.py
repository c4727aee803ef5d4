"""Tests that find, evaluate and reproduce recorded runs, on two real ones made by the command line."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_repositories
from safetensors.torch import load_file, save_file

from plexp.cli.main import main
from plexp.errors import ConfigError, StoreError
from plexp.tracking.lookup import open_run

SHORT = ("compile=false", "net.width=8", "total_timesteps=3000", "evaluation.every=1000", "evaluation.episodes=2")
NAME = "ppo-mlp2x8-gae-cartpole-s0"
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def recorded_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two recorded runs."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            shorter = (f"seed={seed}", "evaluation.final_episodes=4", "tracker.log_model=false")
            assert main([*SHORT, *shorter]) == 0
    return folder


@pytest.fixture
def folder(recorded_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which a test may change; it is the current folder."""
    artifact_repositories.clear()  # keyed by run id, and here several folders have the same ones
    shutil.copytree(recorded_runs / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    assert main(["repair"]) == 0
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


def change(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "outputs" / "mlflow.db") as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def test_a_run_is_found_by_id_name_last_and_best(folder: Path) -> None:
    outputs = folder / "outputs"

    def found(reference: str, **options: str) -> str:
        with open_run(reference, outputs=outputs, uri=None, **options) as run:
            return run.run_id

    newest = found("last")
    first = found(NAME)
    assert newest != first and found(first) == found(first[:8]) == first
    assert found(newest, env="cartpole") == newest
    change(folder, "UPDATE latest_metrics SET value = 9999 WHERE run_uuid = ? AND key = 'eval/final_return'", first)
    assert found("best") == first
    change(folder, "UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", first)
    assert found("best") == newest, "only finished ones"


@pytest.mark.parametrize(
    ("reference", "env", "message"),
    [
        ("ppo-mlp2x8-gae-cartpole-s7", None, "there is no such run; did you mean ppo-mlp2x8-gae-cartpole-s"),
        ("0123456789abcdef0123456789abcdef", None, "there is no such run; there are ppo-mlp2x8"),
        ("it's", None, "there is no such run"),
        ("cartpole@best", None, "there is no such registered model"),
        ("models:/cartpole/3", None, "there is no such registered model"),
        ("last", "cartpol", "--env=cartpol: no run is of it; did you mean cartpole?"),
    ],
)
def test_a_run_that_does_not_exist_is_reported_in_one_line(
    reference: str, env: str | None, message: str, folder: Path
) -> None:
    with (
        pytest.raises(ConfigError, match=message) as error,
        open_run(reference, outputs=folder / "outputs", uri=None, env=env),
    ):
        pass
    assert "\n" not in str(error.value)


def test_reading_creates_no_store(tmp_path: Path) -> None:
    for uri in (None, f"sqlite:///{tmp_path}/other.db"):
        with (
            pytest.raises(StoreError, match="no run has been kept there yet"),
            open_run("last", outputs=tmp_path, uri=uri),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_evaluate_plays_new_episodes_and_records_them(run: Run, folder: Path) -> None:
    status, lines, _ = run("evaluate", NAME, "--episodes", "12")
    assert status == 0 and lines[0] == f"{NAME} on cartpole, 12 episodes, greedy, seed 0"
    again = run("evaluate", NAME, "--episodes", "12")[1]
    assert again[:3] == lines[:3]
    other = run("evaluate", NAME, "--episodes", "12", "--seed", "1")[1]
    sampled = run("evaluate", NAME, "--episodes", "12", "--sampled")[1]
    assert other[1] != lines[1] != sampled[1] and "sampled from the policy" in sampled[0]
    with open_run(NAME, outputs=folder / "outputs", uri=None) as recorded:
        record = json.loads(recorded.file("evaluations/seed0.json").read_text())
        returns = np.array(record["returns"])
        half = 2.200985 * returns.std(ddof=1) / np.sqrt(12)  # t of 11 degrees of freedom
        logged = recorded.history()  # by seed
        assert logged["evaluate/return"][0] == pytest.approx(returns.mean())
        assert logged["evaluate/return_low"][0] == pytest.approx(returns.mean() - half, rel=1e-5)
        assert logged["evaluate/return"].keys() == {0, 1}
        assert (
            f"mean return {returns.mean():.1f} [{returns.mean() - half:.1f}, {returns.mean() + half:.1f}]" in lines[1]
        )
        assert record["lengths"] == record["returns"], "CartPole pays 1 a step"
        assert "evaluate/sampled/return" in recorded.metrics


@pytest.mark.parametrize("command", ["evaluate", "export", "reproduce"])
def test_a_run_whose_config_has_a_key_that_is_gone_is_still_read(command: str, run: Run, folder: Path) -> None:
    (file,) = [f for f in folder.glob("outputs/artifacts/**/config.yaml") if yaml.safe_load(f.read_text())["seed"] == 0]
    values = yaml.safe_load(file.read_text())
    values["env"]["check_bounds"] = False
    file.write_text(yaml.safe_dump(values))
    options = {"evaluate": ("--episodes", "2"), "export": ("--format", "pt2")}
    status, lines, errors = run(command, NAME, *options.get(command, ()))
    assert status == 0, errors
    assert "check_bounds" not in " ".join(lines + errors)


def test_evaluate_plays_another_environment_of_the_same_spaces(run: Run, folder: Path) -> None:
    status, lines, _ = run("evaluate", NAME, "env.kwargs.sutton_barto_reward=true", "--episodes", "3")
    assert status == 0 and "cartpole_sutton_barto_reward" in lines[0]
    assert "mean return -1.0 [-1.0, -1.0]" in lines[1]
    assert run("evaluate", NAME, "env=cartpole", "--episodes", "3")[1][0].startswith(f"{NAME} on cartpole,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "0"], "--episodes=0: this is not such a number; give a whole number from 1 on"),
        (["env=lunarlander"], "its observations are (8,), and the agent's (4,)"),
        (["env=gymnasium", "env.id=Pendulum-v1"], "env.id"),
        (["env=nowhere"], "there is no such option"),
        (["net.width=3"], "only the environment can be changed"),
        (["env.num_envs=0"], "env.num_envs=0: must be greater than 0"),
        (["env.nothing=0"], "has no such parameter"),
    ],
)
def test_an_invalid_evaluation_is_refused_in_one_line(arguments: list[str], message: str, run: Run) -> None:
    status, lines, errors = run("evaluate", NAME, *arguments)
    assert status == 2 and not lines and len(errors) == 1 and message in errors[0], errors


def test_the_error_on_a_run_without_an_agent_names_those_that_have_one(run: Run, folder: Path) -> None:
    next(folder.glob("outputs/artifacts/**/agent.safetensors")).unlink()
    answers = [run("evaluate", name, "--episodes", "1") for name in (NAME, NAME.replace("s0", "s1"))]
    assert sorted(status for status, _, _ in answers) == [0, 2]
    (line,) = next(errors for status, _, errors in answers if status == 2)
    assert "it has no agent.safetensors; choose a finished one: ppo-mlp2x8-gae-cartpole-s" in line


def test_the_error_on_a_run_of_a_newer_plexp_says_what_to_install(run: Run, folder: Path) -> None:
    change(folder, "UPDATE tags SET value = '99.0' WHERE key = 'version.plexp'")
    assert run("evaluate", NAME, "--episodes", "1")[0] == 0, "it fits"
    for file in folder.glob("outputs/artifacts/**/config.yaml"):
        values = yaml.safe_load(file.read_text())
        values["algo"]["from_the_future"] = 1
        file.write_text(yaml.safe_dump(values))
    status, _, (line,) = run("evaluate", NAME, "--episodes", "1")
    assert status == 2 and "plexp 99.0 recorded it" in line and 'pip install "plexp>=99.0"' in line


def test_a_run_of_an_older_plexp_gets_current_values_for_what_it_lacks(run: Run, folder: Path) -> None:
    for file in folder.glob("outputs/artifacts/**/config.yaml"):
        values = yaml.safe_load(file.read_text())
        del values["algo"]["target_kl"], values["evaluation"]["film"], values["torch_threads"]
        del values["evaluation"]["max_steps"], values["max_rollout_steps"]
        file.write_text(yaml.safe_dump(values))
    assert run("evaluate", NAME, "--episodes", "1")[0] == 0
    assert run("reproduce", NAME)[0] == 0
    assert run("film", NAME, "--episodes", "1")[0] == 0
    assert run("film", NAME, "--episode", "1")[0] == 0
    assert run("export", NAME)[0] == 0


def test_evaluate_says_how_many_episodes_were_cut_off(run: Run, folder: Path) -> None:
    for file in folder.glob("outputs/artifacts/**/config.yaml"):
        values = yaml.safe_load(file.read_text())
        values["evaluation"]["max_steps"] = 2
        file.write_text(yaml.safe_dump(values))
    status, lines, _ = run("evaluate", NAME, "--episodes", "3")
    assert status == 0 and "length 2.0 steps on average" in lines[2]
    assert lines[3] == "3 of the episodes were cut off: their returns count as far as they went"
    with open_run(NAME, outputs=folder / "outputs", uri=None) as recorded:
        assert recorded.metrics["evaluate/cut_off"] == 3


def test_a_run_is_reproduced_bit_for_bit(run: Run, folder: Path) -> None:
    status, lines, _ = run("reproduce", NAME)
    with open_run(NAME, outputs=folder / "outputs", uri=None) as recorded:
        episodes = len(recorded.file("episodes.csv").read_text().splitlines()) - 1
        assert recorded.tags["reproduced"].endswith("identical")
        tensors = len(load_file(recorded.file("agent.safetensors")))
        logged = recorded.history()
    numbers = sum(
        len(points) for name, points in logged.items() if name[:5] in ("eval/", "train") and "seconds" not in name
    )
    numbers -= len(logged.get("eval/normalised_score", {}))
    message = f"identical: {numbers} numbers, {episodes} episodes and {tensors} tensors of weights, bit for bit"
    assert status == 0 and message in lines, lines


def test_reproduce_says_that_an_environment_draws_from_a_global_generator(run: Run, folder: Path) -> None:
    settings = ("env=gymnasium", "env.id=plexp-tests/Globals-v0", "+env.kwargs.generator=numpy.random", *SHORT)
    assert run(*settings, "evaluation.final_episodes=4", "tracker.log_model=false", "total_timesteps=1100")[0] == 0
    status, lines, _ = run("reproduce", "last")
    assert status == 0 and lines[-2].startswith("identical: ")
    assert lines[-1] == (
        "although the environment draws from the global generator of numpy.random, not from self.np_random"
    )


def altered_weights(folder: Path) -> None:
    for file in folder.glob("outputs/artifacts/**/agent.safetensors"):
        weights = load_file(file)
        weights["head.linear.bias"][0] += 1e-7
        save_file(weights, file)


def altered_episode(folder: Path) -> None:
    for file in folder.glob("outputs/artifacts/**/episodes.csv"):
        lines = file.read_text().splitlines()
        lines[3] = lines[3].replace(",", ",1", 1)
        file.write_text("\n".join(lines) + "\n")


def altered_metric(folder: Path) -> None:
    change(folder, "UPDATE metrics SET value = value + 1e-9 WHERE key = 'train/entropy'")


def one_more_metric(folder: Path) -> None:
    change(folder, "UPDATE metrics SET key = 'train/other' WHERE key = 'train/entropy'")
    change(folder, "UPDATE latest_metrics SET key = 'train/other' WHERE key = 'train/entropy'")


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (altered_metric, "differs: train/entropy at step 2,000 was "),
        (altered_weights, "differs: the weights head.linear.bias differ by up to "),
        (altered_episode, "differs: training episode 2 (steps, return, length) was "),
        (one_more_metric, "differs: train/entropy at step 2,000 is "),
    ],
)
def test_the_first_difference_is_named(alter: Callable[[Path], None], message: str, run: Run, folder: Path) -> None:
    alter(folder)
    status, lines, _ = run("reproduce", NAME)
    assert status == 1 and any(line.startswith(message) for line in lines), lines
    to_the_end = run("reproduce", NAME, "--to-the-end")[1]
    assert any(line.startswith(message) for line in to_the_end)


def test_what_has_changed_since_the_run_is_named(run: Run, folder: Path) -> None:
    change(folder, "UPDATE tags SET value = '1.0.0' WHERE key = 'version.torch'")
    change(folder, "UPDATE tags SET value = '0123456789abcdef' WHERE key = 'state'")
    status, lines, _ = run("reproduce", NAME)
    assert status == 0
    assert any(line.startswith("although version.torch was 1.0.0 and is 2.") for line in lines)
    assert any("the code of its plugins" in line for line in lines)


def test_a_run_that_cannot_be_reproduced_is_reported_in_one_line(run: Run, folder: Path) -> None:
    assert run("reproduce", "nobody")[2] == run("evaluate", "nobody")[2]
    for file in folder.glob("outputs/artifacts/**/config.yaml"):
        file.unlink()
    status, _, (line,) = run("reproduce", NAME)
    assert status == 2 and "it has no config.yaml" in line


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", "99999999999999999999999"])
def test_evaluate_refuses_a_seed_that_is_none(seed: str, run: Run) -> None:
    status, lines, errors = run("evaluate", NAME, f"--seed={seed}")
    assert status == 2 and (lines + errors)[-1].startswith(f"--seed={seed}: this is not such a number; give a whole")
