"""Whether a command is a new run, one to be taken up again, or one that is finished."""

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
    """A resolved configuration whose outputs are in a folder of the test's own."""

    def make(*overrides: str) -> dict[str, Any]:
        config: dict[str, Any] = OmegaConf.to_container(compose(f"outputs={tmp_path}", *overrides), resolve=True)
        return config

    return make


def run(values: dict[str, Any], status: str, **changes: Any) -> Path:
    """Claim it, run it, and end it so."""
    folder = claim(values)
    folder.begin(store=store_of(values), identity=identity(values))
    outcome = {"steps": 1} if status == "FINISHED" else None
    folder.change(**{"status": status, "outcome": outcome, **changes})
    folder.release()
    return folder.path


def claimed(values: dict[str, Any]) -> Path:
    """The folder that it would run in; its lock is given back."""
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
def test_one_that_failed_or_was_interrupted_is_taken_up_in_its_folder(status: str, values: Values) -> None:
    first = run(values(), status, error=["why"])
    assert finished(values(), SWEEP) is None
    assert claimed(values()) == first == claimed(values("resume=auto", "checkpoint.every=7"))
    assert len(attempts(first.parent, first.name)) == 1


def test_one_that_never_wrote_a_record_is_taken_up_too(values: Values) -> None:
    folder = next_attempt(state_folder(values()["outputs"]), identity(values()))
    assert claimed(values()) == folder.path
    (folder.path / "run.json").write_text("{ half")
    assert claimed(values()) == folder.path and finished(values(), SWEEP) is None


def test_one_whose_process_died_is_taken_up(values: Values, other: Any) -> None:
    path = claimed(values())
    process = other(path, store="")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [folder.path for folder in crashed_runs(path.parent)] == [path]
    assert claimed(values()) == path


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_resume_never_is_a_new_attempt(status: str, values: Values) -> None:
    first = run(values(), status)
    second = run(values("resume=never"), status)
    assert (first.name, second.name) == (name(values()), name(values(), 2))
    assert claimed(values()) == second, "the newest is the one that is taken up"
    assert claimed(values("resume=never")).name == name(values(), 3)


def test_a_finished_one_is_found_and_not_claimed_again(values: Values) -> None:
    first = run(values(), "FINISHED", outcome={"steps": 9})
    found = finished(values(), SWEEP)
    assert found is not None
    assert found[0].path == first and found[1].outcome == {"steps": 9} and found[1] == found[0].record()
    assert claimed(values()).name == name(values(), 2)
    assert finished(values("seed=1"), SWEEP) is None


def test_a_finished_one_without_an_outcome_is_not_found(values: Values) -> None:
    run(values(), "FINISHED", outcome=None)
    assert finished(values(), SWEEP) is None
    assert claimed(values()).name == name(values(), 2)


def test_one_that_was_begun_again_after_it_had_finished_is_not_finished(values: Values) -> None:
    run(values(), "FINISHED")
    again = run(values(), "FAILED")
    assert again.name == name(values(), 2)
    assert finished(values(), SWEEP) is None and claimed(values()) == again
    run(values(), "FINISHED", outcome={"steps": 2})
    found = finished(values(), SWEEP)
    assert found is not None and found[0].path == again


def test_to_do_it_again_only_a_run_of_this_very_sweep_counts(values: Values) -> None:
    first = run(values(), "FINISHED", sweeps={"an earlier one": 0})
    again = values("rerun=true")
    assert identity(again) == identity(values())
    assert finished(values(), SWEEP) is not None
    assert finished(again, SWEEP) is None
    assert finished(again, "an earlier one") is not None
    second = run(again, "FINISHED", sweeps={SWEEP: 3})
    assert (first.name, second.name) == (name(again), name(again, 2))
    found = finished(again, SWEEP)
    assert found is not None and found[0].path == second
    assert finished(again, "a later one") is None


def said_by(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        claim(values)
    return str(raised.value)


def test_one_that_runs_elsewhere_is_refused_in_one_line(values: Values, other: Any) -> None:
    path = claimed(values())
    process = other(path, store="")
    said = f"resume=auto: process {process.pid} on {platform.node()} runs this very configuration now; "
    assert said_by(values()) == said + "wait for it, or give resume=never for a run beside it"
    beside = claim(values("resume=never"))
    assert beside.path.name == name(values(), 2)
    beside.release()
    process.kill()
    process.wait()
    assert claimed(values("seed=1")) != path


def test_one_that_runs_on_another_host_is_refused_until_its_heart_stops(values: Values) -> None:
    path = run(values(), "RUNNING", host="another-host", pid=77)
    heartbeat = path / "heartbeat"
    heartbeat.write_text("[1, 0.5]")
    assert said_by(values()).startswith("resume=auto: process 77 on another-host runs this very configuration now; ")
    assert "\n" not in said_by(values())
    then = time.time() - run_folder.STALE_SECONDS - 1
    os.utime(heartbeat, (then, then))
    assert claimed(values()) == path


def test_one_that_has_just_been_taken_and_said_nothing_yet_is_refused_too(values: Values) -> None:
    folder = claim(values())
    assert said_by(values()).startswith("resume=auto: another process runs this very configuration now; ")
    folder.release()


def test_another_store_is_another_run(values: Values) -> None:
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


def test_one_store_is_one_store_whatever_the_password(values: Values) -> None:
    one, two = (values(f"tracker.uri='http://me:{word}@there'") for word in ("secret1", "secret2"))
    path = run(one, "FAILED")
    assert "secret" not in (path / "run.json").read_text() and "secret" not in str(store_of(one))
    assert store_of(one) == store_of(two) and claimed(two) == path
    assert store_of(values()) is None


def test_another_outputs_folder_is_another_run(values: Values, tmp_path: Path) -> None:
    run(values(), "FAILED")
    other = {**values(), "outputs": str(tmp_path / "other")}
    assert identity(other) == identity(values())
    assert claimed(other) == tmp_path / "other" / "state" / name(values())


def test_of_many_that_claim_at_once_one_gets_it(values: Values) -> None:
    path = run(values(), "FAILED")
    got: list[RunFolder] = []
    for _ in range(4):
        try:
            got.append(claim(values()))
        except ConfigError:
            continue
    assert [folder.path for folder in got] == [path]
    got[0].release()
