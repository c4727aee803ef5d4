"""Films of evaluations during training, for `evaluation.film=true`."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Protocol

from plexp.envs.film import FOLDER, extremes, film, middle, with_frames
from plexp.errors import one_line
from plexp.execution.experiment import Experiment
from plexp.training.evaluation import EvaluationResult, StepLimit, evaluate

log = logging.getLogger("plexp")


class LogFile(Protocol):
    """A function that adds a file to a folder of a run's artifacts."""

    def __call__(self, path: Path, folder: str | None = None) -> None: ...


class EvaluationFilms:
    """Films the median episode of each evaluation, and the best, median and worst of the last one.

    An episode that cannot be filmed or recorded is logged in one line, and training continues.

    Args:
        experiment: the experiment.
        log_file: records the films.
        place: folder for temporary files.
    """

    def __init__(self, experiment: Experiment, log_file: LogFile, place: Path) -> None:
        self.experiment, self.log_file, self.place = experiment, log_file, place
        self.environment = with_frames(experiment.environment, experiment.config.env)

    def __call__(self, result: EvaluationResult, index: int, step: int | None) -> None:
        try:
            self._film(result, index, step)
        except Exception as error:
            log.warning("evaluation %s is not filmed: %s: %s", index, type(error).__name__, one_line(error))

    def _film(self, result: EvaluationResult, index: int, step: int | None) -> None:
        if result.played is None:  # EnvPool has no seeds for episodes: the same policy, where there are some
            seeds, bounds = self.experiment.streams.evaluation(index), self.experiment.trainer.collector.bounds
            limit, number = StepLimit(self.experiment.config.evaluation.max_steps), len(result.returns)
            result = evaluate(self.experiment.agent, self.environment, seeds, number, limit=limit, bounds=bounds)
        assert result.played is not None
        chosen = extremes(result.returns) if step is None else {"median": middle(result.returns)}
        for which, place in chosen.items():
            name, when = f"final-{which}", "after training"
            if step is not None:
                name, when = f"step-{step:09d}", f"at step {step:,}"
            title = f"{which} of {len(result.returns)} {when}, {self.experiment.name}"
            with tempfile.TemporaryDirectory(dir=self.place) as folder:
                recording = film(self.environment, result.played[place], title, Path(folder) / name)
                for file in recording.files:
                    self.log_file(file, FOLDER)
            if recording.warning:
                log.warning("%s: %s", title, recording.warning)
