"""Commands beside running an experiment: `python -m plexp NAME …` calls `main` of the file NAME.py here.

`main` takes the arguments behind the name and returns the exit status; a ConfigError or StoreError that leaves it is printed
in one line, with exit status 2. Importing a command needs neither torch nor MLflow.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from plexp.errors import ConfigError, Problem, nearest
from plexp.tracking.format import masked

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")
STORES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
"""Schemes of the stores that `--uri` may name."""


class Parser(argparse.ArgumentParser):
    """Parser of a command's arguments. It raises ConfigError where argparse would print the usage."""

    def __init__(self, name: str, usage: str | None) -> None:
        super().__init__(f"plexp {name}", description=usage)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with what argparse says is wrong."""
        raise ConfigError(problem_of(message, self))


def problem_of(message: str, parser: argparse.ArgumentParser) -> Problem:
    """Return the problem that argparse describes. It does so in texts alone; one that is not known becomes the cause."""
    see = f"see python -m {parser.prog} --help"
    if match := re.fullmatch(r"unrecognized arguments: ?(.*)", message, re.S):
        return _one_too_many(masked(match[1]), parser.format_usage(), see)
    if match := re.fullmatch(r"the following arguments are required: (.*)", message):
        return Problem(parser.prog, ..., f"{match[1]} {'are' if ', ' in match[1] else 'is'} missing", see)
    if match := re.match(r"ambiguous option: (\S+) could match (.*)", message, re.S):
        return Problem(match[1], ..., "several options begin so", f"give one of {match[2]}")
    if not (match := re.fullmatch(r"argument ([^\s/:]+)\S*: (.*)", message, re.S)):
        return Problem(parser.prog, ..., message, see)
    key, cause = match.groups()
    if match := re.match(r"invalid choice: (['\"]?)(.*?)\1 \(choose from (.*?)\)", cause, re.S):
        return Problem(key, match[2], "there is no such choice", f"choose one of {match[3].replace(chr(39), '')}")
    if match := re.match(r"ignored explicit argument (['\"])(.*)\1", cause, re.S):
        return Problem(key, match[2], "it takes no value", f"give {key} alone")
    if cause.startswith("expected"):
        return Problem(key, ..., "it has no value", f"give {key}=VALUE")
    return Problem(key, ..., cause, see)


def _one_too_many(words: str, usage: str, see: str) -> Problem:
    """Return the problem of arguments that a command does not take."""
    options = [*re.findall(r"--[\w-]+", usage), "--help"]
    if option := next((word for word in words.split() if word.startswith("-")), ""):
        name, _, _ = option.partition("=")
        close = nearest(name, options)
        remedy = f"{close} {see}" if close.startswith("did you mean") else see
        return Problem(name, ..., "there is no such option", remedy)
    return Problem(words.strip() or "''", ..., "this is one argument too many", see)


def outputs_parser(name: str, usage: str) -> Parser:
    """Return the parser of a command about an outputs folder."""
    parser = Parser(name, usage)
    outputs = Path("outputs").absolute()
    parser.add_argument("--outputs", type=folder("--outputs"), default=outputs, help="the folder given as outputs=")
    return parser


def parser(name: str, usage: str) -> Parser:
    """Return the parser of a command that reads recorded runs."""
    parser = outputs_parser(name, usage)
    parser.add_argument("--uri", type=store, help="another store, as given as tracker.uri=")
    return parser


def run_parser(name: str, usage: str) -> Parser:
    """Return the parser of a command about one recorded run."""
    run = parser(name, usage)
    reference = "its id or the beginning of it, its name, best (final return), last, or a registered model: NAME@ALIAS"
    run.add_argument("run", metavar="RUN", help=reference)
    run.add_argument("--env", help="best and last of this environment only, such as cartpole")
    return run


def add_episode_options(parser: Parser) -> None:
    """Add the options of a command that plays episodes."""
    seed = "seed of the episodes; another one plays others"
    parser.add_argument("--seed", type=whole("--seed", 0, 2**63 - 1), default=0, help=seed)
    sampled = "sample actions from the policy; otherwise the most likely one"
    parser.add_argument("--sampled", action="store_true", help=sampled)


def text(key: str) -> Callable[[str], str]:
    """Return the function that reads an option's text. It raises ConfigError for an empty one."""

    def read(text: str) -> str:
        if not text.strip():
            raise ConfigError(Problem(key, text, "this is empty", "give a value"))
        return text

    return read


def folder(key: str) -> Callable[[str], Path]:
    """Return the function that reads an option's folder as an absolute path. It raises ConfigError for an empty one."""
    read = text(key)
    return lambda text: Path(read(text)).absolute()


def store(uri: str) -> str:
    """Return the address of a store. Raises ConfigError for one that no store can have."""
    if not re.match(rf"({'|'.join(STORES)})(\+\w+)?://", uri):
        scheme = uri.partition(":")[0].partition("+")[0]
        close = nearest(scheme, list(STORES)) if "://" in uri else ""
        remedy = close if close.startswith("did you mean") else f"give one that begins with {'://, '.join(STORES)}://"
        raise ConfigError(Problem("--uri", masked(uri), "this is no address of a store", remedy))
    return uri


def whole(key: str, least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the function that reads an option's whole number. It raises ConfigError for one out of range."""

    def read(text: str) -> int:
        is_number = text.isascii() and text.isdecimal()
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            wanted = f"from {least} on" if most is None else f"from {least} to {most}"
            raise ConfigError(Problem(key, text, "this is not such a number", f"give a whole number {wanted}"))
        return int(text)

    return read


def number(key: str, least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """Return the function that reads an option's finite number. It raises ConfigError for one out of range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            wanted = "a finite number, such as 475" if math.isinf(most) else f"one from {least:g} to {most:g}"
            raise ConfigError(Problem(key, text, "this is not such a number", f"give {wanted}"))
        return value

    return read
