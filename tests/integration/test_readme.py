"""The README says what CI runs, and shows what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plexp.config.catalogue import GROUPS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def shell_commands(text: str) -> list[str]:
    """The single commands of all bash blocks, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [re.sub(r"\s+#.*$", "", line) for block in blocks for line in block.splitlines() if line.strip()]
    return [command.strip() for line in lines for command in line.split("&&")]


@pytest.mark.parametrize("command", [c for c in shell_commands(README) if c.startswith(("pip ", "pytest"))])
def test_set_up_and_test_commands_are_those_that_ci_runs(command: str) -> None:
    assert command in [line.strip() for line in CI.splitlines()]


def test_the_main_job_is_the_one_that_ci_runs_shorter() -> None:
    (main_job,) = {c for c in shell_commands(README) if "env=lunarlander net.layers=3" in c and "-m plexp -m" not in c}
    assert f"{main_job} total_timesteps=" in CI


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_named(group: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
    options = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert options <= set(re.findall(r"`([a-z0-9_]+)`", row))


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_plugin_it_shows_is_the_one_that_new_writes() -> None:
    templates = ROOT / "plexp" / "templates" / "algo"
    code = re.search(r'```python\n(@register\("algo", "mine"\)\n.*?)```', README, re.S)
    sheet = re.search(r"```yaml\n# conf/algo/mine\.yaml\n(.*?)```", README, re.S)
    assert code and sheet
    assert sheet[1] in (templates / "sheet.yaml").read_text()
    written = (templates / "plugin.py").read_text()
    assert code[1] == re.sub(r"\n\n    Args:.*?\n    \"\"\"", '"""', written[written.index("@register") :], flags=re.S)
