"""`python -m plexp film`: films of a run that is kept in MLflow, of its agent and of its training episodes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plexp.envs.environment import Environment
from plexp.envs.episodes import PlayedEpisode
from plexp.envs.film import FOLDER, extremes, film, filmed
from plexp.errors import ConfigError, Problem, one_line
from plexp.execution.callbacks.episode_log import NAME, episode_of
from plexp.execution.experiment import Experiment
from plexp.recorded.restore import rebuilt, restored
from plexp.tracking.format import ui_command
from plexp.tracking.lookup import RunHandle, open_run
from plexp.training.evaluation import evaluate


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line."""

    run: str
    """See `open_run`."""
    episodes: int
    """Of which the best, the median and the worst are filmed."""
    episode: int | None
    """A training episode instead: the row of `episodes.csv`, from 1 on."""
    seed: int
    """Of these episodes."""
    sampled: bool
    """Actions are drawn from the policy, as in training; otherwise its mode is taken."""
    to: Path | None
    speed: float
    outputs: Path
    uri: str | None
    env: str | None


@dataclass(frozen=True)
class Take:
    """An episode that is to be filmed."""

    name: str
    """Of its files."""
    title: str
    episode: PlayedEpisode


def film_run(request: Request) -> Iterator[str]:
    """A line for each film, when it is made and logged below `films/` of its run.

    Raises ConfigError, before anything is played, for what cannot be filmed; StoreError if the store does not answer.
    """
    with open_run(request.run, outputs=request.outputs, uri=request.uri, env=request.env) as kept:
        if request.episode is not None:
            episode = _of_training(kept, request.episode)
            experiment = rebuilt(kept.values, kept.newer)
        else:
            experiment = restored(kept.values, kept.file("agent.safetensors"), kept.newer)
        with closing(experiment.training_env):
            environment = filmed(experiment.environment, experiment.values["env"])
            folder = _writable(request.to or request.outputs / FOLDER / f"{kept.name}-{kept.run_id[:8]}")
            if request.episode is not None:
                name = f"episode-{request.episode:06d}"
                takes = [Take(name, f"training episode {request.episode:,}, {kept.name}", episode)]
            else:
                takes = _of_policy(experiment, environment, request)
        for take in takes:
            made = film(environment, take.episode, take.title, folder / take.name, request.speed)
            for file in made.files:
                kept.log_file(file, FOLDER)
            length = len(take.episode.actions)
            yield f"{take.title}: return {take.episode.total_reward:.1f} in {length} steps; {made.files[0]} and .gif"
            if made.warning:
                yield f"{take.title}: {made.warning}"
        browse = ui_command(request.uri, request.outputs)
        yield f"kept with run {kept.run_id} in {FOLDER}/; browse it with: {browse}"


def _of_policy(experiment: Experiment, environment: Environment, request: Request) -> list[Take]:
    """The best, the median and the worst of some episodes: those that `python -m plexp evaluate` plays with this seed."""
    seeds = experiment.streams.later(request.seed)
    drawn = np.random.default_rng([request.seed, experiment.values["seed"]]) if request.sampled else None
    result = evaluate(experiment.agent, environment, seeds, request.episodes, drawn)
    assert result.played is not None, "environments of films have SAME_STEP resets"
    name, how = ("sampled-", " sampled") if request.sampled else ("", "")
    return [
        Take(
            f"{name}{which}-of-{request.episodes}",
            f"{which} of {request.episodes}{how}, {experiment.name}",
            result.played[place],
        )
        for which, place in extremes(result.returns).items()
    ]


def _of_training(kept: RunHandle, number: int) -> PlayedEpisode:
    if not kept.has(NAME):
        log_actions = kept.values["tracker"].get("log_actions")
        why = {None: "an older plexp has run it", False: "it was run with tracker.log_actions=false"}
        raise _no_actions(number, why.get(log_actions, "it has not ended, or its episodes have no seeds (EnvPool's)"))
    try:
        return episode_of(kept.file(NAME), number)
    except IndexError as error:
        cause = f"the run has {error} training episodes"
        raise ConfigError(
            Problem("--episode", number, cause, f"give a row of its episodes.csv, 1 to {error}")
        ) from None
    except ValueError as error:
        raise ConfigError(Problem("--episode", number, one_line(error), "leave it out to film the agent")) from None


def _no_actions(number: int, why: str) -> ConfigError:
    cause = f"the run keeps no actions of its training episodes: {why}"
    return ConfigError(Problem("--episode", number, cause, "leave it out to film the agent"))


def _writable(folder: Path) -> Path:
    """The folder, made if it is not there. Raises ConfigError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        cause = f"it cannot be written ({error.strerror})"
        raise ConfigError(Problem("--to", folder, cause, "choose a folder that can be")) from None
    return folder
