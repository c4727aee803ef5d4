"""Tests of resuming: a command is a new run, resumes an earlier one, or is finished already."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from plexp.config.identity import identity
from plexp.errors import ConfigError
from plexp.execution import state as run_folder
from plexp.execution.resume import claim, finished, store_of
from plexp.execution.state import RunFolder, attempts, crashed_runs, next_attempt, state_folder

SWEEP = "2026-11-22_21-23-55"
Values = Callable[..., dict[str, Any]]


@pytest.fixture
def values(compose: Callable[..., Any], tmp_path: Path) -> Values:
    """Return a function that resolves a configuration with outputs in the folder of the test."""

    def make(*overrides: str) -> dict[str, Any]:
        config: dict[str, Any] = OmegaConf.to_container(compose(f"outputs={tmp_path}", *overrides), resolve=True)
        return config

    return make


def run(values: dict[str, Any], status: str, **changes: Any) -> Path:
    """Claim a run and end it with a status; return its folder."""
    folder = claim(values)
    folder.begin(store=store_of(values), identity=identity(values))
    outcome = {"steps": 1} if status == "FINISHED" else None
    folder.change(**{"status": status, "outcome": outcome, **changes})
    folder.release()
    return folder.path


def claimed(values: dict[str, Any]) -> Path:
    """Return the folder that a run would use, its lock released."""
    folder = claim(values)
    assert folder._lock is not None, "its lock is taken"
    folder.release()
    return folder.path


def name(values: dict[str, Any], number: int = 1) -> str:
    return identity(values) if number == 1 else f"{identity(values)}-{number}"


def test_a_new_run_gets_a_new_folder(values: Values, tmp_path: Path) -> None:
    one, two = values(), values("seed=1")
    assert claimed(one) == tmp_path / "state" / name(one)
    assert claimed(two) == tmp_path / "state" / name(two)
    assert finished(one, SWEEP) is None


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_a_failed_or_interrupted_run_resumes_in_its_folder(status: str, values: Values) -> None:
    first = run(values(), status, error=["why"])
    assert finished(values(), SWEEP) is None
    assert claimed(values()) == first == claimed(values("resume=auto", "checkpoint.every=7"))
    assert len(attempts(first.parent, first.name)) == 1


def test_a_run_without_a_record_resumes_too(values: Values) -> None:
    folder = next_attempt(state_folder(values()["outputs"]), identity(values()))
    assert claimed(values()) == folder.path
    (folder.path / "run.json").write_text("{ half")
    assert claimed(values()) == folder.path and finished(values(), SWEEP) is None


def test_a_run_whose_process_died_resumes(values: Values, other: Any) -> None:
    path = claimed(values())
    process = other(path, store="")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [folder.path for folder in crashed_runs(path.parent)] == [path]
    assert claimed(values()) == path


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_resume_never_makes_a_new_attempt(status: str, values: Values) -> None:
    first = run(values(), status)
    second = run(values("resume=never"), status)
    assert (first.name, second.name) == (name(values()), name(values(), 2))
    assert claimed(values()) == second, "the newest attempt is resumed"
    assert claimed(values("resume=never")).name == name(values(), 3)


def test_a_finished_run_is_found_and_not_resumed(values: Values) -> None:
    first = run(values(), "FINISHED", outcome={"steps": 9})
    match = finished(values(), SWEEP)
    assert match is not None
    assert match[0].path == first and match[1].outcome == {"steps": 9} and match[1] == match[0].record()
    assert claimed(values()).name == name(values(), 2)
    assert finished(values("seed=1"), SWEEP) is None


def test_a_finished_run_without_an_outcome_does_not_count(values: Values) -> None:
    run(values(), "FINISHED", outcome=None)
    assert finished(values(), SWEEP) is None
    assert claimed(values()).name == name(values(), 2)


def test_a_run_with_an_unfinished_newer_attempt_is_not_finished(values: Values) -> None:
    run(values(), "FINISHED")
    again = run(values(), "FAILED")
    assert again.name == name(values(), 2)
    assert finished(values(), SWEEP) is None and claimed(values()) == again
    run(values(), "FINISHED", outcome={"steps": 2})
    match = finished(values(), SWEEP)
    assert match is not None and match[0].path == again


def test_with_rerun_only_a_finished_run_of_the_same_sweep_counts(values: Values) -> None:
    first = run(values(), "FINISHED", sweeps={"an earlier one": 0})
    again = values("rerun=true")
    assert identity(again) == identity(values())
    assert finished(values(), SWEEP) is not None
    assert finished(again, SWEEP) is None
    assert finished(again, "an earlier one") is not None
    second = run(again, "FINISHED", sweeps={SWEEP: 3})
    assert (first.name, second.name) == (name(again), name(again, 2))
    match = finished(again, SWEEP)
    assert match is not None and match[0].path == second
    assert finished(again, "a later one") is None


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        claim(values)
    return str(raised.value)


def test_a_run_of_another_process_is_refused_in_one_line(values: Values, other: Any) -> None:
    path = claimed(values())
    process = other(path, store="")
    expected = f"resume=auto: process {process.pid} on {platform.node()} is running this configuration; "
    assert refusal(values()) == expected + "wait for it, or give resume=never for a second run"
    beside = claim(values("resume=never"))
    assert beside.path.name == name(values(), 2)
    beside.release()
    process.kill()
    process.wait()
    assert claimed(values("seed=1")) != path


def test_a_run_on_another_host_is_refused_until_its_heartbeat_stops(values: Values) -> None:
    path = run(values(), "RUNNING", host="another-host", pid=77)
    heartbeat = path / "heartbeat"
    heartbeat.write_text("[1, 0.5]")
    assert refusal(values()).startswith("resume=auto: process 77 on another-host is running this configuration; ")
    assert "\n" not in refusal(values())
    then = time.time() - run_folder.STALE_SECONDS - 1
    os.utime(heartbeat, (then, then))
    assert claimed(values()) == path


def test_a_run_that_is_just_starting_is_refused_too(values: Values) -> None:
    folder = claim(values())
    assert refusal(values()).startswith("resume=auto: another process is running this configuration; ")
    folder.release()


def test_a_run_in_another_store_is_another_run(values: Values) -> None:
    local, there = values(), values("tracker.uri='http://there'")
    first = run(local, "FAILED")
    assert identity(local) == identity(there)
    second = run(there, "KILLED")
    assert [first.name, second.name] == [name(local), name(local, 2)]
    assert claimed(local) == first and claimed(there) == second
    run(local, "FINISHED")
    assert finished(local, SWEEP) is not None and finished(there, SWEEP) is None
    assert claimed(there) == second
    assert claimed(local).name == name(local, 3)


def test_the_password_of_a_store_does_not_matter(values: Values) -> None:
    one, two = (values(f"tracker.uri='http://me:{word}@there'") for word in ("secret1", "secret2"))
    path = run(one, "FAILED")
    assert "secret" not in (path / "run.json").read_text() and "secret" not in str(store_of(one))
    assert store_of(one) == store_of(two) and claimed(two) == path
    assert store_of(values()) is None


def test_a_run_in_another_outputs_folder_is_another_run(values: Values, tmp_path: Path) -> None:
    run(values(), "FAILED")
    other = {**values(), "outputs": str(tmp_path / "other")}
    assert identity(other) == identity(values())
    assert claimed(other) == tmp_path / "other" / "state" / name(values())


def test_a_run_is_claimed_only_once(values: Values) -> None:
    path = run(values(), "FAILED")
    claims: list[RunFolder] = []
    for _ in range(4):
        try:
            claims.append(claim(values()))
        except ConfigError:
            continue
    assert [folder.path for folder in claims] == [path]
    claims[0].release()
