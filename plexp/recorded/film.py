"""Films of a recorded run: of episodes that its agent plays, and of its training episodes."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from plexp.envs.environment import Environment
from plexp.envs.episodes import PlayedEpisode
from plexp.envs.film import FOLDER, Film, extremes, film, with_frames
from plexp.errors import ConfigError, Problem, one_line, writing
from plexp.execution.callbacks.episode_log import NAME, episode_of
from plexp.execution.experiment import Experiment
from plexp.files import try_writing
from plexp.recorded.evaluate import playing
from plexp.recorded.restore import rebuilt, restored
from plexp.tracking.lookup import RunHandle
from plexp.training.evaluation import StepLimit, evaluate

GIVE = "give a folder that you can write: --to FOLDER"


@dataclass(frozen=True)
class Request:
    """Episodes to film, and how."""

    folder: Path
    """Folder for the files."""
    episode: int | None = None
    """Training episode to film, a row of `episodes.csv` counted from 1; None: new episodes of the trained agent."""
    episodes: int = 20
    """Number of new episodes, of which the best, the median and the worst are filmed."""
    sampled: bool = False
    """True if actions are sampled from the policy; False: the most likely one is taken."""
    seed: int = 0
    """Seed of the new episodes."""
    speed: float = 1.0
    """Speed relative to the environment's own: 2 is twice as fast."""


@dataclass(frozen=True)
class Scene:
    """An episode to film."""

    name: str
    """Name of its files, without a suffix."""
    title: str
    episode: PlayedEpisode


@dataclass(frozen=True)
class RecordedFilm:
    """A film that is recorded with its run, below `films/`."""

    title: str
    film: Film

    @property
    def files(self) -> tuple[Path, Path]:
        """The film as MP4 and as GIF."""
        return self.film.files

    def lines(self) -> list[str]:
        """Return what the command prints: return and length of the episode, and a warning if it came out another."""
        episode = self.film.episode
        played = f"return {episode.total_reward:.1f} in {len(episode.actions)} steps"
        lines = [f"{self.title}: {played}; {self.files[0]} and .gif"]
        return lines + ([f"{self.title}: {self.film.warning}"] if self.film.warning else [])

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self.files[1].read_bytes()).decode()
        caption = html.escape(self.lines()[0].partition("; ")[0])
        return f'<figure><img src="data:image/gif;base64,{picture}"><figcaption>{caption}</figcaption></figure>'


class Films(tuple[RecordedFilm, ...]):
    """Films that show in a notebook, and print as the command `plexp film` does."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def _repr_html_(self) -> str:
        return "".join(film._repr_html_() for film in self)


def film_run(
    run: RunHandle, request: Request, show: Callable[[str, float], None] = lambda what, fraction: None
) -> Iterator[RecordedFilm]:
    """Film episodes of a run one after the other, and record each film with the run as soon as it is made.

    `show` gets, after each step, what is being done, and how much of it is done, 0…1.

    Raises ConfigError and StoreError, before anything is played, for what cannot be filmed, written or recorded, and
    StoreError if the disk is full later; the films that were made by then stay.
    """
    run.check_writable("films are")
    with writing("--to", request.folder, GIVE):
        try_writing(request.folder)
    number = request.episode
    if number is not None:
        training_episode = _training_episode(run, number)
        experiment = rebuilt(run.values, run.newer)
    else:
        experiment = restored(run.values, run.file("agent.safetensors"), run.newer)
    with experiment:
        environment = with_frames(experiment.environment, experiment.config.env)
        if number is not None:
            scenes = [Scene(f"episode-{number:06d}", f"training episode {number:,}, {run.name}", training_episode)]
        else:
            scenes = _scenes(experiment, environment, request, show)
    for number, scene in enumerate(scenes, 1):
        show_film = partial(show, f"film {number} of {len(scenes)}")
        stem = request.folder / scene.name
        with writing("--to", request.folder, GIVE):
            made = film(environment, scene.episode, scene.title, stem, request.speed, show_film)
        for file in made.files:
            run.log_file(file, FOLDER)
        yield RecordedFilm(scene.title, made)


def default_folder(run: RunHandle, outputs: Path) -> Path:
    """Return the folder for the films of a run."""
    return outputs / FOLDER / f"{run.name}-{run.run_id[:8]}"


def _scenes(
    experiment: Experiment, environment: Environment, request: Request, show: Callable[[str, float], None]
) -> list[Scene]:
    """Return the best, the median and the worst of the episodes that `plexp evaluate` plays with this seed."""
    seeds = experiment.streams.later(request.seed)
    sampling = np.random.default_rng([request.seed, experiment.config.seed]) if request.sampled else None
    limit = StepLimit(experiment.config.evaluation.max_steps)
    watch = playing(request.episodes, show)
    result = evaluate(experiment.agent, environment, seeds, request.episodes, sampling, limit=limit, watch=watch)
    assert result.played is not None, "environments of films have SAME_STEP resets"
    prefix, how = ("sampled-", " sampled") if request.sampled else ("", "")
    return [
        Scene(
            f"{prefix}{which}-of-{request.episodes}",
            f"{which} of {request.episodes}{how}, {experiment.name}",
            result.played[index],
        )
        for which, index in extremes(result.returns).items()
    ]


def _training_episode(run: RunHandle, number: int) -> PlayedEpisode:
    if not run.has(NAME):
        log_actions = run.values["tracker"].get("log_actions")
        reasons = {None: "an older plexp has run it", False: "it was run with tracker.log_actions=false"}
        reason = reasons.get(log_actions, "it has not ended, or its episodes have no seeds (EnvPool's)")
        cause = f"the run keeps no actions of its training episodes: {reason}"
        raise ConfigError(Problem("--episode", number, cause, "leave it out to film the agent"))
    try:
        return episode_of(run.file(NAME), number)
    except IndexError as error:
        cause, remedy = f"the run has {error} training episodes", f"give a row of its episodes.csv, 1 to {error}"
        raise ConfigError(Problem("--episode", number, cause, remedy)) from None
    except ValueError as error:
        raise ConfigError(Problem("--episode", number, one_line(error), "leave it out to film the agent")) from None
