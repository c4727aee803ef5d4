"""The command `plexp repair`."""

from __future__ import annotations

from plexp.cli import commands


def main(arguments: list[str]) -> int:
    """Make the runs of an outputs folder that was moved find their files again."""
    options = commands.outputs_parser("repair", str(main.__doc__)).parse_args(arguments)
    from plexp.tracking.repair import repair

    print(repair(options.outputs))
    return 0
