"""SIGTERM, Ctrl-C and a closed terminal as exceptions, so that what is being done can be closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP."""


def interrupted(number: int) -> KeyboardInterrupt:
    """What a signal raises. From now on only another Ctrl-C disturbs what is being written."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: None)  # not SIG_IGN: of a signal on its way Python would print a traceback
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated()


def listen(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Give SIGTERM, Ctrl-C and a closed terminal to this handler, but for those that are ignored, as by nohup.

    Returns the handlers of before.
    """
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, Ctrl-C and a closed terminal raise, so that the run is closed as KILLED."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = listen(interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
