"""Identities of runs and sweeps: equal for two commands that are the same one.

Importing this needs neither torch nor MLflow.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from typing import Any

from plexp._version import __version__
from plexp.config import plain, registry
from plexp.config.paths import conf_folders

IGNORED_KEYS = ("outputs", "tracker", "checkpoint", "resume", "rerun", "objective")
"""Keys that say where a run is recorded and how it is watched, not what it computes."""
LENGTH = 16
"""Number of hexadecimal digits of an identity."""


def identity(values: Mapping[str, Any]) -> str:
    """Return the identity of a run, from its resolved configuration, plexp's version and the code of its plugins.

    The code counts as Python parses it, without comments and layout. So a sweep that is started again after a plugin was
    changed does not take the old runs for its own.
    """
    computing = {key: value for key, value in values.items() if key not in IGNORED_KEYS}
    sections = [({"critic_net": "net"}.get(name, name), section) for name, section in computing.items()]
    callbacks = computing.get("callbacks")
    if isinstance(callbacks, Mapping):
        sections += [("callbacks", section) for section in callbacks.values()]
    plugins = {
        f"{group}/{section['plugin']}": _code(group, str(section["plugin"]))
        for group, section in sections
        if group in registry.GROUPS and isinstance(section, Mapping) and "plugin" in section
    }
    return _digest([computing, plugins, __version__])


def sweep_identity(arguments: list[str]) -> str:
    """Return the identity of a sweep, from its command line and all configs that it may compose."""
    files = [file for folder in conf_folders() for file in sorted(folder.rglob("*.yaml")) if file.is_file()]
    return _digest([arguments, [file.read_text(errors="replace") for file in files], __version__])


def _code(group: str, name: str) -> str:
    """Return the syntax tree of a plugin's file as text: the file itself if it does not parse, empty if there is none."""
    text = next((file.read_text(errors="replace") for file in registry.files_of(group, name)), "")
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return text


def _digest(facts: Any) -> str:
    text = plain.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
