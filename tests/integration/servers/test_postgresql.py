"""A PostgreSQL of our own: many writers through one MLflow server lose nothing, and what is wrong with it is one line."""

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
    """The command in that folder: exit status, and all that it said."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "plexp", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=180)
    return done.returncode, done.stdout + done.stderr


def test_writers_that_share_a_server_on_postgresql_lose_nothing_and_write_no_step_twice(
    database: PostgreSQL, tmp_path: Path
) -> None:
    with mlflow_server(database.uri(), tmp_path) as uri:
        done = write_at_once(uri, tmp_path, writers=4, points=500)
    assert (done.kept, done.lost, done.twice, done.waiting) == (4, 0, 0, 0)


def test_a_run_writes_to_postgresql_without_a_server_and_the_password_is_written_nowhere(
    database: PostgreSQL, tmp_path: Path
) -> None:
    status, said = plexp(*QUICK, f"tracker.uri={database.uri()}", folder=tmp_path)
    assert status == 0, said
    status, said = plexp("compare", "--uri", database.uri(), "--env", "cartpole", folder=tmp_path)
    assert status == 0 and "Final return" in said, said
    texts = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert texts and not any(database.password.encode() in text for text in [*texts, said.encode()])


@pytest.mark.parametrize("fault", ["password", "stopped"])
def test_a_database_that_lets_nobody_in_is_one_line_without_the_password(
    fault: str, database: PostgreSQL, tmp_path: Path
) -> None:
    elsewhere = PostgreSQL(database.folder, free_port(), "secret", None)
    uri, cause = {
        "password": (database.uri("mistaken"), "password authentication failed"),
        "stopped": (elsewhere.uri(), "Connection refused"),
    }[fault]
    for command in ((*QUICK, f"tracker.uri={uri}"), ("compare", "--uri", uri)):
        status, said = plexp(*command, folder=tmp_path)
        assert status == 2 and cause in said and len(said.splitlines()) == 1, said
        assert said.startswith("tracker.uri=postgresql+psycopg://***@127.0.0.1"), said
        assert "mistaken" not in said and "secret" not in said
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"mistaken" in file.read_bytes()]
