"""Test of plexp without the modules that exist on POSIX alone, as on Windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import signal, sys

HIDDEN = {"fcntl", "resource", "pwd", "grp", "termios"}

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in HIDDEN and hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

hidden = False
import torch, mlflow, gymnasium, hydra, rich.console, matplotlib  # libraries handle this themselves
hidden = True
for name in HIDDEN:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hidden())
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)

import plexp
assert plexp.compose("algo=ppo")["algo"]["plugin"] == "ppo"
run = plexp.train(
    *("env=cartpole", "total_timesteps=1024", "compile=false", "evaluation.final_episodes=2", "net.width=8"),
    *("tracker.log_model=false", f"outputs={sys.argv[1]}"),
    progress_bar=False,
)
assert run.status == "FINISHED" and len(run.curve())
import plexp.cli.main, plexp.cli.ui_server
"""


def test_importing_composing_and_training_need_no_posix_module(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
