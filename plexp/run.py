"""One run: train an experiment and keep everything of it in MLflow."""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

from plexp.callbacks import Evaluator, ProgressBar, Recorder
from plexp.curves import CurveFigures, as_metrics, curve_figures
from plexp.errors import StoreError
from plexp.evaluation import EvaluationResult, evaluate
from plexp.experiment import Experiment
from plexp.export import GreedyPolicy
from plexp.provenance import provenance
from plexp.tracking import Tracker
from plexp.tracking_views import masked


@dataclass(frozen=True)
class Outcome:
    """How a run went."""

    name: str
    run_id: str
    final_return: float
    final_return_std: float
    steps: int
    episodes: int
    seconds: float
    """Of collecting and updating."""
    solved_at: int | None
    solved_return: float | None
    objective: float | None
    """The metric that a sweep optimises; None: this run logged none by that name."""
    logged: list[str]
    """The names of all metrics."""


def run(experiment: Experiment, tags: Mapping[str, str], console: Console) -> Outcome:
    """Train to the end under a new MLflow run: FINISHED, KILLED by Ctrl-C or SIGTERM, or FAILED with the traceback.

    Raises StoreError, before any run exists, if the store cannot be reached; TrainingError if the training cannot go on.
    """
    with closing(experiment.training_env):
        return _run(experiment, tags, console)


def _run(experiment: Experiment, tags: Mapping[str, str], console: Console) -> Outcome:
    values, uri = experiment.values, experiment.values["tracker"]["uri"]
    recorded = {**values, "tracker": {**values["tracker"], "uri": uri and masked(uri)}}
    tracker = Tracker(
        uri=uri,
        outputs=Path(values["outputs"]).absolute(),
        experiment=values["tracker"]["experiment"] or experiment.environment.label,
        run_name=experiment.name,
        params=dict(_flat(recorded)),
        tags={"kind": "training", **provenance(), **tags},
    )
    try:
        tracker.log_text(yaml.safe_dump(recorded, sort_keys=False, allow_unicode=True), "config.yaml")
        outcome = _train(experiment, tracker, console)
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        raise
    except BaseException as error:
        with suppress(StoreError):  # the error itself is what matters
            tracker.set_tags({"error": f"{type(error).__name__}: {error}"})
            tracker.log_text(traceback.format_exc(), "traceback.txt")
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
    return outcome


def _train(experiment: Experiment, tracker: Tracker, console: Console) -> Outcome:
    values, environment, agent = experiment.values, experiment.environment, experiment.agent

    def play(index: int, episodes: int) -> EvaluationResult:
        return evaluate(agent, environment, experiment.streams.evaluation(index), episodes)

    evaluator = Evaluator(play, tracker.log, solved_return=environment.solved_return, **values["evaluation"])
    recorder = Recorder(tracker.log, values["tracker"]["every"])
    bar = ProgressBar(experiment.name, evaluator, console)
    try:
        progress = experiment.trainer.run([recorder, evaluator, bar])
    finally:
        bar.close()
    final = evaluator.final
    assert final is not None
    if len(evaluator.curve) > 1:
        tracker.log(as_metrics(_curve_figures(experiment, evaluator)), progress.steps)
    outcome = Outcome(
        experiment.name,
        tracker.run_id,
        float(final.returns.mean()),
        float(final.returns.std()),
        progress.steps,
        progress.episodes,
        progress.seconds,
        evaluator.solved_at,
        environment.solved_return,
        _objective(values["objective"], tracker.last, environment.solved_return),
        sorted(tracker.last),
    )
    _keep(experiment, tracker, evaluator, outcome)
    rows = "".join(f"{steps},{total:g},{length}\n" for steps, total, length in recorder.episodes)
    tracker.log_text("steps,return,length\n" + rows, "episodes.csv")
    return outcome


def _curve_figures(experiment: Experiment, evaluator: Evaluator) -> CurveFigures:
    steps, returns = zip(*evaluator.curve, strict=True)
    return curve_figures(
        np.array(steps),
        np.array(returns),
        np.array(evaluator.seconds),
        threshold=experiment.environment.solved_return,
        random_return=experiment.values["env"].get("random_return"),
        solved_return=experiment.environment.solved_return,
    )


def _objective(name: str, logged: Mapping[str, float], threshold: float | None) -> float | None:
    """Its last value. A threshold that was never reached counts as ∞ steps, so that a sweep which minimises them learns it."""
    if threshold is not None and name in ("speed/steps_to_threshold", "speed/seconds_to_threshold"):
        return logged.get(name, math.inf)
    return logged.get(name)


def _keep(experiment: Experiment, tracker: Tracker, evaluator: Evaluator, outcome: Outcome) -> None:
    """The agent, the learning curve and the description."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.safetensors"
        save_file({k: v.detach().cpu().clone() for k, v in experiment.agent.state_dict().items()}, path)
        tracker.log_file(path)
    if evaluator.curve:
        from plexp.figures import learning_curve  # with matplotlib, which takes half a second, at the end

        tracker.log_figure(
            learning_curve(experiment.name, evaluator.curve, outcome.solved_return), "learning_curve.png"
        )
    if experiment.values["tracker"]["log_model"]:
        example = torch.from_numpy(experiment.trainer.collector.observations).repeat(2, *[1] * 8)[:2]
        tracker.log_model(GreedyPolicy(experiment.agent).cpu().eval(), example)
    tracker.describe(describe(experiment.values, outcome))


def describe(values: Mapping[str, Any], outcome: Outcome) -> str:
    """Two lines of Markdown: what it was and how it went."""
    algo, advantage, env = values["algo"]["plugin"], values["advantage"]["plugin"], values["env"]["id"]
    what = f"**{algo}** with {advantage} on **{env}**, seed {values['seed']}"
    rate = outcome.steps / max(outcome.seconds, 1e-9)
    effort = f"{outcome.steps:,} steps, {outcome.episodes:,} episodes, {outcome.seconds:.0f} s ({rate:,.0f} steps/s)"
    return f"{what}: {effort}.  \n{verdict(outcome)}."


def verdict(outcome: Outcome) -> str:
    """`final return 251.3 ± 40.1 (mean ± deviation over episodes); solved (≥ 200) at step 350,000`."""
    text = f"final return {outcome.final_return:.1f} ± {outcome.final_return_std:.1f} (mean ± deviation over episodes)"
    if outcome.solved_return is None:
        return text
    mark = f"(≥ {outcome.solved_return:g})"
    first = "" if outcome.solved_at is None else f" at step {outcome.solved_at:,}"
    if outcome.final_return >= outcome.solved_return:
        return f"{text}; solved {mark}{first}"
    return f"{text}; not solved {mark}" + (f", though reached{first}" if first else "")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names, as they are typed on the command line."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
