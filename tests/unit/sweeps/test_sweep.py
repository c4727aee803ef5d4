"""Tests of interrupting a sweep: the signal reaches the jobs of the sweep, and no other process."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plexp.execution.state import RunFolder, state_folder
from plexp.sweeps import sweep as sweeps
from plexp.sweeps.signals import Terminated

NAME = "2026-11-22_21-23-55"
Other = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this process the one that runs sweep NAME, and restore its signal handlers afterwards."""
    monkeypatch.setattr(sweeps, "running", sweeps._Running(tmp_path / "sweeps" / NAME, str(tmp_path)))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def job(outputs: Path, name: str, other: Other, **facts: Any) -> subprocess.Popen[str]:
    """Start a process that runs a run, which its record assigns to the sweep."""
    folder = RunFolder(state_folder(outputs) / name)
    process = other(folder.path)
    folder.change(**{"sweeps": {NAME: 0}, **facts})
    return process


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_sweep_ends_its_own_jobs_before_itself(
    number: int, raised: type[BaseException], tmp_path: Path, other: Other
) -> None:
    mine, another = job(tmp_path, "mine", other), job(tmp_path, "another", other, sweeps={"other": 0})
    with pytest.raises(raised):
        sweeps._interrupt(number, None)
    assert mine.wait(10) == -signal.SIGTERM and another.poll() is None


def test_a_process_of_this_host_is_not_mistaken_for_a_job_on_another(tmp_path: Path, other: Other) -> None:
    elsewhere = job(tmp_path, "elsewhere", other, host=f"not {platform.node()}")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        RunFolder(state_folder(tmp_path) / "elsewhere").change(pid=stranger.pid)
        with pytest.raises(Terminated):
            sweeps._interrupt(signal.SIGTERM, None)
        assert stranger.poll() is None and elsewhere.poll() is None
        stranger.kill()


def test_a_second_sigterm_is_ignored_while_the_sweep_ends(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        sweeps._interrupt(signal.SIGTERM, None)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
