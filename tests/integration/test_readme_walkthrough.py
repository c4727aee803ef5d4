"""Test of the READMEs' commands from a new plugin to a film of its agent, each as shown, with a short budget."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(file.read_text() for file in (ROOT / "README.md", *sorted(ROOT.glob("p*/README.md"))))
"""Text of the READMEs at the top, in plexp/ and in plugins/."""
SHORT = {
    "algo=": ("total_timesteps=4000", "evaluation.every=1000", "evaluation.episodes=2", "evaluation.final_episodes=5"),
    "film": ("--episodes", "3"),
}
SECONDS = 300


def commands() -> list[list[str]]:
    """Return the arguments of `python -m plexp` in the block that begins with `plexp new`."""
    (block,) = re.findall(r"```bash\n(python -m plexp new .*?)```", TEXT, re.S)
    return [shlex.split(line, comments=True)[3:] for line in block.splitlines()]


@pytest.mark.server
def test_under_ten_commands_create_train_compare_and_film_a_plugin(tmp_path: Path) -> None:
    walkthrough = commands()
    assert len(walkthrough) < 10 and [each[0] for each in walkthrough][-1] == "ui"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    outputs: dict[str, str] = {}
    for arguments in walkthrough[:-1]:
        more = next((more for key, more in SHORT.items() if any(each.startswith(key) for each in arguments)), ())
        command = [sys.executable, "-m", "plexp", *arguments, *more]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        outputs[" ".join(arguments[:2])] = done.stdout
    assert (tmp_path / "plugins" / "algo" / "mine.py").is_file()
    assert "it satisfies its contract" in outputs["check mine"]
    assert "mine-mlp2x64-gae-cartpole-s0" in outputs["algo=mine env=cartpole"]
    assert outputs["-m algo=mine,a2c"].count("FINISHED") == 10
    assert "Verdict" in outputs["compare --env"]
    assert "95 %" in outputs["evaluate best"]
    films = sorted(path.suffix for path in (tmp_path / "films").iterdir())
    assert films == [".gif"] * 3 + [".mp4"] * 3
    server = subprocess.Popen(
        [sys.executable, "-m", "plexp", *walkthrough[-1], "--port", "5917"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert "MLflow runs at http://127.0.0.1:5917" in server.stdout.readline()
        assert "cartpole: http://127.0.0.1:5917/#/experiments/" in server.stdout.readline()
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        server.communicate()
