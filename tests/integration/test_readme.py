"""The READMEs say what CI runs, and show what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plexp.config.catalogue import GROUPS
from tests.support.readme import shell_commands

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "conf", "plexp", "plexp/analysis", "plugins", "tests")
READMES = [ROOT / folder / "README.md" for folder in FOLDERS if (ROOT / folder / "README.md").is_file()]
TEXT = "\n".join(file.read_text() for file in READMES)
CI = (ROOT / ".ci" / "run").read_text()
TOP = shell_commands((ROOT / "README.md").read_text())


@pytest.mark.parametrize("command", [command for command in TOP if command.startswith(("pip ", "pytest"))])
def test_set_up_and_test_commands_are_those_that_ci_runs(command: str) -> None:
    assert command in [line.strip() for line in CI.splitlines()]


def test_the_main_job_is_the_one_that_ci_runs_shorter() -> None:
    (main_job,) = {
        command for command in TOP if "env=lunarlander net.layers=3" in command and " -m " not in command[12:]
    }
    assert f"{main_job} total_timesteps=" in CI


def test_ci_runs_the_slow_tests_too() -> None:
    assert "pytest" in TOP and "pytest -m slow" in shell_commands((ROOT / "tests" / "README.md").read_text())
    assert "pytest -m slow" in CI.splitlines()


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_named(group: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{group}` |"))
    options = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert options <= set(re.findall(r"`([a-z0-9_]+)`", row))


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_every_picture_is_there(readme: Path) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme.read_text())
    assert pictures or readme.parent != ROOT
    assert all((readme.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(readme: Path) -> None:
    links = re.findall(r"(?<!!)\[[^\]]+\]\(([^)#]+)[^)]*\)", readme.read_text())
    missing = [link for link in links if "://" not in link and not (readme.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("marker", re.findall(r'^  "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.M))
def test_every_marker_is_described(marker: str) -> None:
    assert f"| `{marker}` |" in (ROOT / "tests" / "README.md").read_text()


def test_the_plugin_it_shows_is_the_one_that_new_writes() -> None:
    templates = ROOT / "plexp" / "templates" / "algo"
    code = re.search(r'```python\n(@register\("algo", "mine"\)\n.*?)```', TEXT, re.S)
    config = re.search(r"```yaml\n# conf/algo/mine\.yaml\n(.*?)```", TEXT, re.S)
    assert code and config
    assert config[1] in (templates / "config.yaml").read_text()
    written = (templates / "plugin.py").read_text()
    assert code[1] == re.sub(r"\n\n    Args:.*?\n    \"\"\"", '"""', written[written.index("@register") :], flags=re.S)
