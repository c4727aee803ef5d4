"""Tests of plexp's wheel with two third-party packages (third_party/), in a virtual environment of its own.

The packages that plexp depends on are those of this interpreter, so that only the build backend is downloaded.
"""

from __future__ import annotations

import fcntl
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
THIRD_PARTY = Path(__file__).parent / "third_party"
SHORT = ("evaluation.final_episodes=5", "tracker.log_model=false", "compile=false")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of that environment, which the first of the workers creates."""
    shared = (
        tmp_path_factory.getbasetemp().parent
        if os.environ.get("PYTEST_XDIST_WORKER")
        else tmp_path_factory.getbasetemp()
    )
    environment, interpreter = shared / "third-party", shared / "third-party" / "bin" / "python"
    with (shared / "third-party.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (environment / "done").exists():
            wheels = shared / "wheels"
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels)]
            subprocess.run([*build, str(CHECKOUT), *map(str, sorted(THIRD_PARTY.iterdir()))], check=True)
            venv.create(environment, with_pip=True)
            (packages,) = environment.glob("lib/python*/site-packages")
            (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
            install = [str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
            subprocess.run([*install, *map(str, wheels.glob("*.whl"))], check=True)
            (environment / "done").touch()
    return interpreter


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run `python -m plexp` in a folder without access to the checkout, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-m", "plexp", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_alone_does_the_main_job_in_an_empty_folder(python: Path, tmp_path: Path) -> None:
    code = "from plexp.config import paths; print(paths.CHECKOUT, paths.PACKAGE)"
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-c", code]
    where = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=True).stdout
    assert where.startswith("None ") and str(CHECKOUT) not in where
    output = run(python, tmp_path, "algo=ppo", "env=lunarlander", "net.layers=3", "total_timesteps=4000", *SHORT)
    assert "ppo-mlp3x64-gae-lunarlander-s0" in output and "final return" in output
    assert [each.name for each in tmp_path.iterdir()] == ["outputs"]


def test_plugins_of_packages_are_found_from_any_folder_and_satisfy_the_contract(python: Path, tmp_path: Path) -> None:
    listed = run(python, tmp_path, "plugins")
    assert all(name in listed for name in ("spo ", "residual ", "windy_gridworld "))
    assert "  algo.epsilon=0.2  (float > 0 and < 1)" in run(python, tmp_path, "plugins", "spo")
    for name in ("spo", "residual"):
        assert "it satisfies its contract" in run(python, tmp_path, "check", name)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_of_third_party_plugins_trains_in_parallel_workers(python: Path, tmp_path: Path) -> None:
    choice = ("algo=spo", "env=windy_gridworld", "net=residual", "algo.num_steps=32")
    output = run(python, tmp_path, "-m", *choice, "seed=0,1", "total_timesteps=3000", "evaluation.every=1000", *SHORT)
    assert output.count("FINISHED") == 2
    assert "windy_gridworld" in run(python, tmp_path, "compare", "--env", "windy_gridworld")


def test_the_third_party_algorithm_learns(python: Path, tmp_path: Path) -> None:
    """Check that after 20,000 steps every seed is far above the 22 of a random policy on CartPole."""
    output = run(python, tmp_path, "-m", "algo=spo", "seed=0,1,2", "total_timesteps=20000", *SHORT)
    returns = [float(line.split("FINISHED")[1].split()[0]) for line in output.splitlines() if "FINISHED" in line]
    assert len(returns) == 3 and min(returns) > 100, returns


def test_the_error_on_two_plugins_of_the_same_name_names_both_files(python: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins" / "algo").mkdir(parents=True)
    (tmp_path / "plugins" / "algo" / "spo.py").write_text("")
    command = [str(python), "-m", "plexp", "algo=spo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "there are two: " in line and "plexp_spo/plugins/algo/spo.py" in line
    assert str(tmp_path / "plugins" / "algo" / "spo.py") in line
