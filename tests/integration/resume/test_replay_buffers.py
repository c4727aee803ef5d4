"""Tests that runs with a replay buffer resume from its log, notice damage to it, and remove it in the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.test_cli import QUICK, Main, main
from tests.integration.resume.test_resume import stop_at
from tests.support.processes import differences, runs

__all__ = ["main", "stop_at"]
LONG = (
    *(each for each in QUICK if not each.startswith(("algo", "total_timesteps"))),
    *("algo=dqn", "env=cartpole", "env.num_envs=4", "net.width=8", "algo.batch_size=16", "algo.learning_starts=32"),
    *("total_timesteps=320", "evaluation.every=64", "tracker.every=64", "checkpoint.every=64", "compile=false"),
    "replay.capacity=100",
)


@pytest.fixture
def uninterrupted(main: Main, tmp_path: Path) -> dict[str, Any]:
    """Return the record of a run that was never interrupted."""
    assert main(*LONG, f"outputs={tmp_path / 'never'}")[0] == 0
    (run,) = runs(tmp_path / "never")
    assert not list((tmp_path / "never").rglob("*.log*/rows-*")) and not list((tmp_path / "never").rglob("rows-*"))
    return run


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a new file of the log after every few rows."""
    monkeypatch.setattr("plexp.training.replay.log.SEGMENT_BYTES", 1500)


def test_a_resumed_run_has_its_buffer_again_and_removes_the_log_in_the_end(
    main: Main, uninterrupted: dict[str, Any], tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(27, RuntimeError("the cable came loose"))
    assert main(*LONG)[0] == 1
    assert list(tmp_path.glob("state/*/replay/rows-*.log"))
    assert main(*LONG)[0] == 0
    (run,) = runs(tmp_path)
    assert int(run["tags"]["resume.steps"]) >= 64 and differences(run, uninterrupted) == []
    assert not list(tmp_path.glob("state/*/replay/rows-*.log"))


@pytest.mark.parametrize("damage", ["flipped byte", "cut off"])
def test_damage_to_the_end_of_the_log_is_reported_and_the_checkpoint_before_it_is_used(
    damage: str, main: Main, uninterrupted: dict[str, Any], tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(27, KeyboardInterrupt())
    main(*LONG)
    older, newer = sorted(tmp_path.glob("state/*/checkpoints/step-*"))
    last = max(tmp_path.glob("state/*/replay/rows-*.log"))
    data = bytearray(last.read_bytes())
    data[-20] ^= 1
    last.write_bytes(data if damage == "flipped byte" else data[:-20])
    assert main(*LONG)[0] == 0
    (run,) = runs(tmp_path)
    assert int(run["tags"]["resume.steps"]) == int(older.name.split("-")[1])
    assert newer.name in run["tags"]["resume.damaged"] and last.name in run["tags"]["resume.damaged"]
    assert differences(run, uninterrupted) == []


def flip(files: list[Path]) -> None:
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 4
    files[1].write_bytes(data)


def delete_the_first(files: list[Path]) -> None:
    files[0].unlink()


def delete_the_folder(files: list[Path]) -> None:
    shutil.rmtree(files[0].parent)


def exchange(files: list[Path]) -> None:
    """Put the log of another seed there."""
    (other,) = files[0].parents[3].glob("other/state/*/replay")
    shutil.rmtree(files[0].parent)
    shutil.copytree(other, files[0].parent)


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("damage", [flip, delete_the_first, delete_the_folder, exchange])
def test_where_no_checkpoint_has_its_log_the_run_says_that_it_must_start_anew(
    damage: Callable[[list[Path]], None], main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    """Damage a file that both checkpoints need; the run neither trains with another buffer nor starts anew by itself."""
    command = (*LONG, "replay.capacity=1000")
    if damage is exchange:
        stop_at(27, KeyboardInterrupt())
        main(*command, "seed=1", f"outputs={tmp_path / 'other'}")
    stop_at(27, KeyboardInterrupt())
    main(*command)
    files = sorted(tmp_path.glob("state/*/replay/rows-*.log"))
    assert len(files) > 3
    damage(files)
    for _ in range(2):
        status, lines = main(*command)
        assert status == 1
        assert lines[-1].startswith("no checkpoint can be used; resume=never starts a new run (step-")
        assert any(file.name in lines[-1] for file in files)
        assert not any("Traceback" in line for line in lines)
    assert main(*command, "resume=never")[0] == 0


@pytest.mark.usefixtures("logs")
def test_the_log_on_disk_is_bounded_by_the_capacity(main: Main, tmp_path: Path, stop_at: Callable[..., None]) -> None:
    """Compare with what the buffer, the steps between two checkpoints and a file at each end can need."""
    stop_at(75, KeyboardInterrupt())
    main(*LONG, "total_timesteps=640")
    size = sum(file.stat().st_size for file in tmp_path.glob("state/*/replay/rows-*.log"))
    per_step = 4 * 4 + 8 + 4 + 3 + 80 // 8  # observation, action, reward, flags, and a record's head for each 8 steps
    assert 100 * 20 < size < (100 + 64 + 8) * per_step + 2 * 1500 + 2000
