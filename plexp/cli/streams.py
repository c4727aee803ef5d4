"""Standard output and error that survive a closed pipe or terminal, and an encoding without some characters."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class DurableStream:
    """Text stream that never raises for what it cannot write: training matters more than what is printed of it.

    Characters that the encoding lacks become question marks. Once the reader is gone (`| head -1`, a closed terminal),
    output is dropped.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        with self._dropping():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._dropping():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream is closed
            with suppress(OSError, ValueError):  # what is buffered must not fail once more when the process ends
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextmanager
def durable_output() -> Iterator[None]:
    """Make standard output and error durable for the duration of a command; see `DurableStream`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (None if stream is None else DurableStream(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
