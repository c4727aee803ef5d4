"""The command `plexp status`."""

from __future__ import annotations

from plexp.cli import commands
from plexp.cli.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Show what is finished, running, interrupted or failed, and why."""
    parser = commands.parser("status", str(main.__doc__))
    parser.add_argument("--sweep", help="name of a sweep; the newest one")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from plexp.sweeps.status import status

    status(options.outputs, options.sweep, Console())
    return settled(options.uri, options.outputs, quiet=True)
