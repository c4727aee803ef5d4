"""Films of episodes. An episode is its seed and its actions, so each film is one played again where it can be seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plexp.envs.environment import Environment
from plexp.envs.episodes import Array, PlayedEpisode
from plexp.errors import ConfigError, Problem, one_line

if TYPE_CHECKING:
    from plexp.envs.video import Frame


FOLDER = "films"
"""Of a run's artifacts in MLflow."""
RATE = 30.0
"""Frames a second at most; a larger one is smoother, and takes longer to make."""

log = logging.getLogger("plexp")


@dataclass(frozen=True)
class Film:
    """An episode that was filmed."""

    files: tuple[Path, Path]
    """MP4 and GIF."""
    episode: PlayedEpisode
    total_reward: float
    """Of what is to be seen."""

    @property
    def warning(self) -> str:
        """Empty if what is to be seen is the episode that was played."""
        return _warning(self.episode, self.total_reward)


def filmed(environment: Environment, sheet: Mapping[str, Any]) -> Environment:
    """The same problem with frames, of which one has been seen. `sheet`: its configuration.

    Raises ConfigError if it cannot be filmed.
    """
    key, name = ("env.id", sheet["id"]) if "id" in sheet else ("env", sheet["plugin"])
    if not hasattr(environment, "filmed"):
        cause, remedy = "it cannot be filmed: it has no method `filmed`", "see Filmable in plexp/training/interfaces.py"
        raise ConfigError(Problem(key, name, cause, remedy))
    found: Environment = environment.filmed()
    try:
        with closing(found.make(1, lambda index, episode: 0)) as env:
            env.reset()
            frame = np.asarray((env.render() or (None,))[0])
    except ConfigError:
        raise
    except Exception as error:  # such as gymnasium's DependencyNotInstalled, which says what to install
        cause = f"it cannot be filmed ({type(error).__name__}: {one_line(error)})"
        raise ConfigError(Problem(key, name, cause, "give another environment, or no films")) from error
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        cause = f"it cannot be filmed: what it renders is {frame.dtype} {list(frame.shape)}, and no [H, W, 3] of uint8"
        raise ConfigError(Problem(key, name, cause, "give another environment, or no films"))
    return found


def film(environment: Environment, episode: PlayedEpisode, title: str, stem: Path, speed: float = 1.0) -> Film:
    """Play an episode again in such an environment as `filmed` gives, and write `stem`.mp4 and `stem`.gif.

    `speed`: 2 is twice as fast as it was. Raises OSError if they cannot be written.
    """
    from plexp.envs.video import Title, record

    total, length, rate = _replayed(environment, episode)
    stride = max(1, math.ceil(rate * speed / RATE))
    moments = _moments(environment, episode, length, stride)
    count = math.ceil(length / stride) + 1
    files = record(moments, count, rate * speed / stride, Title(title, _warning(episode, total)), stem)
    return Film(files, episode, total)


def _warning(episode: PlayedEpisode, total: float) -> str:
    """Sums of the same rewards in another order differ in their last digits."""
    if math.isclose(total, episode.total_reward, rel_tol=1e-9, abs_tol=1e-9):
        return ""
    return f"not as it was played: return {total:.1f}, recorded {episode.total_reward:.1f}"


def _replayed(environment: Environment, episode: PlayedEpisode) -> tuple[float, int, float]:
    """Its return and length if it is played again, and how many steps make a second."""
    total, length = 0.0, 0
    with closing(environment.make(1, lambda index, number: episode.seed)) as env:
        env.reset()
        for action in episode.actions:
            _, rewards, terminated, truncated, _ = env.step(_batch(env, action))
            total, length = total + float(rewards[0]), length + 1
            if terminated[0] or truncated[0]:
                break
        return total, length, float(env.metadata.get("render_fps") or RATE)


def _moments(environment: Environment, episode: PlayedEpisode, length: int, stride: int) -> Iterator[Frame]:
    """Its start, every `stride`-th step and its end, one after the other."""
    from plexp.envs.video import Frame

    total = 0.0
    with closing(environment.make(1, lambda index, number: episode.seed)) as env:
        env.reset()
        yield Frame(_frame(env), 0, total)
        for step, action in enumerate(episode.actions[:length], 1):
            total += float(env.step(_batch(env, action))[1][0])
            if step % stride == 0 or step == length:
                yield Frame(_frame(env), step, total)


def _frame(env: Any) -> Array:
    frame: Array = np.asarray(env.render()[0])
    return frame


def _batch(env: Any, action: Array) -> Array:
    """[1, *space.shape] as the environment got it in training: floats as they were, integers as wide as its space's."""
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
