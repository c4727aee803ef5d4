"""How often does `compare` call two identical groups different? It is measured on runs of one configuration.

    python -m plexp -m env=cartpole 'seed=range(40)' outputs=same
    python tests/benchmarks/same_against_same.py --outputs same

The script draws ten seeds and ten others of the runs in MLflow, again and again, and compares them as
`python -m plexp compare` does. Every difference found is due to chance. The promise is 5 % or less; 200 drawings can
tell 2 to 8 %.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from plexp.analysis.compare import compare
from plexp.analysis.request import Request, recorded
from plexp.analysis.statistics import proportion_interval
from plexp.tracking.history import RecordedRun


def draw(runs: Sequence[RecordedRun], seeds: int, rng: np.random.Generator) -> list[RecordedRun]:
    """Draw two disjoint halves of the runs, which differ only in the param `half`."""
    order = rng.permutation(len(runs))[: 2 * seeds]
    return [replace(runs[at], params={**runs[at].params, "half": "AB"[i % 2]}) for i, at in enumerate(order)]


def measure(runs: Sequence[RecordedRun], seeds: int, repetitions: int) -> Counter[str]:
    """Return how many comparisons called anything different, in total and for each question."""
    rng, called = np.random.default_rng(0), Counter[str]()
    for _ in range(repetitions):
        comparison = compare(draw(runs, seeds, rng), by=["half"])
        found = {each.question for each in comparison.contrasts if each.distinct}
        called.update({"anything"} | found if found else ())
    return called


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--seeds", type=int, default=10, help="of each half")
    parser.add_argument("--repetitions", type=int, default=200)
    options = parser.parse_args()
    runs = [run for run in recorded(Request(None, options.outputs)) if run.status == "FINISHED"]
    if len(runs) < 2 * options.seeds:
        parser.error(f"{len(runs)} finished runs in {options.outputs} are fewer than 2 x {options.seeds}")
    called = measure(runs, options.seeds, options.repetitions)
    share = proportion_interval(called["anything"], options.repetitions)
    print(f"{len(runs)} runs; {options.repetitions} comparisons of {options.seeds} against {options.seeds} others:")
    print(f"called different: {share.value:.1%}  {json.dumps(called)}")


if __name__ == "__main__":
    main()
