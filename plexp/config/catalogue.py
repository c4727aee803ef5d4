"""The catalogue of plugins, for `plexp plugins`; it is read from their files, and only describing one imports it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plexp.config import registry
from plexp.config.paths import conf_folders
from plexp.errors import ConfigError, Problem, nearest

GROUPS = {
    "algo": "algorithms",
    "advantage": "advantage estimators",
    "net": "networks",
    "env": "environments",
    "callbacks": "callbacks, none or several",
}


def overview() -> int:
    """Print every config of every group with its first line, and return the exit status."""
    console = _console()
    for group, title in GROUPS.items():
        option = escape("[…]") if group == "callbacks" else ""
        table = Table(
            box=None,
            show_header=False,
            padding=(0, 2, 0, 0),
            title=f"[bold]{title}[/bold]: {group}={option}",
            title_justify="left",
        )
        for name, line in _rows(group):
            table.add_row(f"  {name}", line)
        console.print(table)
    console.print("python -m plexp plugins NAME describes one.")
    return 0


def describe(name: str) -> int:
    """Print a plugin's docstring, and its parameters with types, ranges, values and comments; return the exit status.

    Raises ConfigError if there is no such plugin.
    """
    group, _, plain = name.rpartition("/")
    hits = [(g, n) for g in registry.GROUPS for n, _ in _rows(g) if n == plain and group in ("", g)]
    if not hits:
        every = [n for g in registry.GROUPS for n, _ in _rows(g)]
        raise ConfigError(Problem("plugin", name, "there is no such plugin", nearest(plain, every)))
    for section, option in hits:
        _describe(section, option)
    return 0


def _describe(group: str, option: str) -> None:
    values = _values(group, option)
    cls = registry.find(group, values.get("plugin", option))
    console = Console()
    several = group == "callbacks"
    section, chosen = (f"callbacks.{option}", f"callbacks=\\[{option}]") if several else (group, f"{group}={option}")
    console.print(
        f"[bold]{chosen}[/bold]  ({cls.__module__.removeprefix('plexp.').replace('.', '/')}.py)",
        highlight=False,
    )
    console.print(
        (inspect.getdoc(cls) or "").partition("\nArgs:")[0].rstrip(), highlight=False, markup=False, soft_wrap=True
    )
    comments = _comments(group, option)
    problem = registry.ENV_PRESET_FIELDS if group == "env" else {}
    for parameter, annotation in (registry.parameters(cls) | problem).items():
        value = values.get(parameter)
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        kind = registry.describe_type(annotation)
        console.print(
            f"  [bold]{section}.{parameter}[/bold]={escape(shown)}  [dim]({escape(kind)})[/dim]",
            highlight=False,
            soft_wrap=True,
        )
        if parameter in comments:
            console.print(f"      {comments[parameter]}", highlight=False, markup=False, soft_wrap=True)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160, height=50)


def _rows(group: str) -> list[tuple[str, str]]:
    """Return the name of each config of a group, with the first line of its plugin's docstring or of its own comment."""
    rows = []
    for file in sorted(f for root in conf_folders() for f in (root / group).glob("*.yaml")):
        text, values = file.read_text(), _values(group, file.stem)
        first = text.splitlines()[0]
        own = first.startswith("# ") and "@package" not in first
        same = values.get("plugin") == file.stem
        line = _docstring(group, file.stem) if same else first[2:] if own else str(values.get("id", ""))
        flags = "".join(f", {key}={str(value).lower()}" for key, value in (values.get("kwargs") or {}).items())
        rows.append((file.stem, line + ("" if same or own else flags)))
    return rows


def _docstring(group: str, name: str) -> str:
    """Return the first line of the docstring of a plugin's class, without importing it."""
    for folder in registry.folders(group):
        file: Path = folder / f"{name}.py"
        if file.is_file():
            classes = [n for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef) and n.decorator_list]
            return (ast.get_docstring(classes[0]) or "").splitlines()[0] if classes else ""
    return ""


def _values(group: str, option: str) -> dict[str, Any]:
    """Return the values of a config, on top of those of the configs in its defaults."""
    merged: dict[str, Any] = {}
    for file in _files(group, option):
        own = yaml.safe_load(file.read_text()) or {}
        merged |= {k: v for k, v in own.get(group, own).items() if k != "defaults"}
    return merged


def _comments(group: str, option: str) -> dict[str, str]:
    """Return the comment of each key, at the end of its line."""
    texts = [file.read_text() for file in _files(group, option)]
    return {m[1]: m[2] for text in texts for m in re.finditer(r"^ *(\w+):[^#\n]*?# *(.+)$", text, re.M)}


def _files(group: str, option: str) -> list[Path]:
    """Return the file of a config, after the files of the configs in its defaults.

    `option` is a name of the group, or a path from the root of a configuration folder if it begins with a slash.
    """
    path = f"{option[1:]}.yaml" if option.startswith("/") else f"{group}/{option}.yaml"
    file = next(file for root in reversed(conf_folders()) if (file := root / path).is_file())
    bases = [base for base in (yaml.safe_load(file.read_text()) or {}).get("defaults", []) if isinstance(base, str)]
    return [f for base in bases if base != "_self_" for f in _files(group, base.partition("@")[0])] + [file]
