"""List and describe plugins, for `plexp plugins`; the list is read from files, and only a described plugin is imported."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plexp.config import config_files, registry
from plexp.errors import ConfigError, Problem, nearest, one_line

GROUPS = {
    "algo": "algorithms",
    "advantage": "advantage estimators",
    "net": "networks",
    "env": "environments",
    "replay": "memories of past transitions",
    "callbacks": "callbacks, none or several",
}
"""Group → heading of its table."""


def overview() -> int:
    """Print the configs of every group, each with a line about it, and return the exit status 0."""
    is_terminal = sys.stdout.isatty()
    console = Console() if is_terminal else Console(width=160, height=50)
    for group, heading in GROUPS.items():
        option = escape("[…]") if group == "callbacks" else ""
        table = Table(
            box=None,
            show_header=False,
            padding=(0, 2, 0, 0),
            title=f"[bold]{heading}[/bold]: {group}={option}",
            title_justify="left",
        )
        for name in config_files.options(group):
            table.add_row(f"  {name}", escape(_summary(group, name)))
        console.print(table)
    console.print("python -m plexp plugins NAME describes one.")
    return 0


def describe(name: str) -> int:
    """Print a plugin's docstring and its parameters with values, types and comments, and return the exit status 0.

    `name` is a config, such as `ppo`, or a config of a group, such as `algo/ppo`. Raises ConfigError if there is none.
    """
    group, _, option = name.rpartition("/")
    groups = [group] if group in registry.GROUPS else [] if group else list(registry.GROUPS)
    matches = [candidate for candidate in groups if option in config_files.options(candidate)]
    if not matches:
        every_option = [existing for every_group in registry.GROUPS for existing in config_files.options(every_group)]
        raise ConfigError(Problem("plugin", name, "there is no such plugin", nearest(option, every_option)))
    for match in matches:
        _describe(match, option)
    return 0


def _describe(group: str, option: str) -> None:
    values, comments = config_files.values(group, option), config_files.comments(group, option)
    cls = registry.find(group, values.get("plugin", option))
    console = Console()
    is_list = group == "callbacks"
    section = f"callbacks.{option}" if is_list else group
    choice = f"callbacks=\\[{option}]" if is_list else f"{group}={option}"
    file = f"{cls.__module__.removeprefix('plexp.').replace('.', '/')}.py"
    console.print(f"[bold]{choice}[/bold]  ({file})", highlight=False)
    text = (inspect.getdoc(cls) or "").partition("\nArgs:")[0].rstrip()
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    presets = registry.ENV_PRESET_FIELDS if group == "env" else {}
    for parameter, annotation in (registry.parameters(cls) | presets).items():
        value, kind = escape(_shown(values.get(parameter))), escape(registry.describe_type(annotation))
        line = f"  [bold]{section}.{parameter}[/bold]={value}  [dim]({kind})[/dim]"
        console.print(line, highlight=False, soft_wrap=True)
        if parameter in comments:
            console.print(f"      {comments[parameter]}", highlight=False, markup=False, soft_wrap=True)


def _shown(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _summary(group: str, option: str) -> str:
    """Return a line about a config: the comment at its top, or the first line of its plugin's docstring, or its env id."""
    values = config_files.values(group, option)
    lines = config_files.files(group, option)[-1].read_text(errors="replace").splitlines()
    top = next((line for line in lines if "@package" not in line), "")
    if values.get("plugin") == option:
        return _docstring(group, option)
    if top.startswith("# "):
        return top[2:]
    flags = "".join(f", {key}={_shown(value)}" for key, value in (values.get("kwargs") or {}).items())
    return f"{values.get('id', '')}{flags}"


def _docstring(group: str, name: str) -> str:
    """Return the first line of the docstring of the class in a plugin's file, without importing it."""
    for folder in registry.folders(group):
        file: Path = folder / f"{name}.py"
        if file.is_file():
            try:
                body = ast.parse(file.read_text(errors="replace")).body
            except (SyntaxError, ValueError) as error:
                return f"does not import ({type(error).__name__}: {one_line(error)})"
            classes = [node for node in body if isinstance(node, ast.ClassDef) and node.decorator_list]
            return next(iter((ast.get_docstring(classes[0]) or "").splitlines()), "") if classes else ""
    return ""
