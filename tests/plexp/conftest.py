"""What tests of several files of plexp share: an empty store, and a process that is at a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a store without runs, to be copied."""
    from plexp.tracking_store import connect
    from plexp.tracking_views import sqlite_uri

    folder = tmp_path_factory.mktemp("empty")
    connect(sqlite_uri(folder / "mlflow.db"), folder)
    return folder / "mlflow.db"


@pytest.fixture
def other() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that runs the run of a folder, kept in a store (empty: its own file), until it reads a line."""
    from tests.plexp.helpers import HOLDS  # with torch

    started: list[subprocess.Popen[str]] = []

    def start(path: Path, store: str = "https://there") -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLDS, str(path), store], env=environment, **pipes)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
