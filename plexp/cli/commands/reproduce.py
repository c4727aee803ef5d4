"""`plexp reproduce`"""

from __future__ import annotations

import sys

from plexp.cli import commands


def main(arguments: list[str]) -> int:
    """Whether a run comes out the same again, bit for bit; if not, where it first differs, and what is another now."""
    parser = commands.run_parser("reproduce", str(main.__doc__))
    parser.add_argument("--to-the-end", action="store_true", help="go on after the first difference")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from plexp.errors import TrainingError
    from plexp.recorded.reproduce import reproduce
    from plexp.tracking.lookup import open_run

    with open_run(options.run, outputs=options.outputs, uri=options.uri, env=options.env) as run:
        try:
            found = reproduce(run, Console(), to_the_end=options.to_the_end)
        except TrainingError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{run.name} ({run.run_id[:12]})")
        print("\n".join(found.lines()))
    return 0 if found.identical else 1
