"""What makes two commands the same run. Importing this needs neither torch nor mlflow."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from plexp._version import __version__
from plexp.config import registry
from plexp.config.paths import conf_folders

IGNORED_KEYS = ("outputs", "tracker", "checkpoint", "resume", "rerun", "objective")
"""Says where a run is kept and how it is watched, not what it computes."""
LENGTH = 16


def identity(values: Mapping[str, Any]) -> str:
    """Of a resolved configuration: 16 hexadecimal digits that also know plexp's version and the plugins' code.

    The code counts as Python reads it, without comments and layout: a sweep that is started again after its plugin was
    changed does not take the old runs for its own.
    """
    kept = {key: value for key, value in values.items() if key not in IGNORED_KEYS}
    sections = [({"critic_net": "net"}.get(section, section), sheet) for section, sheet in kept.items()]
    listeners = kept.get("callbacks")
    if isinstance(listeners, Mapping):
        sections += [("callbacks", sheet) for sheet in listeners.values()]
    plugins = {
        f"{group}/{sheet['plugin']}": _code(group, str(sheet["plugin"]))
        for group, sheet in sections
        if group in registry.GROUPS and isinstance(sheet, Mapping) and "plugin" in sheet
    }
    return _digest([kept, plugins, __version__])


def sweep_identity(arguments: list[str]) -> str:
    """Of a sweep's command line, and of the sheets that it composes."""
    sheets = [file for folder in conf_folders() for file in sorted(folder.rglob("*.yaml"))]
    return _digest([arguments, [file.read_text(errors="replace") for file in sheets], __version__])


def _code(group: str, name: str) -> str:
    """The plugin's file as a syntax tree; a file that is none as it is; nothing where there is no file."""
    text = next((file.read_text(errors="replace") for file in registry.files_of(group, name)), "")
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return text


def _digest(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
