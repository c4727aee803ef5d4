"""What SIGTERM, Ctrl-C, a closed terminal and a scheduler's warning do to a job: they raise, so that it is closed and kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WARNING = signal.SIGUSR2
"""By which submitit learns that its job is about to be preempted or has used up its time."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP."""


class Preempted(KeyboardInterrupt):
    """The scheduler's warning: `hand_on` does what its launcher does with it, such as to queue the job again."""

    def __init__(self, hand_on: Callable[[], object]) -> None:
        super().__init__()
        self.hand_on = hand_on


def interrupted(number: int) -> KeyboardInterrupt:
    """What a signal raises. From now on only another Ctrl-C disturbs what is being written."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: None)  # not SIG_IGN: of a signal on its way Python would print a traceback
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(0)  # of Ray's own handler in C, which lets Python's have the signal, but aborts the process 3 s later
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


def listen(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Give SIGTERM, Ctrl-C and a closed terminal to this handler, but for those that are ignored, as by nohup.

    Returns the handlers of before.
    """
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _warned(launcher: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    interrupted(number)
    raise Preempted(partial(launcher, number, frame))


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, Ctrl-C, a closed terminal and a scheduler's warning raise, so that the run is closed as KILLED."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, launcher = listen(interrupt), signal.getsignal(WARNING)
    if callable(launcher):  # only where a launcher listens to it
        before[WARNING] = signal.signal(WARNING, partial(_warned, launcher))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
