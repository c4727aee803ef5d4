"""Tests of conf/README.md: its commands, error messages and configs are those of this version."""

from __future__ import annotations

import re
import shlex

import pytest

from plexp.config import config_files
from plexp.config.hydra_errors import compose_with_choices
from plexp.config.paths import CONF
from plexp.config.schema import check
from plexp.errors import ConfigError
from tests.support.readme import shell_commands

TEXT = (CONF / "README.md").read_text()
COMMANDS = [shlex.split(command)[3:] for command in shell_commands(TEXT)]
"""Arguments of `python -m plexp` in the bash blocks."""
REFUSED = re.findall(r"^\$ python -m plexp (?!-m)(.*)\n((?:(?!\$|```).*\n)+)", TEXT, re.M)
"""Arguments and output of the commands that are shown with their errors."""


def first_job(arguments: list[str]) -> list[str]:
    """Return the overrides of the first job of a sweep or search."""
    flags = {"-m", "--cfg", "--info", "--resolve", "--package", "job", "defaults-tree", "algo"}
    overrides = [argument for argument in arguments if argument not in flags]
    values = {r"=glob\(\*\)$": "=full", r"=range\(10\)$": "=0", r"=tag\(.*\((\S+), \S+\)\)$": r"=\1"}
    for pattern, value in values.items():
        overrides = [re.sub(pattern, value, override) for override in overrides]
    return [re.sub(r"=([^,\[]+),.*$", r"=\1", override) for override in overrides]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_composes_to_a_valid_configuration(arguments: list[str]) -> None:
    values, _ = compose_with_choices(*first_job(arguments))
    check(values)


@pytest.mark.parametrize(("arguments", "output"), REFUSED)
def test_every_error_is_shown_as_it_is_printed(arguments: str, output: str) -> None:
    overrides = shlex.split(arguments)
    with pytest.raises(ConfigError) as error:
        check(compose_with_choices(*overrides)[0])
    assert str(error.value) == output.rstrip("\n")


@pytest.mark.parametrize("name", re.findall(r"```yaml\n# (conf/\S+\.yaml)\n", TEXT))
def test_every_config_is_shown_as_it_is(name: str) -> None:
    (shown,) = re.findall(rf"```yaml\n# {name}\n(.*?)```", TEXT, re.S)
    assert shown == (CONF.parent / name).read_text()


@pytest.mark.parametrize(
    "group", ["algo", "advantage", "replay", "net", "env", "callbacks", "tuned", "experiment", "search"]
)
def test_the_table_of_groups_names_every_option(group: str) -> None:
    (row,) = re.findall(rf"^\| `{group}` \|(.*)$", TEXT, re.M)
    assert set(config_files.options(group)) <= set(re.findall(r"`([a-z0-9_]+)`", row))


def test_the_readme_has_commands_errors_and_configs() -> None:
    assert len(COMMANDS) > 10 and len(REFUSED) > 3


def test_every_linked_section_exists() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
