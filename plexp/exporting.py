"""`plexp export`: the agent of a kept run, as files and in MLflow's model registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plexp.experiment import Experiment
from plexp.export import GreedyPolicy, export, seen
from plexp.restored import restored
from plexp.tracking_registry import register
from plexp.tracking_runs import KeptRun


def export_run(run: KeptRun, formats: list[str], folder: Path) -> Iterator[str]:
    """Write its agent in these formats, with a script beside each; a line for each file.

    Raises ConfigError for a run that keeps no agent, one that cannot be traced, and a folder that cannot be written.
    """
    title = f"The greedy agent of {run.name} (run {run.run_id})"
    if "eval/final_return" in run.metrics:
        title += f", final return {run.metrics['eval/final_return']:.1f}"
    with agent_of(run) as experiment:
        for made in export(experiment, formats, folder, f"{title}."):
            how = f"largest difference {made.difference:.1e}" if made.difference else "equal"
            yield f"{made.file}  actions on {made.observations} observations, by 1, 2 and 7: {how}"
            if made.script is None:
                yield "no script beside it: gymnasium makes no such environment by its id"
            else:
                yield f"{made.script}  plays an episode with it, without plexp"


def register_run(run: KeptRun, name: str) -> str:
    """Make its model a version of the registered model, and the alias `best`; a line that says so.

    A run that keeps no model gets one.
    """

    def policy() -> tuple[GreedyPolicy, object]:
        with agent_of(run) as experiment:
            return GreedyPolicy(experiment.agent).cpu().eval(), seen(experiment)[:2]

    version = register(run, name, policy)
    return f"models:/{name}@best is version {version} now: run {run.name}, {run.run_id}"


@contextmanager
def agent_of(run: KeptRun) -> Iterator[Experiment]:
    """Its experiment with the agent that it trained."""
    experiment = restored(run.values, run.file("agent.safetensors"), run.newer)
    try:
        yield experiment
    finally:
        experiment.training_env.close()
