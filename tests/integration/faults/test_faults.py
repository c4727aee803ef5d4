"""Tests that no fault loses anything: they run the fault scripts on a small scale."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT, differences, finish, runs, start, wait_for

HERE = Path(__file__).parent


def script(name: str, *options: str, seconds: float = 900.0) -> str:
    """Run a fault script, check that it succeeds, and return its output."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_run_that_is_killed_repeatedly_equals_one_that_never_stopped() -> None:
    assert "2 of 2 equal" in script("kills", "--trials", "2", "--only", "ppo", "lunarlander")


def test_a_run_with_a_replay_buffer_that_is_killed_equals_one_that_never_stopped() -> None:
    assert "2 of 2 equal" in script("kills", "--trials", "2", "--only", "dqn", "cartpole")


def test_a_sweep_whose_workers_are_killed_is_finished_by_its_third_start() -> None:
    assert "each job finished once" in script("sweep", "--seeds", "3")


def test_whatever_others_do_to_the_store_each_job_of_a_sweep_is_finished_once() -> None:
    assert "each of 3 jobs finished once" in script("chaos", "--acts", "10", "--jobs", "3")


def test_a_temporary_outage_of_the_server_loses_nothing() -> None:
    assert "waits on disk: nothing" in script("server", "--outage", "8", "--steps", "150000")


def test_what_the_server_missed_by_the_end_is_delivered_later() -> None:
    output = script("server", "--to-the-end", "--fault", "hang", "--steps", "60000")
    assert "sync: 0" in output and "operations.jsonl" in output


def _can_mount() -> bool:
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not _can_mount(), reason="mounting a small file system needs root")
def test_a_full_disk_ends_a_run_cleanly_and_with_space_it_resumes() -> None:
    assert "clean ends, nothing lost" in script("disk")


def test_random_command_lines_are_refused_in_one_line_or_run_to_their_end() -> None:
    assert "0 not as they should be" in script("fuzz", "--examples", "60")


def test_wrong_configurations_and_environments_end_in_a_few_lines_that_say_why() -> None:
    assert "; 0 not as they should be" in script("messages", "--cases", "48")


SIZE = ("algo=ppo", "env=lunarlander", "compile=false", "tracker.log_model=false", "evaluation.every=null")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_within_two_seconds(number: int, status: int, tmp_path: Path) -> None:
    """Take the quickest of three tries, as the machine may have paused the others."""
    tries = (_seconds_to_checkpoint(number, status, tmp_path / str(attempt)) for attempt in range(3))
    assert any(seconds < 2.0 for seconds in tries)


def _seconds_to_checkpoint(number: int, status: int, outputs: Path) -> float:
    """Send a signal to a run that is training, and return the seconds until its checkpoint is written."""
    process = start([*SIZE, "checkpoint.every=null", f"outputs={outputs}"])
    wait_for(lambda: any(json.loads(file.read_text() or "[0]")[0] for file in outputs.glob("state/*/heartbeat")))
    began = time.time()
    os.kill(process.pid, number)
    _, output = process.communicate(timeout=300)
    (checkpoint,) = outputs.glob("state/*/checkpoints/step-*")
    assert process.returncode == status
    assert (
        output.strip().splitlines()[-1]
        == "interrupted; nothing is lost: the same command resumes from the last checkpoint"
    )
    (run,) = runs(outputs)
    assert run["status"] == "KILLED"
    return checkpoint.stat().st_mtime - began


HANGS = ("env.id=tests.support.environments:plexp-tests/Faulty-v0", "+env.kwargs.fault=hang", "+env.kwargs.at=7")


def test_a_hanging_environment_ends_the_run_and_its_actions_are_recorded(tmp_path: Path) -> None:
    subprocesses = (
        "env.vectorization=async",
        "env.step_timeout=2",
        "env.num_envs=2",
        "algo.num_minibatches=2",
        "compile=false",
    )
    status, output = finish([*HANGS, *subprocesses, "evaluation.every=null", f"outputs={tmp_path}"], seconds=300)
    assert status == 1 and output.startswith("environment 0 did not answer a step within env.step_timeout=2 seconds")
    (run,) = runs(tmp_path)
    fault = json.loads((run["folder"] / "fault.json").read_text())
    assert run["status"] == "FAILED" and fault["environment"] == 0 and len(fault["actions"]) == 7


def test_a_run_that_is_killed_during_start_up_can_be_started_again(tmp_path: Path) -> None:
    """Kill the process as soon as run.json exists, while the store is being created; the next start succeeds."""
    process = start(["total_timesteps=200", "compile=false", "env.num_envs=2", f"outputs={tmp_path}"])
    wait_for(lambda: list(tmp_path.glob("state/*/run.json")))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    status, output = finish(["total_timesteps=200", "compile=false", "env.num_envs=2", f"outputs={tmp_path}"])
    assert status == 0, output
    (run,) = [run for run in runs(tmp_path) if run["status"] != "KILLED"]
    assert run["status"] == "FINISHED" and differences(run, run) == []
