"""Identities of runs and sweeps: equal for two commands that are the same one.

Importing this needs neither torch nor MLflow.
"""

from __future__ import annotations

import ast
import hashlib
import re
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


def _code(group: str, name: str, known: frozenset[str] = frozenset()) -> list[str]:
    """Return the syntax trees, as text, of a plugin's file and of the plugins that it imports; an empty list if there is none.

    A file that does not parse counts as it is.
    """
    plugin = f"plexp.plugins.{group}.{name}"
    text = next((file.read_text(errors="replace") for file in registry.files_of(group, name)), None)
    if text is None or plugin in known:
        return []
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return [text]
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported = [module.split(".")[2:4] for module in modules if re.fullmatch(r"plexp\.plugins\.\w+\.\w+", module)]
    return [ast.dump(tree), *(each for other in imported for each in _code(other[0], other[1], known | {plugin}))]


def _digest(facts: Any) -> str:
    text = plain.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
