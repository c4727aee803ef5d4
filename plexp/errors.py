"""Exit statuses, and the errors for users: one line that names key, value, cause and remedy."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import sysconfig
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

log = logging.getLogger("plexp")

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit statuses: done, a run failed, refused before any run began, Ctrl-C, SIGTERM."""


@dataclass(frozen=True)
class Problem:
    """One fault of a configuration."""

    key: str
    """Dotted key, as it is typed on the command line."""
    value: object
    """Value of the key; `...`: it is not shown."""
    cause: str
    """Reason why the value is wrong."""
    remedy: str
    """Advice on what to type."""

    def __str__(self) -> str:
        shown = "" if self.value is ... else f"={'null' if self.value is None else self.value}"
        return f"{self.key}{shown}: {self.cause}; {self.remedy}"


class ConfigError(Exception):
    """A configuration that cannot be run, with all its problems. Exit status 2; no run is created."""

    def __init__(self, problems: Problem | Iterable[Problem] | ConfigError) -> None:
        # gymnasium raises the exception of a worker process again as type(exception)(exception)
        given = problems.problems if isinstance(problems, ConfigError) else problems
        self.problems: list[Problem] = [given] if isinstance(given, Problem) else list(given)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Problem]]]:
        return type(self), (self.problems,)


class TrainingError(RuntimeError):
    """A run that cannot continue: an environment that raises or returns NaN, a loss that is not finite. Exit status 1."""


class Unusable(Exception):
    """Something that an environment returned and nobody can use: what came, and what was expected."""


class EnvironmentFault(TrainingError):
    """An environment that misbehaves: its index, the number of its episode, and, once recorded, the episode to replay."""

    def __init__(self, message: object, index: int = 0, number: int | None = None) -> None:
        super().__init__(str(message))
        # gymnasium raises the exception of a worker process again as type(exception)(exception)
        self.episode: Mapping[str, object] | None = None
        is_fault = isinstance(message, EnvironmentFault)
        self.index: int = getattr(message, "index", index) if is_fault else index
        self.number: int | None = getattr(message, "number", number) if is_fault else number

    def __reduce__(self) -> tuple[type[EnvironmentFault], tuple[str, int, int | None]]:
        return type(self), (str(self), self.index, self.number)

    def recorded(self, env: object) -> dict[str, object]:
        """Return the episode in this environment (the configuration's `env`), for `python -m plexp replay`."""
        return {"error": str(self), "env": env, **(self.episode or {})}

    @classmethod
    def of(cls, error: BaseException, where: str, index: int, number: int) -> EnvironmentFault:
        """Return an environment's exception as a fault with its text, which every process can pass on."""
        if isinstance(error, EnvironmentFault):
            return error
        if isinstance(error, Unusable):
            return cls(f"environment {index} returned from {where} {error}", index, number)
        text = with_place(error)
        if isinstance(error, TypeError) and where == "reset" and "unexpected keyword argument" in text:
            text += "; expected reset(self, *, seed=None, options=None)"
        return cls(f"environment {index} raised {type(error).__name__} in {where}: {text}", index, number)


class Pruned(Exception):
    """Raised when a search prunes a run, with the reason and the environment step. It is no failure."""

    def __init__(self, reason: str, steps: int = 0) -> None:
        super().__init__(reason, steps)
        self.reason, self.steps = reason, steps

    def __str__(self) -> str:
        return f"at step {self.steps:,}: {self.reason}"


class StoreError(RuntimeError):
    """The store cannot be reached or written: one line with key, value, cause and remedy, credentials masked."""


def nearest(word: str, words: list[str]) -> str:
    """Return the remedy for a misspelt word."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(words)}"


def one_line(error: BaseException) -> str:
    """Return the text of an exception in one line."""
    return " ".join(str(error).split())


LONGEST = 400
"""Length from which the text of an exception of others is cut."""
MACHINERY = ("plexp", "gymnasium", "importlib", "_frozen_importlib", "_frozen_importlib_external")
"""Packages whose lines are not where an author's mistake is, but for the environments in two of them."""


def with_place(error: BaseException) -> str:
    """Return the text of an exception in its author's code, with file and line: `'x' (my_env.py:42)`.

    An exception without a text has its line of source instead. The line is the last one of the package of the first
    caller, or of a file that belongs to no library; there is none if neither plexp nor gymnasium called any other code.
    """
    text, frames = one_line(error), list(traceback.walk_tb(error.__traceback__))[1:]
    authors = [(frame, number) for frame, number in frames if not _is_machinery(frame)]
    if not authors or isinstance(error, SyntaxError):  # whose text has the place
        return textwrap.shorten(text, LONGEST, placeholder=" …")
    package = _package(authors[0][0])
    own = [pair for pair in authors if _package(pair[0]) == package or not _is_library(pair[0])]
    frame, number = own[-1]
    place = traceback.FrameSummary(frame.f_code.co_filename, number, frame.f_code.co_name)
    text = textwrap.shorten(text or place.line or "", LONGEST, placeholder=" …")
    return f"{text} ({Path(place.filename).name}:{number})"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


def _is_machinery(frame: FrameType) -> bool:
    module = _module(frame)
    is_environment = module.startswith(("plexp.plugins.", "gymnasium.envs.")) and not module.endswith(".registration")
    return _package(frame) in MACHINERY and not is_environment


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(("<", sysconfig.get_path("stdlib"), *map(sysconfig.get_path, ("purelib", "platlib"))))


def is_full(error: BaseException) -> bool:
    """Return True if an exception says that the disk is full."""
    number = error.errno if isinstance(error, OSError) else None
    texts = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full")
    return number in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in texts)


def is_unwritable(error: BaseException) -> bool:
    """Return True if an exception says that this user may not write a file, a folder or a database."""
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.EACCES, errno.EPERM, errno.EROFS) or "readonly database" in str(error)


def unwritable(key: str, place: object, error: BaseException, remedy: str, use: str = "") -> Problem:
    """Return the problem of a place that cannot be written.

    Args:
        key, place: option and its value.
        error: what was raised there.
        remedy: advice for any cause but a full disk.
        use: what was to be written, such as `, and films are recorded there`.
    """
    text = getattr(error, "strerror", None) or one_line(error)
    if is_full(error):
        return Problem(key, place, "the disk is full", "free some space; nothing that was recorded is lost")
    if isinstance(error, FileExistsError):
        return Problem(key, place, f"it is a file, not a folder{use}", remedy)
    if "readonly database" in text:
        text = "its database is read-only"
    who = " by this user" if is_unwritable(error) and getattr(error, "errno", None) != errno.EROFS else ""
    return Problem(key, place, f"it cannot be written{who} ({text}){use}", remedy)


@contextmanager
def writing(key: str, place: object, remedy: str) -> Iterator[None]:
    """Raise StoreError, in one line, for an OSError of the block, which writes at this place; see `unwritable`."""
    try:
        yield
    except OSError as error:
        raise StoreError(str(unwritable(key, place, error, remedy))) from None


@contextmanager
def decoration(what: str) -> Iterator[None]:
    """Log an exception of the block as a warning: what only prints, draws or describes a run decides nothing about it."""
    try:
        yield
    except Exception as error:
        log.warning("%s is left out (%s: %s)", what, type(error).__name__, one_line(error))
