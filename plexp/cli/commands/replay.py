"""The command `plexp replay`."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Step again through an episode that went wrong."""
    parser = argparse.ArgumentParser("plexp replay", description=main.__doc__)
    parser.add_argument("file", type=Path, help="fault.json, from the run's folder or its artifacts in MLflow")
    options = parser.parse_args(arguments)
    from plexp.recorded.resimulate import resimulate

    print(resimulate(options.file))
    return 0
