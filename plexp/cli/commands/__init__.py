"""The commands beside running an experiment: `python -m plexp NAME …` is `main` of the file NAME.py here.

`main` takes the arguments behind the name and returns the exit status; a ConfigError or StoreError that leaves it is said in
one line, with exit status 2. Importing a command needs neither torch nor mlflow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def parser(name: str, usage: str) -> argparse.ArgumentParser:
    """Of a command that reads what runs have kept."""
    made = argparse.ArgumentParser(f"plexp {name}", description=usage)
    made.add_argument("--outputs", type=folder, default=Path("outputs").absolute(), help="the folder given as outputs=")
    made.add_argument("--uri", help="another store, as given as tracker.uri=")
    return made


def run_parser(name: str, usage: str) -> argparse.ArgumentParser:
    """Of a command that looks at one run that was kept."""
    made = parser(name, usage)
    known = "its id or the beginning of it, its name, best (final return), last, or a registered model: NAME@ALIAS"
    made.add_argument("run", metavar="RUN", help=known)
    made.add_argument("--env", help="best and last of this environment only, such as cartpole")
    return made


def folder(text: str) -> Path:
    """An option that is a folder, absolute."""
    return Path(text).absolute()
