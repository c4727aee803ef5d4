"""A small sweep by the real command line, in a folder with a plugin of its own, on any of the engines."""

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
PLUGIN = '''"""A plugin that lies in the user's folder only."""

from plexp.plugins.net.mlp import MLP

from plexp.config.registry import register


@register("net", "mine")
class Mine(MLP):
    """The same, under a name of its own."""
'''


def missing(engine: str) -> str:
    """Why it cannot be tried here; empty: it can."""
    extra, module = NEEDS[engine]
    return "" if find_spec(module) else f'pip install "plexp[{extra}]"'


class Sweep:
    """`python -m plexp -m` in `folder`, with its outputs there, as often as it is started."""

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
        """With what it says as one text."""
        return start(self.command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self, seconds: float = 240.0) -> tuple[int, str]:
        """Exit status, and what it said."""
        with self.start() as process:
            said, _ = process.communicate(timeout=seconds)
        return process.returncode, said

    def records(self) -> list[dict[str, Any]]:
        """run.json of every run."""
        return [json.loads(file.read_text()) for file in sorted(self.outputs.glob("state/*/run.json"))]

    def busy(self) -> list[int]:
        """The processes that are at a run which has a checkpoint by now."""
        found = []
        for file in self.outputs.glob("state/*/run.json"):
            record = json.loads(file.read_text())
            if record["status"] == "RUNNING" and list(file.parent.glob("checkpoints/step-*")):
                found += [record["pid"]] if Path(f"/proc/{record['pid']}").exists() else []
        return found


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """Send it the signal; what it had said by its end."""
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=120)
    return said
