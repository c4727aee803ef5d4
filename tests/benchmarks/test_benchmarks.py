"""Tests of the benchmarks: they run and report what is asked for; real figures need an idle machine and SB3."""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.stores import curve_of_learning, recorded


def test_plexp_is_briefly_compared_with_the_environment_alone(tmp_path: Path) -> None:
    script = Path(__file__).parent / "throughput.py"
    options = "--only A2C --contenders eager alone gymnasium --rounds 2 --length 0.02"
    subprocess.run(
        [sys.executable, str(script), *options.split(), "--output", str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
    )
    results = json.loads((tmp_path / "throughput.json").read_text())
    (row,) = results["rows"]
    assert row["work"]["name"] == "A2C CartPole 8x5" and row["startup"]["eager"] > 0
    assert {name: len(rates) for name, rates in row["rounds"].items()} == {"eager": 2, "alone": 2, "gymnasium": 2}
    assert 0 < row["share_of_alone"]["eager"] < 1 and "version.torch" in results["facts"]


def test_a_checkpoint_with_a_replay_buffer_is_measured(tmp_path: Path) -> None:
    script = Path(__file__).parent / "replay_memory.py"
    subprocess.run(
        [sys.executable, str(script), "--transitions", "20000", "--output", str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
    )
    results = json.loads((tmp_path / "replay_memory.json").read_text())
    for replay in ("uniform", "prioritized"):
        found = results[replay]
        assert 0 < found["checkpoint (s)"] <= found["longest (s)"] and found["log (MB)"] > 20_000 * 40 / 1e6


def test_a_run_is_timed_until_its_problem_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    script = runpy.run_path(str(Path(__file__).parent / "time_to_solve.py"))
    watch = script["Watch"](mark=5.0)
    overrides = ["algo.num_steps=128", "env.num_envs=4", "compile=false"]
    monkeypatch.setattr(logging.getLogger("plexp"), "handlers", [])
    script["run_plexp"]("cartpole", watch, 0, 20_000, overrides)()
    assert watch.steps == 10_240 and watch.checks[0][0] == 10_240 and watch.checks[0][2] >= 5


def test_halves_are_disjoint_and_differences_are_counted() -> None:
    script = runpy.run_path(str(Path(__file__).parent / "same_against_same.py"))
    rng = np.random.default_rng(0)
    runs = [recorded(curve_of_learning(rng), seed=seed) for seed in range(12)]
    drawn = script["draw"](runs, 5, rng)
    assert len({run.run_id for run in drawn}) == 10
    assert [run.params["half"] for run in drawn] == ["A", "B"] * 5
    assert script["measure"](runs, 5, 4)["anything"] <= 1
    script["measure"].__globals__["draw"] = lambda runs, seeds, rng: [
        recorded([0, 10 + s, 10 + s] if s % 2 else [0, 500 - s, 500 - s], seed=s, half="AB"[s % 2]) for s in range(12)
    ]
    assert script["measure"](runs, 6, 3)["anything"] == 3
