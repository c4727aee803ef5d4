"""Tests with a PostgreSQL server: many writers through MLflow lose nothing, and errors are reported in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.servers.common import PostgreSQL, free_port, missing, mlflow_server, postgresql, write_at_once
from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
QUICK = (
    *("total_timesteps=256", "env.num_envs=2", "compile=false", "evaluation.every=128", "tracker.log_model=false"),
    "evaluation.final_episodes=1",
)


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


def plexp(*arguments: str, folder: Path) -> tuple[int, str]:
    """Run a command in a folder; return its exit status and all of its output."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "plexp", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=180)
    return done.returncode, done.stdout + done.stderr


def test_writers_that_share_a_server_lose_nothing_and_write_no_step_twice(database: PostgreSQL, tmp_path: Path) -> None:
    with mlflow_server(database.uri(), tmp_path) as uri:
        done = write_at_once(uri, tmp_path, writers=4, points=500)
    assert (done.complete, done.lost, done.twice, done.waiting) == (4, 0, 0, 0)


def test_a_run_writes_to_postgresql_directly_and_the_password_is_never_written(
    database: PostgreSQL, tmp_path: Path
) -> None:
    status, output = plexp(*QUICK, f"tracker.uri={database.uri()}", folder=tmp_path)
    assert status == 0, output
    status, output = plexp("compare", "--uri", database.uri(), "--env", "cartpole", folder=tmp_path)
    assert status == 0 and "Final return" in output, output
    texts = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert texts and not any(database.password.encode() in text for text in [*texts, output.encode()])


@pytest.mark.parametrize("fault", ["password", "stopped"])
def test_an_unreachable_database_is_reported_in_one_line_without_the_password(
    fault: str, database: PostgreSQL, tmp_path: Path
) -> None:
    elsewhere = PostgreSQL(database.folder, free_port(), "secret", None)
    uri, cause = {
        "password": (database.uri("mistaken"), "password authentication failed"),
        "stopped": (elsewhere.uri(), "Connection refused"),
    }[fault]
    for key, command in ("tracker.uri", (*QUICK, f"tracker.uri={uri}")), ("--uri", ("compare", "--uri", uri)):
        status, output = plexp(*command, folder=tmp_path)
        assert status == 2 and cause in output and len(output.splitlines()) == 1, output
        assert output.startswith(f"{key}=postgresql+psycopg://***@127.0.0.1"), output
        assert "mistaken" not in output and "secret" not in output
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"mistaken" in file.read_bytes()]
