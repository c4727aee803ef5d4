"""The command `plexp reproduce`."""

from __future__ import annotations

import sys

from plexp.cli import commands
from plexp.cli.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Train a run again, and tell whether it is the same bit for bit, or where it first differs."""
    parser = commands.run_parser("reproduce", str(main.__doc__))
    parser.add_argument("--to-the-end", action="store_true", help="continue after the first difference")
    options = parser.parse_args(arguments)
    settled(options.uri, options.outputs, quiet=True)
    from rich.console import Console

    from plexp.errors import TrainingError
    from plexp.recorded.reproduce import reproduce
    from plexp.tracking.lookup import open_run

    with open_run(options.run, outputs=options.outputs, uri=options.uri, env=options.env) as run:
        try:
            reproduction = reproduce(run, Console(), to_the_end=options.to_the_end)
        except TrainingError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{run.name} ({run.run_id[:12]})")
        print("\n".join(reproduction.lines()))
    return 0 if reproduction.identical else 1
