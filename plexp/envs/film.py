"""Films of episodes, made by re-simulating an episode from its seed and actions in an environment that renders."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plexp.envs.environment import Array, Environment
from plexp.envs.episodes import PlayedEpisode
from plexp.errors import ConfigError, Problem, one_line

if TYPE_CHECKING:
    from plexp.envs.video import Frame

FOLDER = "films"
"""Folder of a run's artifacts in MLflow that films go to."""
RATE = 30.0
"""Maximum frame rate per second; larger: smoother films that take longer to make."""

log = logging.getLogger("plexp")


@dataclass(frozen=True)
class Film:
    """The film of an episode."""

    files: tuple[Path, Path]
    """Paths of the MP4 and the GIF."""
    episode: PlayedEpisode
    """The episode as it was recorded."""
    total_reward: float
    """Return of the episode in the film; another than the recorded one if re-simulating it went differently."""

    @property
    def warning(self) -> str:
        """Warning that the film does not show the recorded episode; empty if it does."""
        return _difference(self.episode, self.total_reward)


def with_frames(environment: Environment, config: Mapping[str, Any]) -> Environment:
    """Return the same problem in environments that render frames, after rendering one to make sure; see `Filmable`.

    `config` is the configuration of the group `env`. Raises ConfigError if the problem cannot be filmed.
    """
    key, name = ("env.id", config["id"]) if "id" in config else ("env", config["plugin"])
    if not hasattr(environment, "with_frames"):
        cause, remedy = "it cannot be filmed: it has no method with_frames", "see Filmable in plexp/envs/environment.py"
        raise ConfigError(Problem(key, name, cause, remedy))
    filmable: Environment = environment.with_frames()
    try:
        with closing(filmable.make(1, lambda index, episode: 0)) as env:
            env.reset()
            frame = np.asarray((env.render() or (None,))[0])
    except ConfigError:
        raise
    except Exception as error:  # such as gymnasium's DependencyNotInstalled, which says what to install
        cause = f"it cannot be filmed ({type(error).__name__}: {one_line(error)})"
        raise ConfigError(Problem(key, name, cause, "give another environment, or no films")) from error
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        cause = f"it cannot be filmed: it renders {frame.dtype} {list(frame.shape)}, not uint8 [H, W, 3]"
        raise ConfigError(Problem(key, name, cause, "give another environment, or no films"))
    return filmable


def film(
    environment: Environment,
    episode: PlayedEpisode,
    title: str,
    stem: Path,
    speed: float = 1.0,
    watch: Callable[[float], None] | None = None,
) -> Film:
    """Re-simulate an episode, and write `stem`.mp4 and `stem`.gif.

    Args:
        environment: an environment as `with_frames` returns it.
        episode: the recorded episode.
        title: first line of the caption.
        stem: path of the files without suffix.
        speed: factor on the frame rate; 2 shows the episode twice as fast as it was.
        watch: gets, after each step, the share of the work that is done, 0…1; None: nothing.

    Raises OSError if the files cannot be written.
    """
    from plexp.envs.video import Title, record

    steps = 2 * max(1, len(episode.actions))

    def report(done: int) -> None:
        if watch is not None:
            watch(done / steps)

    total, length, rate = _resimulate(environment, episode, report)
    stride = max(1, math.ceil(rate * speed / RATE))
    frames = _frames(environment, episode, length, stride, lambda done: report(steps - length + done))
    count = math.ceil(length / stride) + 1
    files = record(frames, count, rate * speed / stride, Title(title, _difference(episode, total)), stem)
    return Film(files, episode, total)


def _difference(episode: PlayedEpisode, total: float) -> str:
    """Return how a return differs from the recorded one; empty if it does not, up to the order of summation."""
    if math.isclose(total, episode.total_reward, rel_tol=1e-9, abs_tol=1e-9):
        return ""
    return f"not the recorded episode: return {total:.1f}, recorded {episode.total_reward:.1f}"


def _resimulate(
    environment: Environment, episode: PlayedEpisode, count: Callable[[int], None]
) -> tuple[float, int, float]:
    """Return the episode's return and length when it is re-simulated, and the number of steps per second.

    `count` gets the number of steps so far.
    """
    total, length = 0.0, 0
    with closing(environment.make(1, lambda index, number: episode.seed)) as env:
        env.reset()
        for action in episode.actions:
            _, rewards, terminated, truncated, _ = env.step(_batch(env, action))
            total, length = total + float(rewards[0]), length + 1
            count(length)
            if terminated[0] or truncated[0]:
                break
        return total, length, float(env.metadata.get("render_fps") or RATE)


def _frames(
    environment: Environment, episode: PlayedEpisode, length: int, stride: int, count: Callable[[int], None]
) -> Iterator[Frame]:
    """Re-simulate the episode, and yield frames of its start, every `stride`-th step and its end.

    `count` gets the number of steps so far.
    """
    from plexp.envs.video import Frame

    total = 0.0
    with closing(environment.make(1, lambda index, number: episode.seed)) as env:
        env.reset()
        yield Frame(_render(env), 0, total)
        for step, action in enumerate(episode.actions[:length], 1):
            total += float(env.step(_batch(env, action))[1][0])
            count(step)
            if step % stride == 0 or step == length:
                yield Frame(_render(env), step, total)


def _render(env: Any) -> Array:
    frame: Array = np.asarray(env.render()[0])
    return frame


def _batch(env: Any, action: Array) -> Array:
    """Return an action as a batch of one [1, *space.shape]: floats as recorded, integers in the type of the action space."""
    action = np.asarray(action)
    return action[None] if action.dtype.kind == "f" else action[None].astype(env.single_action_space.dtype)


def middle(returns: Array) -> int:
    """Return the index of the median episode; of an even number, the lower of the two."""
    return _ordered(returns)[(len(returns) - 1) // 2]


def extremes(returns: Array) -> dict[str, int]:
    """Return the indices of the best, the median and the worst episode, as far as there are three.

    Episodes of equal return count as different ones: three episodes always give three names.
    """
    order = _ordered(returns)
    indices = {"best": order[-1], "median": middle(returns), "worst": order[0]}
    names = {1: ("best",), 2: ("best", "worst")}.get(len(order), tuple(indices))
    return {name: indices[name] for name in names}


def _ordered(returns: Array) -> list[int]:
    """Return the indices of the episodes by return, the worst first."""
    return [int(index) for index in np.argsort(returns, kind="stable")]
