"""Signals of a job: SIGTERM, Ctrl-C, a closed terminal and a scheduler's warning raise, so that its run is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""Signals that end a job; Windows has no SIGHUP."""
WARNING = getattr(signal, "SIGUSR2", None)
"""Signal by which submitit learns that its job is about to be preempted or has used up its time."""


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM and SIGHUP."""


class Preempted(KeyboardInterrupt):
    """Raised by the scheduler's warning.

    Args:
        hand_on: does what the launcher does with the signal, such as to queue the job again.
    """

    def __init__(self, hand_on: Callable[[], object]) -> None:
        super().__init__()
        self.hand_on = hand_on


def interrupted(number: int) -> KeyboardInterrupt:
    """Return what a signal raises, and ignore further signals but Ctrl-C, so that nothing disturbs the last writes."""
    for other in SIGNALS:
        signal.signal(other, lambda *_: None)  # not SIG_IGN: of a signal on its way Python would print a traceback
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "alarm"):
        signal.alarm(0)  # stop the alarm of Ray's handler in C, which would abort the process 3 s later
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


def listen(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Install a handler of SIGTERM, Ctrl-C and a closed terminal, except those that are ignored, as by nohup.

    Returns the previous handlers.
    """
    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def _warned(launcher: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    interrupted(number)
    raise Preempted(partial(launcher, number, frame))


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, Ctrl-C, a closed terminal and a scheduler's warning raise, so that the run is closed as KILLED."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, launcher = listen(interrupt), None if WARNING is None else signal.getsignal(WARNING)
    if WARNING is not None and callable(launcher):  # only where a launcher listens to it
        before[WARNING] = signal.signal(WARNING, partial(_warned, launcher))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
