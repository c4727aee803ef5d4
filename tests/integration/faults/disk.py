"""Fault script: does a run end cleanly, and lose nothing, if the disk fills up while it tracks or checkpoints?

python tests/integration/faults/disk.py   (as root: it mounts a file system of a few megabytes)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.processes import differences, finish, runs, start, wait_for

SIZE = (
    *("algo=ppo", "compile=false", "tracker.log_model=false"),
    *("evaluation.every=5000", "evaluation.episodes=3", "evaluation.final_episodes=5"),
)
CASES = {
    "tracking": ("net.width=16", "tracker.every=100", "checkpoint.every=null", "total_timesteps=30_000"),
    "checkpointing": ("net.width=128", "tracker.every=5000", "checkpoint.every=1000", "total_timesteps=10_000"),
}


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a file system of that size at `folder`. Raises CalledProcessError where mounting is not allowed."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Fill the disk of a folder, except for about `leave` bytes."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    os.truncate(folder / "filler", max(0, (folder / "filler").stat().st_size - leave))


def has_begun(name: str, outputs: Path) -> bool:
    """Return whether the run has started to do what the full disk is to disturb."""
    if name == "checkpointing":
        return bool(list(outputs.glob("state/*/checkpoints/step-*")))
    return (outputs / "mlflow.db").exists() and bool(runs(outputs))


def case(name: str, folder: Path) -> list[str]:
    """Run a case to its end, with a full disk in between; return all that is wrong."""
    problems = []
    command = [*SIZE, *CASES[name]]
    reference = folder / f"{name}-never"
    assert finish([*command, f"outputs={reference}"])[0] == 0
    disk = folder / name
    with small_disk(disk, 96):
        outputs = disk / "outputs"
        process = start([*command, f"outputs={outputs}"])
        wait_for(lambda: has_begun(name, outputs))
        fill(disk, 16_384)
        _, errors = process.communicate(timeout=120)
        lines = errors.strip().splitlines()
        print(f"{name}: exit status {process.returncode}; last line: {lines[-1] if lines else ''}")
        problems += [] if process.returncode == 1 else [f"exit status {process.returncode}"]
        problems += ["a traceback on the terminal"] if "Traceback" in errors else []
        problems += (
            [] if any("No space left" in line or "disk is full" in line for line in lines) else ["it does not say why"]
        )
        (record,) = [json.loads(file.read_text()) for file in outputs.glob("state/*/run.json")]
        print(f"  record: {record['status']}, {record['error']}")
        problems += (
            []
            if record["status"] == "FAILED" and "space" in " ".join(record["error"])
            else ["its record does not say why"]
        )
        (run,) = runs(outputs)
        before = sum(len(points) for points in run["metrics"].values())
        print(f"  MLflow: {run['status']}, error tag {run['tags'].get('error', 'none')!r}, {before} points")
        (disk / "filler").unlink()
        status, errors = finish([*command, f"outputs={outputs}"])
        (run,) = runs(outputs)
        after = sum(len(points) for points in run["metrics"].values())
        (uninterrupted,) = runs(reference)
        found = differences(run, uninterrupted)
        print(
            f"  with space again: exit status {status}, {run['status']}, {after} points, from step "
            f"{run['tags'].get('resume.steps', 'none')}; {found or 'equal to the run that never stopped'}"
        )
        problems += found + ([] if status == 0 else [errors])
    return problems


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problems = {name: case(name, Path(folder)) for name in CASES}
    print(problems if any(problems.values()) else "clean ends, nothing lost")
    return 1 if any(problems.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
