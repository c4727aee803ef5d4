"""Read config files without Hydra: their options, values and comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from plexp.config.paths import conf_folders


def options(group: str) -> list[str]:
    """Return the options of a config group, in alphabetical order."""
    return sorted({file.stem for folder in conf_folders() for file in (folder / group).glob("*.yaml")})


def files(group: str, option: str) -> list[Path]:
    """Return the file of a config, after those that it names in its defaults list without choosing them in a group.

    Empty if there is no such config.
    """
    candidates = [folder / group / f"{option}.yaml" for folder in reversed(conf_folders())]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        return []
    included = (yaml.safe_load(file.read_text()) or {}).get("defaults", [])
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
        content = yaml.safe_load(file.read_text()) or {}
        merged |= {key: value for key, value in content.get(group, content).items() if key != "defaults"}
    return merged


def comments(group: str, option: str) -> dict[str, str]:
    """Return the comment at the end of each key's line; what a config says goes before what its defaults say."""
    texts = [file.read_text() for file in files(group, option)]
    return {line[1]: line[2] for text in texts for line in re.finditer(r"^ *(\w+):[^#\n]*?# *(.+)$", text, re.M)}
