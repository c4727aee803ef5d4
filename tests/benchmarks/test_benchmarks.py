"""The benchmarks run, and say what they are asked for; figures are for a quiet machine, with SB3 beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_short_comparison_of_plexp_with_the_environment_alone(tmp_path: Path) -> None:
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
