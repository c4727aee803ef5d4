"""Tests of the launchers: each runs a small sweep from the command line, in processes of this host."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.launchers.common import NEEDS, Sweep, end, missing
from tests.support.processes import runs, wait_for

ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(bool(missing(engine)), reason=missing(engine))) for engine in NEEDS
]
OTHERS = [each for each in ENGINES if each.values[0] != "joblib"]
LONG = ("seed=0,1", "total_timesteps=2_000_000")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_runs_with_the_plugins_of_its_folder_and_the_same_command_skips_it(engine: str, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, engine, "net=mine", "seed=0,1,2", "total_timesteps=2000")
    status, output = sweep.finish()
    assert status == 0, output
    (name,) = [folder.name for folder in (tmp_path / "outputs" / "sweeps").iterdir()]
    found = runs(sweep.outputs)
    assert [run["status"] for run in found] == ["FINISHED"] * 3
    assert {run["params"]["seed"] for run in found} == {"0", "1", "2"}
    assert {run["tags"]["sweep"] for run in found} == {name}
    assert {run["params"]["net.plugin"] for run in found} == {"mine"}
    assert [record["sweeps"] for record in sorted(sweep.records(), key=lambda r: str(r["name"]))] == [
        {name: number} for number in range(3)
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"conf", "plugins", "outputs"}, "nothing else is written"

    status, output = sweep.finish()
    assert status == 0 and output.count("before") == 3, output
    assert [run["id"] for run in runs(sweep.outputs)] == [run["id"] for run in found]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("engine", OTHERS)
def test_a_signal_ends_the_jobs_after_their_checkpoints(engine: str, number: int, status: int, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, engine, *LONG)
    process = sweep.start()
    wait_for(lambda: len(sweep.busy()) == 2)
    jobs = sweep.busy()
    output = end(process, number)
    assert process.returncode == status, output
    assert "interrupted; nothing is lost" in output and output.count("INTERRUPTED") == 2, output
    assert [run["status"] for run in runs(sweep.outputs)] == ["KILLED"] * 2
    wait_for(lambda: not any(Path(f"/proc/{job}").exists() for job in jobs))


@pytest.mark.skipif(bool(missing("ray")), reason=missing("ray"))
def test_ray_restarts_a_killed_job_which_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "ray", "seed=0,1", "total_timesteps=20_000")
    process = sweep.start()
    os.kill(wait_for(sweep.busy)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = runs(sweep.outputs)
    assert [run["status"] for run in found] == ["FINISHED"] * 2
    assert sum(int(run["tags"].get("resume.steps", 0)) >= 1000 for run in found) == 1
    for run in found:
        for name, points in run["metrics"].items():
            assert len({step for step, _ in points}) == len(points), f"{name}: a step twice"


@pytest.mark.skipif(bool(missing("submitit_local")), reason=missing("submitit_local"))
def test_a_job_that_is_preempted_writes_its_checkpoint_and_is_requeued(tmp_path: Path) -> None:
    """Send SIGUSR2, as SLURM does before it preempts a job of submitit."""
    sweep = Sweep(tmp_path, "submitit_local", "seed=0,1", "total_timesteps=30_000")
    process = sweep.start()
    os.kill(wait_for(sweep.busy)[0], signal.SIGUSR2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = runs(sweep.outputs)
    assert [run["status"] for run in found] == ["FINISHED"] * 2
    assert sum("resume.steps" in run["tags"] for run in found) == 1
    logs = [file.read_text() for file in sweep.outputs.glob("sweeps/*/.submitit/*/*_log.*")]
    assert any("Requeued job" in log for log in logs) and not any("Traceback" in log for log in logs)
