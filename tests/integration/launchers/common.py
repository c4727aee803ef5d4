"""Small sweep by the real command line, in a folder with a plugin of its own, on any launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.processes import start

NEEDS = {
    "joblib": ("", "joblib"),
    "ray": ("ray", "hydra_plugins.hydra_ray_launcher"),
    "submitit_local": ("slurm", "submitit"),
}
SIZE = (
    *(
        "compile=false",
        "net.width=8",
        "tracker.log_model=false",
        "evaluation.every=null",
        "evaluation.final_episodes=2",
    ),
    *("env.num_envs=2", "checkpoint.every=1000", "tracker.every=1000"),
)
PLUGIN = '''"""Plugin that exists in the user's folder only."""

from plexp.plugins.net.mlp import MLP

from plexp.config.registry import register


@register("net", "mine")
class Mine(MLP):
    """MLP under another name."""
'''


def missing(engine: str) -> str:
    """Return the command that installs what the launcher needs; empty if it is installed."""
    extra, module = NEEDS[engine]
    return "" if find_spec(module) else f'pip install "plexp[{extra}]"'


class Sweep:
    """Sweep by `python -m plexp -m` in `folder`, with its outputs there; it may be started several times."""

    def __init__(self, folder: Path, engine: str, *overrides: str) -> None:
        self.folder, self.outputs = folder, folder / "outputs"
        self.command = ("-m", f"hydra/launcher={engine}", *SIZE, *overrides)
        for file, text in {
            "plugins/net/mine.py": PLUGIN,
            "conf/net/mine.yaml": "defaults: [mlp, _self_]\nplugin: mine\n",
        }.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)

    def start(self) -> subprocess.Popen[str]:
        """Start the sweep, with its output and errors in one stream."""
        return start(self.command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self, seconds: float = 240.0) -> tuple[int, str]:
        """Run the sweep to its end; return its exit status and its output."""
        with self.start() as process:
            output, _ = process.communicate(timeout=seconds)
        return process.returncode, output

    def records(self) -> list[dict[str, Any]]:
        """Return the content of every run's run.json."""
        return [json.loads(file.read_text()) for file in sorted(self.outputs.glob("state/*/run.json"))]

    def busy(self) -> list[int]:
        """Return the ids of processes that work on a run with a checkpoint."""
        found = []
        for file in self.outputs.glob("state/*/run.json"):
            record = json.loads(file.read_text())
            if record["status"] == "RUNNING" and list(file.parent.glob("checkpoints/step-*")):
                found += [record["pid"]] if Path(f"/proc/{record['pid']}").exists() else []
        return found


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """Send a signal to the process; return its output when it has ended."""
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=120)
    return output
