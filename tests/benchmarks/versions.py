"""Benchmark of this checkout of plexp against another one, in turn, on the rows of throughput.py.

    python tests/benchmarks/versions.py ../plexp-before              # all rows, eager and compiled, about ten minutes
    python tests/benchmarks/versions.py ../plexp-before --only A2C --rounds 15

Each checkout trains in a process of its own, with its own tests/benchmarks/common.py, and is asked in turn for a
segment: A B B A A B … A round is the ratio of the environment steps a second of two neighbouring segments, so that a
drift in the machine's speed affects both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import common
from throughput import COMPILE, NAMES, WORKS, Work

HERE = Path(__file__).resolve().parents[2]
WORKER = """
import json, sys
sys.path.insert(0, "tests/benchmarks")
from common import Plexp
contender = Plexp(json.loads(sys.argv[1]), False)
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(contender.learn(int(line))), flush=True)
"""


class Checkout:
    """Process that trains with the plexp of a checkout.

    Args:
        folder: the checkout.
        overrides: configuration of the experiment.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", WORKER, json.dumps(list(overrides))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)
        self._read()

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.communicate()

    def learn(self, iterations: int) -> float:
        """Return the environment steps a second of so many iterations."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        steps, seconds = json.loads(self._read())
        return float(steps / seconds)

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a checkout's process has ended; the cause stands above")
        return line


def ratios(work: Work, override: str, other: Path, options: argparse.Namespace) -> list[float]:
    """Return this checkout's speed relative to the other's, round by round."""
    iterations = max(1, round(work.iterations * options.length))
    overrides = [*work.plexp(), override]
    rounds = []
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(Checkout(folder, overrides)) for folder in (HERE, other))
        for number in range(options.rounds):
            order = (ours, theirs) if number % 2 else (theirs, ours)
            speeds = {checkout: checkout.learn(iterations) for checkout in order}
            rounds.append(speeds[ours] / speeds[theirs])
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--length", type=float, default=1.0, help="multiplies the length of the segments")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only rows that contain it")
    options = parser.parse_args()
    rows = []
    for work in [work for work in WORKS if options.only in work.name]:
        for mode, override in COMPILE.items():
            rounds = ratios(work, override, options.other.resolve(), options)
            lowest, highest = min(rounds), max(rounds)
            row = [work.name, NAMES[mode], f"{statistics.median(rounds):.3f}", f"{lowest:.2f}…{highest:.2f}"]
            print("  ".join(row), flush=True)
            rows.append(row)
    common.show("speed relative to the other checkout", ["work", "", "median", "least…largest"], rows)


if __name__ == "__main__":
    main()
