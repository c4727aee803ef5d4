"""`python -m plexp film`: films of a run that is kept in MLflow, of its agent and of its training episodes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plexp import registry
from plexp.episode_log import NAME, episode_of
from plexp.episodes import PlayedEpisode
from plexp.errors import ConfigError, Problem, one_line
from plexp.evaluation import evaluate
from plexp.experiment import make
from plexp.film import FOLDER, extremes, film, filmed
from plexp.interfaces import Environment
from plexp.restored import restored
from plexp.seeding import EpisodeSeeds
from plexp.tracking_runs import KeptRun, open_run

STREAM = 6
"""Of the episodes that are played for films: neither those of training nor of any evaluation."""


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line."""

    run: str
    """See `open_run`."""
    episodes: int
    """Of which the best, the median and the worst are filmed."""
    episode: int | None
    """A training episode instead: the row of `episodes.csv`, from 1 on."""
    sampled: bool
    """Actions are drawn from the policy, as in training; otherwise its mode is taken."""
    to: Path | None
    speed: float
    outputs: Path
    uri: str | None


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
    with open_run(request.run, outputs=request.outputs, uri=request.uri) as kept:
        sheet = kept.values["env"]
        environment = filmed(make(registry.find("env", sheet["plugin"]), sheet), sheet)
        folder = _writable(request.to or request.outputs / FOLDER / kept.run_id)
        takes = _of_policy(kept, environment, request) if request.episode is None else [_of_training(kept, request.episode)]
        for take in takes:
            made = film(environment, take.episode, take.title, folder / take.name, request.speed)
            for file in made.files:
                kept.log_file(file, FOLDER)
            length = len(take.episode.actions)
            yield f"{take.title}: return {take.episode.total_reward:.1f} in {length} steps; {made.files[0]}, .gif"
            if made.warning:
                yield f"{take.title}: {made.warning}"


def _of_policy(kept: KeptRun, environment: Environment, request: Request) -> list[Take]:
    """The best, the median and the worst of some episodes, which are always the same ones."""
    experiment = restored(kept.values, kept.file("agent.safetensors"))
    try:
        seeds = EpisodeSeeds(kept.values["seed"], (STREAM,))
        result = evaluate(experiment.agent, environment, seeds, request.episodes, sampled=request.sampled)
    finally:
        experiment.training_env.close()
    assert result.played is not None, "environments of films have SAME_STEP resets"
    how = "sampled-" if request.sampled else ""
    return [
        Take(
            f"{how}{which}-of-{request.episodes}",
            f"{which} of {request.episodes}{' sampled' if request.sampled else ''}, {experiment.name}",
            result.played[place],
        )
        for which, place in extremes(result).items()
    ]


def _of_training(kept: KeptRun, number: int) -> Take:
    log_actions = kept.values["tracker"].get("log_actions")
    if log_actions is not True:
        why = "it was run with tracker.log_actions=false" if log_actions is False else "an older plexp has run it"
        raise _no_actions(number, why)
    try:
        episode = episode_of(kept.file(NAME), number)
    except FileNotFoundError:
        raise _no_actions(number, "its episodes have no seeds of their own (EnvPool's), or it has not ended") from None
    except IndexError as error:
        cause = f"the run has {error} training episodes"
        raise ConfigError(Problem("--episode", number, cause, f"give a row of its episodes.csv, 1 to {error}")) from None
    except ValueError as error:
        raise ConfigError(Problem("--episode", number, one_line(error), "leave it out to film the agent")) from None
    return Take(f"episode-{number:06d}", f"training episode {number:,}", episode)


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
