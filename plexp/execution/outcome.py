"""The outcome of a run, as numbers and in words. Importing this needs neither torch nor MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plexp.errors import Problem, nearest

CURVE = ("eval/return", "eval/return_std", "eval/length", "eval/seconds", "eval/cut_off", "eval/normalised_score")
SPEED = ("speed/auc_return", "speed/steps_to_threshold", "speed/seconds_to_threshold")
STABILITY = ("stability/max_drawdown", "stability/dispersion_time", "stability/collapsed")
FROM_EVALUATIONS = (*CURVE, *SPEED, *STABILITY)
"""Metrics that need evaluations during training."""
FINAL = ("eval/final_return", "eval/final_return_std", "eval/final_cut_off")
TIME = (
    *("time/seconds", "time/steps_per_second", "time/environment", "time/acting", "time/estimating", "time/updating"),
    *("time/compiling", "time/evaluation", "time/tracking", "time/checkpointing"),
)
METRICS = (*FINAL, *FROM_EVALUATIONS, *TIME)
"""Metrics that plexp itself logs; those of algorithms are below `train/`, those of callbacks below `callbacks/<name>/`."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run."""

    name: str
    run_id: str
    final_return: float
    final_return_std: float
    steps: int
    episodes: int
    seconds: float
    """Seconds spent collecting and updating."""
    solved_at: int | None
    """Environment step of the first evaluation that reached `solved_return`; None: none did."""
    solved_return: float | None
    """Mean return that counts as solved; None: there is no such mark."""
    objective: float | None
    """Value that a sweep optimises; None: the run has no metric of that name."""
    logged: list[str]
    """Names of all metrics."""
    num_cut_off: int = 0
    """Number of episodes of the final evaluation that were cut off at `evaluation.max_steps`."""


def objective(name: str, logged: Mapping[str, float], threshold: float | None) -> float | None:
    """Return the last value of a metric; None if there is none.

    A threshold that was never reached counts as infinitely many steps, for a sweep that minimises them.
    """
    if threshold is not None and name in ("speed/steps_to_threshold", "speed/seconds_to_threshold"):
        return logged.get(name, math.inf)
    return logged.get(name)


def problem_of_objective(values: Mapping[str, Any]) -> Problem | None:
    """Return why no run of this configuration can log its objective; None if one may.

    Below `train/`, and `callbacks/<name>/` of a callback that it has, plugins may log whatever they like.
    """
    name, callbacks = values["objective"], values.get("callbacks") or {}
    if not isinstance(name, str) or name.startswith("train/"):
        return None
    if name in FROM_EVALUATIONS and values["evaluation"]["every"] is None:
        cause, remedy = "it needs evaluations during training", "give evaluation.every=20_000 or another objective"
        return Problem("objective", name, cause, remedy)
    if name in METRICS or any(name.startswith(f"callbacks/{callback}/") for callback in callbacks):
        return None
    section = name.partition("/")[0]
    siblings = [metric for metric in METRICS if metric.partition("/")[0] == section]
    remedy = nearest(name, list(METRICS))
    if not remedy.startswith("did you mean"):
        others = "train/… and callbacks/<name>/… of what the plugins log"
        remedy = f"there are {', '.join(siblings)}" if siblings else f"there are {', '.join(FINAL + CURVE)}, {others}"
    return Problem("objective", name, "no run of this configuration logs such a metric", remedy)


def describe(algo: str, values: Mapping[str, Any], outcome: Outcome) -> str:
    """Return two lines of Markdown: what the run was, and its outcome."""
    advantage, env = values["advantage"]["plugin"], values["env"]["id"]
    with_estimator = "" if advantage == "none" else f" with {advantage}"
    what = f"**{algo}**{with_estimator} on **{env}**, seed {values['seed']}"
    rate = outcome.steps / max(outcome.seconds, 1e-9)
    effort = f"{outcome.steps:,} steps, {outcome.episodes:,} episodes, {outcome.seconds:.0f} s ({rate:,.0f} steps/s)"
    return f"{what}: {effort}.  \n{summary(outcome)}."


def summary(outcome: Outcome) -> str:
    """Return a line: `final return 251.3 ± 40.1 (mean ± deviation over episodes); solved (≥ 200) at step 350,000`."""
    text = f"final return {outcome.final_return:.1f} ± {outcome.final_return_std:.1f} (mean ± deviation over episodes)"
    if outcome.num_cut_off:
        text += f", {outcome.num_cut_off} of them cut off"
    if outcome.solved_return is None:
        return text
    mark = f"(≥ {outcome.solved_return:g})"
    first = "" if outcome.solved_at is None else f" at step {outcome.solved_at:,}"
    if outcome.final_return >= outcome.solved_return:
        return f"{text}; solved {mark}{first}"
    return f"{text}; not solved {mark}" + (f", though reached{first}" if first else "")
