"""The command `plexp replay`."""

from __future__ import annotations

from pathlib import Path

from plexp.cli import commands


def main(arguments: list[str]) -> int:
    """Step again through an episode that went wrong."""
    parser = commands.Parser("replay", main.__doc__)
    parser.add_argument(
        "file", type=commands.text("replay"), help="fault.json, from the run's folder or its artifacts in MLflow"
    )
    options = parser.parse_args(arguments)
    from plexp.recorded.resimulate import resimulate

    print(resimulate(Path(options.file)))
    return 0
