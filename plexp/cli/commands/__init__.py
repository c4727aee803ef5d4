"""Commands beside running an experiment: `python -m plexp NAME …` calls `main` of the file NAME.py here.

`main` takes the arguments behind the name and returns the exit status; a ConfigError or StoreError that leaves it is printed
in one line, with exit status 2. Importing a command needs neither torch nor MLflow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from plexp.errors import ConfigError, Problem

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def parser(name: str, usage: str) -> argparse.ArgumentParser:
    """Return the parser of a command that reads recorded runs."""
    parser = argparse.ArgumentParser(f"plexp {name}", description=usage)
    parser.add_argument(
        "--outputs", type=folder, default=Path("outputs").absolute(), help="the folder given as outputs="
    )
    parser.add_argument("--uri", help="another store, as given as tracker.uri=")
    return parser


def run_parser(name: str, usage: str) -> argparse.ArgumentParser:
    """Return the parser of a command about one recorded run."""
    run = parser(name, usage)
    reference = "its id or the beginning of it, its name, best (final return), last, or a registered model: NAME@ALIAS"
    run.add_argument("run", metavar="RUN", help=reference)
    run.add_argument("--env", help="best and last of this environment only, such as cartpole")
    return run


def folder(text: str) -> Path:
    """Return an option's folder as an absolute path."""
    return Path(text).absolute()


def whole(key: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the function that reads an option's whole number. It raises ConfigError for one out of range."""

    def read(text: str) -> int:
        is_number = text.isascii() and text.isdecimal()
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            wanted = f"from {least} on" if most is None else f"from {least} to {most}"
            raise ConfigError(Problem(key, text, "this is not such a number", f"give a whole number {wanted}"))
        return int(text)

    return read
