"""Records the results of a finished training: agent, learning curve, figures, model and description."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from plexp.analysis.curves import CurveFigures, as_metrics, curve_figures
from plexp.envs.environment import EpisodeSeed
from plexp.errors import decoration
from plexp.execution.callbacks.episode_log import EpisodeLog
from plexp.execution.callbacks.evaluator import Evaluator
from plexp.execution.callbacks.recorder import Recorder
from plexp.execution.experiment import Experiment
from plexp.execution.outcome import Outcome, describe, objective
from plexp.tracking.tracker import Tracker
from plexp.training.policy import as_model
from plexp.training.progress import TrainingProgress


def record_results(
    experiment: Experiment,
    tracker: Tracker,
    evaluator: Evaluator,
    progress: TrainingProgress,
    folder: Path,
) -> Outcome:
    """Record the results, and return the outcome; `folder` is for temporary files.

    The metrics and the agent come first. The picture, the model and the description are left out where they fail.
    """
    environment, final = experiment.environment, evaluator.final
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
        objective(experiment.config.objective, tracker.last, environment.solved_return),
        sorted(tracker.last),
        final.num_cut_off,
    )
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "agent.safetensors"
        save_file({k: v.detach().cpu().clone() for k, v in experiment.agent.state_dict().items()}, path)
        tracker.log_file(path)
    with decoration("the picture of the learning curve"):
        if evaluator.curve:
            from plexp.analysis.figures import learning_curve  # with matplotlib, which takes half a second, at the end

            figure = learning_curve(experiment.name, evaluator.curve, outcome.solved_return)
            tracker.log_figure(figure, "learning_curve.png")
    with decoration("the model for MLflow"):
        if experiment.config.tracker.log_model:
            observations = torch.from_numpy(experiment.trainer.collector.observations)[:2]
            tracker.log_model(*as_model(experiment.agent, observations))
    with decoration("the run's description"):
        tracker.describe(describe(experiment.algo, experiment.values, outcome))
    return outcome


def record_episodes(
    tracker: Tracker, recorder: Recorder, episodes: EpisodeLog, seeds: EpisodeSeed, folder: Path
) -> None:
    """Record the training episodes: their returns and lengths, and (see `EpisodeLog`) what re-simulating them needs."""
    tracker.log_text(recorder.episodes_as_csv(), "episodes.csv")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if (path := episodes.save(Path(place), seeds)) is not None:
            tracker.log_file(path)


def _curve_figures(experiment: Experiment, evaluator: Evaluator) -> CurveFigures:
    steps, returns = zip(*evaluator.curve, strict=True)
    return curve_figures(
        np.array(steps),
        np.array(returns),
        np.array(evaluator.seconds),
        threshold=experiment.environment.solved_return,
        random_return=experiment.config.env.get("random_return"),
        solved_return=experiment.environment.solved_return,
    )
