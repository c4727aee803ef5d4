"""A bar that says how far a slow command is."""

from __future__ import annotations

import time

from rich.console import Console

from plexp.errors import decoration
from plexp.execution.callbacks.progress_bar import TerminalBar

PATIENCE = 2.0
"""Seconds before a command says anything; larger: fewer commands show a bar."""


class LateBar:
    """Bar on a terminal's standard error, for a command that takes longer than `PATIENCE`; elsewhere there is none."""

    def __init__(self, name: str) -> None:
        self.name, self.console, self.started = name, Console(stderr=True), time.monotonic()
        self.bar: TerminalBar | None = None

    def show(self, what: str, fraction: float) -> None:
        """Show what is being done, and how much of it is done, 0…1."""
        if not self.console.is_terminal or time.monotonic() - self.started < PATIENCE:
            return
        with decoration("the progress bar"):
            if self.bar is None:
                self.bar = TerminalBar(self.name, self.console)
                self.bar.start()
            self.bar.show(fraction, what)

    def close(self) -> None:
        """Give the terminal back, before something else is printed."""
        bar, self.bar = self.bar, None
        if bar is not None:
            with decoration("the progress bar"):
                bar.stop()
