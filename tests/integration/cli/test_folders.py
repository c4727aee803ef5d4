"""Tests of outputs folders: of any name, of two commands in one second, and relative to where the command was typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plexp.files import new_folder
from plexp.sweeps import sweep
from tests.integration.cli.test_cli import QUICK, Main, main
from tests.support.processes import runs

__all__ = ["main"]
FOLDERS = (
    "what?",
    "a#b",
    "two words",
    "über",
    "-dash",
    "o'neil",
    'a "word"',
    "a=b",
    "{x,y}",
    "100%",
)
TINY = (*QUICK, "compile=false", "evaluation.final_episodes=2")


def outputs_override(folder: str) -> str:
    """Return `outputs=` with a folder of any name, quoted as Hydra wants it."""
    escaped = folder.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return f"outputs='{escaped}'"


def tables(folder: Path) -> list[Path]:
    """Return the databases below a folder."""
    return sorted(folder.rglob("*.db"))


@pytest.mark.parametrize(
    "name", ["a%20b #?", "${HOME}", *(pytest.param(name, marks=pytest.mark.slow) for name in FOLDERS)]
)
def test_a_run_is_found_again_in_an_outputs_folder_of_any_name(
    name: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, lines = main(*TINY, outputs_override(name))
    assert status == 0, lines
    assert tables(tmp_path) == [tmp_path / name / "mlflow.db"]
    (run,) = runs(tmp_path / name)
    assert run["status"] == "FINISHED" and run["folder"].is_relative_to(tmp_path / name / "artifacts")
    assert (run["folder"] / "agent.safetensors").is_file()
    option = f"--outputs={name}"
    for command in (
        ["status"],
        ["sync"],
        ["repair"],
        ["evaluate", "last", "--episodes=2"],
        ["export", "last", "--register"],
        ["film", "last", "--episodes=1"],
        ["reproduce", "last"],
    ):
        status, lines = main(*command, option)
        assert status == 0, (command, lines)
    assert set(os.listdir(tmp_path)) == {name}


def test_two_sweeps_that_start_in_one_second_have_a_folder_each(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.time, "strftime", lambda _: "2026-01-01_00-00-00")
    for seeds in ("0,1", "2,3", "0,1"):  # the third is the first one again
        assert main("-m", f"seed={seeds}", *TINY)[0] == 0
    names = sorted(path.name for path in (tmp_path / "sweeps").iterdir() if path.is_dir())
    assert names == ["2026-01-01_00-00-00", "2026-01-01_00-00-00-2"] and len(runs(tmp_path)) == 4


def test_two_comparisons_in_one_second_have_a_report_each(tmp_path: Path) -> None:
    first, second = (new_folder(tmp_path / "reports" / "now") for _ in range(2))
    assert (first.name, second.name) == ("now", "now-2")


@pytest.mark.parametrize("sweeps", [False, True])
def test_outputs_stay_where_the_command_was_typed(
    sweeps: bool, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds = ["-m", "seed=0,1"] if sweeps else []
    status, lines = main(*seeds, *TINY, "hydra.job.chdir=true", "outputs=out")
    assert status == 0, lines
    assert tables(tmp_path) == [tmp_path / "out" / "mlflow.db"] and len(runs(tmp_path / "out")) == 1 + sweeps
    assert Path.cwd() == tmp_path
