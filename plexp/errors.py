"""Exit statuses, and the errors for users: one line that names key, value, cause and remedy."""

from __future__ import annotations

import difflib
import errno
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

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

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Problem]]]:
        return type(self), (self.problems,)


class TrainingError(RuntimeError):
    """A run that cannot continue: an environment that raises or returns NaN, a loss that is not finite. Exit status 1."""


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
    def of(cls, error: Exception, where: str, index: int, number: int) -> EnvironmentFault:
        """Return an environment's exception as a fault with its text, which every process can pass on."""
        if isinstance(error, EnvironmentFault):
            return error
        return cls(f"environment {index} raised {type(error).__name__} in {where}: {one_line(error)}", index, number)


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


def is_full(error: BaseException) -> bool:
    """Return True if an exception says that the disk is full."""
    number = error.errno if isinstance(error, OSError) else None
    texts = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full")
    return number in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in texts)


@contextmanager
def decoration(what: str) -> Iterator[None]:
    """Log an exception of the block as a warning: what only prints, draws or describes a run decides nothing about it."""
    try:
        yield
    except Exception as error:
        log.warning("%s is left out (%s: %s)", what, type(error).__name__, one_line(error))
