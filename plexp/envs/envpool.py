"""Vector environment of EnvPool, which steps many of gymnasium's problems in C++."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from plexp.envs.environment import Array, EpisodeSeed
from plexp.errors import ConfigError, Problem, one_line

DEFAULT = "give env.backend=gymnasium"
COMMON = "num_envs batch_size num_threads max_num_players thread_affinity_offset base_path seed env_seed"
OURS = {*COMMON.split(), "gym_reset_return_info", "max_episode_steps", "reward_threshold"}
"""Arguments of EnvPool that are set here or by other keys, not by env.kwargs."""


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """Vector environment of N EnvPool environments (Weng et al. 2022), in their order, with NEXT_STEP resets.

    The step after an episode's end only resets: its action is not played and it pays 0. Where an episode ends of itself
    in the very step of the time limit, EnvPool calls it truncated and not terminated.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, make: Callable[[list[int]], Any], episode_seed: EpisodeSeed, num_envs: int) -> None:
        self.make, self.episode_seed = make, episode_seed
        self.restart([0] * num_envs)
        pool = self.pool
        self.num_envs = int(pool.num_envs)
        self.single_observation_space = _mended(pool.single_observation_space)
        self.single_action_space = pool.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def restart(self, episodes: Sequence[int]) -> None:
        """Restart with the seeds of these episodes, one per environment; those of later episodes follow from them."""
        seeds = [self.episode_seed(i, k) >> 1 for i, k in enumerate(episodes)]  # EnvPool's are 31 bits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it gives float32 spaces bounds in float64, which gymnasium remarks upon
            self.pool = self.make(seeds)
            getattr(self.pool, "observation_space", None)  # which it makes when it is first asked

    def reset(self, *, seed: int | list[int] | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """New episodes everywhere; the seeds are those that the pool was made with."""
        observations, info = self.pool.reset()
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step with actions [N, *act] of any dtype; rewards are float64, as gymnasium's are."""
        observations, rewards, terminated, truncated, info = self.pool.step(actions)
        return observations, rewards.astype(np.float64), terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """End the pool's threads, which its own `close` does not: they go with the object."""
        self.pool = None


def make_pool(
    id: str, kwargs: Mapping[str, Any], max_episode_steps: int | None, num_envs: int, episode_seed: EpisodeSeed
) -> VectorEnv[Any, Any, Any]:
    """Return EnvPool's version of a problem of gymnasium, under the id that EnvPool has for it.

    Later episodes go on from the seed of their environment's first, as EnvPool takes no more. Raises ConfigError where
    EnvPool is missing, or has no such environment or argument.
    """
    envpool = _import()
    name, kwargs = _translate(id, kwargs)
    known = envpool.list_all_envs()
    if name not in known:
        raise _refusal(f"EnvPool has no {name}", _close("env.id=", name, known))
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    # One thread: a run has one core. It changes the speed alone, as each environment draws from a generator of its own.
    sizes = {"num_envs": num_envs, "batch_size": num_envs, "num_threads": 1}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it gives float32 spaces bounds in float64, which gymnasium remarks upon
            config = envpool.make_spec(name).config._asdict()
            _check(name, kwargs, config)

            def make(seeds: list[int]) -> Any:
                return envpool.make_gymnasium(name, seed=seeds, **sizes, **limit, **kwargs)

            env = EnvPoolVectorEnv(make, episode_seed, num_envs)
    except ConfigError:
        raise
    except Exception as error:
        text = one_line(error).partition(" The following argument types")[0]
        raise _refusal(f"EnvPool cannot make {name} ({type(error).__name__}: {text})", "see env.kwargs, or ") from error
    return _flat(name, env)


def _import() -> Any:
    try:
        return importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        missing = error.name or "envpool"
        remedy = 'pip install "plexp[envpool]"'
        raise ConfigError(Problem("env.backend", "envpool", f"the package {missing} is missing", remedy)) from error
    except Exception as error:
        raise _refusal(f"it does not import ({type(error).__name__}: {one_line(error)})") from error


def _translate(id: str, kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return EnvPool's id of the problem, and the arguments that the id does not imply."""
    rest = dict(kwargs)
    if id.startswith("LunarLander-") and isinstance(rest.get("continuous"), bool):
        id = id.replace("-", "Continuous-", 1) if rest.pop("continuous") else id
        rest.pop("continuous", None)
    return id, rest


def _check(name: str, kwargs: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if config["max_num_players"] > 1:
        raise _refusal(f"{name} has several players at once")
    taken = [key for key in config if key not in OURS]
    cause = f"EnvPool's {name} takes no such argument"
    problems = [
        Problem(f"env.kwargs.{key}", value, cause, _close("env.kwargs.", key, taken) + DEFAULT)
        for key, value in kwargs.items()
        if key not in taken
    ]
    if problems:
        raise ConfigError(problems)


def _flat(name: str, env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Return the environment with discrete and composite observations flattened to a vector."""
    space = env.single_observation_space
    if isinstance(space, spaces.Box):
        return env
    if not isinstance(space, spaces.Space) or not space.is_np_flattenable:
        env.close()
        raise _refusal(f"the observation space {space} of {name} does not flatten")
    from gymnasium.wrappers.vector import FlattenObservation

    return FlattenObservation(env)


def _mended(space: Any) -> Any:
    """Return the space with infinite bounds where EnvPool gives the smallest positive or the largest float instead."""
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    limits = np.finfo(space.low.dtype)
    low = np.where(space.low == limits.tiny, -np.inf, space.low).astype(space.low.dtype)
    high = np.where(space.high == limits.max, np.inf, space.high).astype(space.high.dtype)
    return spaces.Box(low, high, space.shape, space.low.dtype.type)


def _refusal(cause: str, instead: str = "") -> ConfigError:
    return ConfigError(Problem("env.backend", "envpool", cause, instead + DEFAULT))


def _close(prefix: str, word: str, words: list[str]) -> str:
    """Return the remedy that suggests the closest word; empty if none is close."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.7)
    return f"give {prefix}{close[0]}, or " if close else ""
