"""`plexp evaluate`: how well a kept agent plays, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from plexp.analysis.statistics import Interval, interquartile_mean, mean_interval, proportion_interval
from plexp.errors import ConfigError, Problem
from plexp.recorded.restore import environment_for, restored
from plexp.tracking.lookup import RunHandle
from plexp.training.evaluation import EvaluationResult, evaluate


@dataclass(frozen=True)
class LaterEvaluation:
    """Episodes of a kept agent."""

    run: str
    environment: str
    sampled: bool
    seed: int
    result: EvaluationResult
    solved_return: float | None

    @property
    def mean(self) -> Interval:
        """Of the returns, with Student's t interval."""
        return mean_interval(self.result.returns)

    @property
    def solved(self) -> Interval | None:
        """The share of the episodes that reach the solved mark, with Wilson's interval; None where there is no mark."""
        if self.solved_return is None:
            return None
        reached = int((self.result.returns >= self.solved_return).sum())
        return proportion_interval(reached, len(self.result.returns))

    def lines(self) -> list[str]:
        """As it is printed."""
        returns, how = self.result.returns, "sampled from the policy" if self.sampled else "greedy"
        mean = self.mean
        interval = f" [{mean.low:.1f}, {mean.high:.1f}] (95 %, Student's t)" if len(returns) > 1 else ""
        spread = (
            f"median {np.median(returns):.1f}, IQM {interquartile_mean(returns):.1f}, deviation {returns.std():.1f}"
        )
        said = [
            f"{self.run} on {self.environment}, {len(returns)} episodes, {how}, seed {self.seed}",
            f"mean return {mean.value:.1f}{interval}; {spread}, from {returns.min():.1f} to {returns.max():.1f}",
            f"length {self.result.lengths.mean():.1f} steps on average",
        ]
        if self.solved is not None:
            share = f"{self.solved.value:.0%} [{self.solved.low:.0%}, {self.solved.high:.0%}]"
            said[-1] += f"; {share} of the episodes reach {self.solved_return:g}"
        return said


def evaluate_kept(
    run: RunHandle, *, episodes: int, sampled: bool = False, seed: int = 0, overrides: Sequence[str] = ()
) -> LaterEvaluation:
    """Play whole episodes with the agent of a run, on its environment or another, and keep them with the run.

    Their seeds are those of no episode that it was trained or evaluated on. Raises ConfigError for a run that keeps no
    agent, and for an environment that its agent cannot play.
    """
    if episodes < 1:
        raise ConfigError(Problem("--episodes", episodes, "there must be one at least", "give --episodes 100"))
    with closing((experiment := restored(run.values, run.file("agent.safetensors"), run.newer)).training_env):
        environment = environment_for(experiment, overrides)
        drawn = np.random.default_rng([seed, experiment.values["seed"]]) if sampled else None
        seeds = experiment.streams.later(seed)
        result = evaluate(experiment.agent, environment, seeds, episodes, drawn)
    label = environment.label if overrides else experiment.environment.label
    made = LaterEvaluation(run.name, label, sampled, seed, result, environment.solved_return)
    _keep(run, made, overrides)
    return made


def _keep(run: RunHandle, made: LaterEvaluation, overrides: Sequence[str]) -> None:
    where = [*([made.environment] if overrides else []), *(["sampled"] if made.sampled else [])]
    mean = {"return": made.mean.value, "return_low": made.mean.low, "return_high": made.mean.high}
    prefix = "/".join(["evaluate", *where])
    numbers = {**mean, "length": float(made.result.lengths.mean())}
    run.log_metrics({f"{prefix}/{name}": value for name, value in numbers.items()}, step=made.seed)
    record = {
        "environment": made.environment,
        "overrides": list(overrides),
        "sampled": made.sampled,
        "seed": made.seed,
        "returns": made.result.returns.tolist(),
        "lengths": made.result.lengths.tolist(),
    }
    run.log_text(json.dumps(record), f"evaluations/{'-'.join([*where, f'seed{made.seed}'])}.json")
