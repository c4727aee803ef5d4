"""Read config files without Hydra: their options, values, comments and faults."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from plexp.config.paths import conf_folders
from plexp.errors import ConfigError, Problem, one_line

WITH_PLUGIN = ("algo", "advantage", "net", "env", "replay", "callbacks")
"""Groups whose configs name a plugin."""
GLOBAL = ("experiment", "ablation", "dqn_ablation", "tuned", "search")
"""Groups whose configs change values of the whole configuration."""


def options(group: str) -> list[str]:
    """Return the options of a config group, in alphabetical order."""
    folders = [folder / group for folder in conf_folders()]
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml") if file.is_file()})


def files(group: str, option: str) -> list[Path]:
    """Return the file of a config, after those that it names in its defaults list without choosing them in a group.

    Empty if there is no such config.
    """
    candidates = [folder / group / f"{option}.yaml" for folder in reversed(conf_folders())]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        return []
    included = _content(file).get("defaults") or []
    paths = [entry.partition("@")[0] for entry in included if isinstance(entry, str) and entry != "_self_"]
    bases = []
    for path in paths:
        base_group, _, base = (path.removeprefix("/") if path.startswith("/") else f"{group}/{path}").rpartition("/")
        bases += files(base_group, base)
    return [*bases, file]


def values(group: str, option: str) -> dict[str, Any]:
    """Return the values that a config gives its section, interpolations unresolved."""
    merged: dict[str, Any] = {}
    for file in files(group, option):
        content = _content(file)
        section = content.get(group, content)
        merged |= (
            {key: value for key, value in section.items() if key != "defaults"} if isinstance(section, dict) else {}
        )
    return merged


def comments(group: str, option: str) -> dict[str, str]:
    """Return the comment at the end of each key's line; what a config says goes before what its defaults say."""
    texts = [file.read_text(errors="replace") for file in files(group, option)]
    return {line[1]: line[2] for text in texts for line in re.finditer(r"^ *(\w+):[^#\n]*?# *(.+)$", text, re.M)}


def check_chosen(arguments: Sequence[str]) -> None:
    """Raise ConfigError if a config that a command line chooses, `GROUP=OPTION`, cannot be used, with file and cause."""
    problems = []
    for argument in arguments:
        if match := re.fullmatch(r"\+{0,2}([a-z][\w/]*)(?:@[\w.]+)?=(.+)", argument):
            for option in re.findall(r"[^\s,\[\]()'\"]+", match[2]):
                problems += [problem] if (problem := _problem_of(match[1], option)) else []
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def not_yaml(error: yaml.YAMLError) -> Problem:
    """Return what is wrong with a file that YAML cannot read, with its line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem(
            str(getattr(error, "name", "a config")), ..., f"this is no YAML ({one_line(error)})", "correct it"
        )
    where = f"{error.problem_mark.name}:{error.problem_mark.line + 1}"
    remedies = {
        "\\t": "indent with spaces",
        "duplicate key": "keep one of the two",
        "alias": "quote what begins with a *",
    }
    remedies |= {"cannot start any token": "quote it", "another document": "keep one document, without ---"}
    remedies |= {"tag": "write a plain value: tags are not allowed"}
    text = str(error.problem)
    remedy = next(
        (advice for sign, advice in remedies.items() if sign in text), "close what is open, or correct the line"
    )
    return Problem(where, ..., f"this is no YAML ({text})", remedy)


def _problem_of(group: str, option: str) -> Problem | None:
    """Return why a config, or one that it includes, cannot be used; None if it can, or if there is none."""
    places = [folder / group / option for folder in conf_folders()]
    for file in (place.with_name(f"{place.name}.yaml") for place in places):
        if file.is_dir() or (file.is_symlink() and not file.exists()):
            cause = "this is a folder, not a file" if file.is_dir() else "this is a link to a file that does not exist"
            return Problem(str(file), ..., cause, "choose another config, or write the file")
    if not (chosen := files(group, option)):
        others = [file for place in places if (file := place.with_name(f"{place.name}.yml")).is_file()]
        return Problem(str(others[0]), ..., "configs end in .yaml", f"rename it to {option}.yaml") if others else None
    for file in chosen:
        if problem := _unreadable(file):
            return problem
    file, section = chosen[-1], values(group, option)
    content = _content(file)
    if group in WITH_PLUGIN and "defaults" not in content and "plugin" not in section:
        cause = "names no plugin" if content else "is empty"
        return Problem(
            str(file), ..., f"this config {cause}", "give plugin: NAME and a value for each of its parameters"
        )
    text = file.read_text()
    if group in GLOBAL and not re.search(r"^#\s*@package", text, re.M) and group not in content:
        cause = f"its values would be those of a section {group}" if content else "this config is empty"
        return Problem(str(file), ..., cause, "write # @package _global_ into its first line")
    return None


def _unreadable(file: Path) -> Problem | None:
    """Return why a file is no mapping of names to values; None if it is."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            values = yaml.safe_load(stream)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Problem(f"{file}:{line}", ..., f"this is not UTF-8 ({error.reason})", "save the file as UTF-8")
    except yaml.YAMLError as error:
        return not_yaml(error)
    if values is not None and not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "a single value"
        return Problem(str(file), ..., f"this is {kind}, not names with values", "write NAME: VALUE on each line")
    if wrong := [key for key in values or {} if not isinstance(key, str)]:
        return Problem(str(file), ..., f"the key {wrong[0]} is no text", "write NAME: VALUE on each line")
    if not isinstance((values or {}).get("defaults", []), list):
        return Problem(str(file), ..., "its defaults are no list", "write defaults: [OTHER]")
    return None


def _content(file: Path) -> dict[str, Any]:
    """Return the values of a file; none of a file that cannot be read, which is reported where it is chosen."""
    return {} if _unreadable(file) else yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
