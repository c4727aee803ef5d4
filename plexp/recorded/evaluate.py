"""Evaluation of a recorded agent on new episodes, with confidence intervals."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plexp.analysis.statistics import Interval, interquartile_mean, mean_interval, proportion_interval
from plexp.errors import ConfigError, Problem
from plexp.recorded.restore import environment_for, restored
from plexp.tracking.lookup import RunHandle
from plexp.training.evaluation import EvaluationResult, StepLimit, evaluate


@dataclass(frozen=True)
class LaterEvaluation:
    """Episodes that a recorded agent played after its training."""

    run: str
    """Name of the run."""
    environment: str
    """Label of the environment."""
    sampled: bool
    """True if actions were sampled from the policy; False: the most likely one was taken."""
    seed: int
    """Seed of the episodes."""
    result: EvaluationResult
    solved_return: float | None
    """Return from which an episode counts as solved; None: there is no such mark."""

    @property
    def mean(self) -> Interval:
        """Mean return, with Student's t interval of 95 %."""
        return mean_interval(self.result.returns)

    @property
    def solved(self) -> Interval | None:
        """Share of the episodes that reach the solved mark, with Wilson's interval; None if there is no mark."""
        if self.solved_return is None:
            return None
        reached = int((self.result.returns >= self.solved_return).sum())
        return proportion_interval(reached, len(self.result.returns))

    def lines(self) -> list[str]:
        """Return the lines that the command prints."""
        returns, how = self.result.returns, "sampled from the policy" if self.sampled else "greedy"
        mean = self.mean
        interval = f" [{mean.low:.1f}, {mean.high:.1f}] (95 %, Student's t)" if len(returns) > 1 else ""
        spread = (
            f"median {np.median(returns):.1f}, IQM {interquartile_mean(returns):.1f}, deviation {returns.std():.1f}"
        )
        lines = [
            f"{self.run} on {self.environment}, {len(returns)} episodes, {how}, seed {self.seed}",
            f"mean return {mean.value:.1f}{interval}; {spread}, from {returns.min():.1f} to {returns.max():.1f}",
            f"length {self.result.lengths.mean():.1f} steps on average",
        ]
        if self.solved is not None:
            share = f"{self.solved.value:.0%} [{self.solved.low:.0%}, {self.solved.high:.0%}]"
            lines[-1] += f"; {share} of the episodes reach {self.solved_return:g}"
        if self.result.num_cut_off:
            lines.append(
                f"{self.result.num_cut_off} of the episodes were cut off: their returns count as far as they went"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def playing(episodes: int, show: Callable[[str, float], None]) -> Callable[[int, int], None]:
    """Return the watcher of an evaluation that shows how many of its episodes and steps are played."""

    def watch(ended: int, steps: int) -> None:
        show(f"{ended} of {episodes} episodes played, step {steps:,}", ended / episodes)

    return watch


def evaluate_run(
    run: RunHandle,
    *,
    episodes: int,
    sampled: bool = False,
    seed: int = 0,
    overrides: Sequence[str] = (),
    show: Callable[[str, float], None] = lambda what, fraction: None,
) -> LaterEvaluation:
    """Play episodes with the agent of a run, in its environment or another one; `record` records them with the run.

    No episode has the seed of one that the agent was trained or evaluated on.

    Args:
        run: the recorded run.
        episodes: number of episodes.
        sampled: whether actions are sampled from the policy; False: the most likely one is taken.
        seed: seed of the episodes.
        overrides: another environment, as `env=NAME` or `env.KEY=VALUE`.
        show: gets, after each step, what is being done, and how much of it is done, 0…1.

    Raises ConfigError for a run without an agent, and for an environment that its agent cannot play in; StoreError, before
    anything is played, if nothing can be recorded with the run.
    """
    if episodes < 1:
        raise ConfigError(Problem("--episodes", episodes, "there must be one at least", "give --episodes 100"))
    run.check_writable("an evaluation is")
    with restored(run.values, run.file("agent.safetensors"), run.newer) as experiment:
        environment = environment_for(experiment, overrides)
        sampling = np.random.default_rng([seed, experiment.config.seed]) if sampled else None
        seeds = experiment.streams.later(seed)
        limit = StepLimit(experiment.config.evaluation.max_steps)
        result = evaluate(
            experiment.agent, environment, seeds, episodes, sampling, limit=limit, watch=playing(episodes, show)
        )
    label = environment.label if overrides else experiment.environment.label
    return LaterEvaluation(run.name, label, sampled, seed, result, environment.solved_return)


def record(run: RunHandle, evaluation: LaterEvaluation, overrides: Sequence[str] = ()) -> None:
    """Record an evaluation with its run; `overrides` are those of its environment. Raises StoreError if that fails."""
    where = [*([evaluation.environment] if overrides else []), *(["sampled"] if evaluation.sampled else [])]
    mean = evaluation.mean
    numbers = {"return": mean.value, "return_low": mean.low, "return_high": mean.high}
    prefix = "/".join(["evaluate", *where])
    numbers["length"] = float(evaluation.result.lengths.mean())
    if evaluation.result.num_cut_off:
        numbers["cut_off"] = float(evaluation.result.num_cut_off)
    run.log_metrics({f"{prefix}/{name}": value for name, value in numbers.items()}, step=evaluation.seed)
    episodes = {
        "environment": evaluation.environment,
        "overrides": list(overrides),
        "sampled": evaluation.sampled,
        "seed": evaluation.seed,
        "returns": evaluation.result.returns.tolist(),
        "lengths": evaluation.result.lengths.tolist(),
        "cut_off": evaluation.result.num_cut_off,
    }
    run.log_text(json.dumps(episodes), f"evaluations/{'-'.join([*where, f'seed{evaluation.seed}'])}.json")
