"""The command `plexp new`."""

from __future__ import annotations

import keyword
import re
import unicodedata
from pathlib import Path

from plexp.cli import commands
from plexp.config import config_files, registry
from plexp.config.paths import PACKAGE
from plexp.errors import ConfigError, Problem

KINDS = {
    "algo": "algo",
    "advantage": "advantage",
    "net": "net",
    "env": "env",
    "replay": "replay",
    "callback": "callbacks",
}
FAMILIES = {"on_policy": "", "off_policy": "_off_policy"}
"""Kind of an algorithm → end of the name of its template's folder."""
TEMPLATES = PACKAGE / "templates"
RESERVED = ("null", "true", "false", "yes", "no", "on", "off", "nan", "inf")
"""Names that YAML or Hydra's command line reads as a value of another type."""


def main(arguments: list[str]) -> int:
    """Write a plugin that works as it is, to be changed: a class, a config and a test."""
    parser = commands.Parser("new", main.__doc__)
    parser.add_argument("group", metavar="plugin", choices=KINDS, help=", ".join(KINDS))
    parser.add_argument("name", help="of the plugin: small letters, digits and _, such as mine")
    parser.add_argument(
        "--kind",
        choices=FAMILIES,
        help="of an algorithm: on_policy (the default) learns from its own rollouts, off_policy from a replay buffer",
    )
    parser.add_argument(
        "--to", type=commands.folder("--to"), default=Path.cwd(), help="the folder that you run plexp in; here"
    )
    options = parser.parse_args(arguments)
    group, name, root = KINDS[options.group], options.name, options.to
    if options.kind is not None and group != "algo":
        raise ConfigError(Problem("--kind", options.kind, "only algorithms have a kind", "leave it out"))
    for file, text in written(group, name, root, FAMILIES[options.kind or "on_policy"]).items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError as error:
            raise ConfigError(Problem("--to", root, f"cannot be written ({error.strerror})", "give another")) from error
        print(f"{file.relative_to(root)}")
    choice = {"callbacks": f"'callbacks=[{name}]'", "replay": f"algo=dqn replay={name}"}.get(group, f"{group}={name}")
    print(f"now: python -m plexp {choice}    python -m plexp check {name}    pytest tests/test_{name}.py")
    return 0


def written(group: str, name: str, root: Path, family: str = "") -> dict[Path, str]:
    """Return the files of a new plugin and their texts; `family` is the end of its template's name.

    Raises ConfigError for a name that is invalid or taken.
    """
    if not re.fullmatch(registry.NAME, name):
        remedy = f"give small letters, digits and _, beginning with a letter, such as {_valid(name)}"
        raise ConfigError(Problem("new", name, "this is no name for a plugin", remedy))
    if keyword.iskeyword(name) or name in RESERVED:
        language = "Python" if keyword.iskeyword(name) else "YAML"
        raise ConfigError(Problem("new", name, f"this is a word of {language}", f"choose another, such as my_{name}"))
    if existing := [*registry.files_of(group, name), *config_files.files(group, name)[-1:]]:
        raise ConfigError(Problem("new", name, f"there is one already: {existing[0]}", "choose another name"))
    files = {
        "plugin.py": root / "plugins" / group / f"{name}.py",
        "config.yaml": root / "conf" / group / f"{name}.yaml",
        "test.py": root / "tests" / f"test_{name}.py",
    }
    if taken := [file for file in files.values() if file.exists()]:
        raise ConfigError(Problem("new", name, f"{taken[0]} is there already", "choose another name or folder"))
    texts = {file: (TEMPLATES / f"{group}{family}" / template).read_text() for template, file in files.items()}
    title = "".join(part.capitalize() for part in name.split("_"))
    if re.search(rf"\b{title}\b", "".join(texts.values())):  # a name that the template itself defines or imports
        title += "Plugin"
    return {file: re.sub(r"\bmine\b", name, re.sub(r"\bMine\b", title, text)) for file, text in texts.items()}


def _valid(name: str) -> str:
    """Return a valid name that resembles `name`."""
    plain = re.sub(r"[^a-z0-9]+", "_", unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower())
    valid = plain.strip("_").lstrip("0123456789_")
    return valid if re.fullmatch(registry.NAME, valid) else "mine"
