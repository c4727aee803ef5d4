"""Tests of the READMEs: they show the commands that CI runs, and what they name exists."""

from __future__ import annotations

import importlib
import re
import shlex
import textwrap
from pathlib import Path

import pytest

import plexp
from plexp.cli import commands
from plexp.config.catalogue import GROUPS
from plexp.config.compose import compose
from tests.support.readme import shell_commands

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "conf", "plexp", "plexp/analysis", "plugins", "tests")
READMES = [ROOT / folder / "README.md" for folder in FOLDERS if (ROOT / folder / "README.md").is_file()]
TEXT = "\n".join(file.read_text() for file in READMES)
CI = (ROOT / ".ci" / "run").read_text()
TOP = shell_commands((ROOT / "README.md").read_text())


@pytest.mark.parametrize("command", [command for command in TOP if command.startswith(("pip ", "pytest"))])
def test_ci_runs_the_commands_for_set_up_and_tests(command: str) -> None:
    assert command in [line.strip() for line in CI.splitlines()]


def test_ci_runs_a_shorter_main_job() -> None:
    (main_job,) = {
        command for command in TOP if "env=lunarlander net.layers=3" in command and " -m " not in command[12:]
    }
    assert f"{main_job} total_timesteps=" in CI


def test_ci_runs_the_slow_tests_too() -> None:
    assert "pytest" in TOP and "pytest -m slow" in shell_commands((ROOT / "tests" / "README.md").read_text())
    assert "pytest -m slow" in CI.splitlines()


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_is_listed(group: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{group}` |"))
    options = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert options <= set(re.findall(r"`([a-z0-9_]+)`", row))


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_every_picture_exists(readme: Path) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme.read_text())
    assert pictures or readme.parent != ROOT
    assert all((readme.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.parent.relative_to(ROOT)))
def test_every_linked_file_exists(readme: Path) -> None:
    links = re.findall(r"(?<!!)\[[^\]]+\]\(([^)#]+)[^)]*\)", readme.read_text())
    missing = [link for link in links if "://" not in link and not (readme.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("marker", re.findall(r'^  "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.M))
def test_every_marker_is_described(marker: str) -> None:
    assert f"| `{marker}` |" in (ROOT / "tests" / "README.md").read_text()


def test_the_plugin_shown_is_the_one_that_new_writes() -> None:
    templates = ROOT / "plexp" / "templates" / "algo"
    code = re.search(r'```python\n(@register\("algo", "mine"\)\n.*?)```', TEXT, re.S)
    config = re.search(r"```yaml\n# conf/algo/mine\.yaml\n(.*?)```", TEXT, re.S)
    assert code and config
    assert config[1] in (templates / "config.yaml").read_text()
    written = (templates / "plugin.py").read_text()
    assert code[1] == re.sub(r"\n\n    Args:.*?\n    \"\"\"", '"""', written[written.index("@register") :], flags=re.S)


def test_the_loss_in_the_top_readme_is_that_of_ppo() -> None:
    (shown,) = re.findall(r"```python\n(def loss\(.*?)```", (ROOT / "README.md").read_text(), re.S)
    source = textwrap.dedent(
        (ROOT / "plugins" / "algo" / "ppo.py").read_text().partition("    return self.learner.fit")[2]
    )
    assert textwrap.indent(shown, "    ") in source


def test_the_top_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


@pytest.mark.parametrize("name", sorted(set(plexp.__all__) - {"__version__"}))
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"`(plexp\.)?{name}[`(.]", (ROOT / "plexp" / "README.md").read_text())


@pytest.mark.parametrize(
    "command",
    [
        command
        for readme in READMES
        if readme.parent.name != "conf"  # its commands have tests of their own
        for command in shell_commands(readme.read_text())
        if command.startswith("python -m plexp")
    ],
)
def test_every_command_composes_or_has_the_options_shown(command: str) -> None:
    """Check that experiments and the first jobs of sweeps compose, and that other commands have the options shown."""
    arguments = shlex.split(command)[3:]
    if arguments[0] in commands.NAMES:
        with pytest.raises(SystemExit) as stop:  # an unknown option is refused before --help is read
            importlib.import_module(f"plexp.cli.commands.{arguments[0]}").main([*arguments[1:], "--help"])
        assert stop.value.code == 0
        return
    values = [re.sub(r"=(?:range|glob)\(.*\)$", "=0", a) for a in arguments if not a.startswith(("-", "hydra"))]
    values = [re.sub(r"=([^,\[(]+),.*$", r"=\1", value) for value in values]
    if not any(
        value.startswith(("algo=mine", "ablation=", "dqn_ablation=", "search=")) or "interval(" in value
        for value in values
    ):
        compose(*values)
