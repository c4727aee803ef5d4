"""Any environment of gymnasium."""

from __future__ import annotations

import copy
import inspect
import os
import re
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Literal

import gymnasium
from gymnasium import error as gymnasium_error
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv

from plexp import (
    ConfigError,
    EpisodeSeed,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problem,
    SeededEpisodes,
    SerialVectorEnv,
    SubprocessVectorEnv,
    make_pool,
    mask_source,
    one_line,
    register,
    stack_frames,
    unrecordable,
    with_place,
)


@register("env", "gymnasium")
class GymnasiumEnvironment:
    """An environment of gymnasium by its id, several side by side (Towers et al. 2024).

    Dict and Tuple observations become one row of their parts, which net=multi takes apart and other networks take as a
    vector; Discrete, MultiDiscrete and MultiBinary ones a vector (one-hot where discrete).
    Resets are SAME_STEP, and every episode starts from a seed of its own; with EnvPool they are NEXT_STEP, and only the
    first episode of each environment does, from whose seed the later ones follow.

    Args:
        id: `Name-v0`, or `module:Name-v0` to import a module that registers it.
        kwargs: further arguments of the environment.
        max_episode_steps: time limit of an episode; null: the environment's own.
        num_envs: environments side by side in training.
        backend: `gymnasium`, or `envpool` for the same problem in C++ (Weng et al. 2022), where EnvPool has the id.
        vectorization: `sync` steps them in turn, `async` in a process each (for slow ones).
        step_timeout: seconds that a step or reset may take before the run fails, with `async`; null: any time.
        observed: entries of a vector observation that the agent sees, such as positions without velocities; null: all.
        frame_stack: latest frames that make up an observation [k, *frame]; null: it is the last one alone.
        action_mask: where the environment says which actions are legal: in `info`, in a part of the `observation`, or `none`;
            `auto` finds that part. The policy then takes no others.
        normalize_observations: to mean 0 and deviation 1, by running statistics that belong to the agent.
        scale_rewards: divide by the running deviation of the discounted return, and clip to ±10; reported returns stay the
            environment's.
        solved_return: the mean return from which the problem counts as solved; null: there is none.
    """

    refused: ClassVar = {"check_bounds": "leave it out: observations outside their bounds are used, with a warning"}

    def __init__(
        self,
        *,
        id: str,
        kwargs: dict[str, Any],
        max_episode_steps: PositiveInt | None,
        num_envs: PositiveInt,
        backend: Literal["gymnasium", "envpool"],
        vectorization: Literal["sync", "async"],
        step_timeout: PositiveFloat | None,
        observed: list[NonNegativeInt] | None,
        frame_stack: PositiveInt | None,
        action_mask: Literal["auto", "info", "observation", "none"],
        normalize_observations: bool,
        scale_rewards: bool,
        solved_return: float | None,
    ) -> None:
        self.id, self.kwargs, self.max_episode_steps, self.num_envs = id, kwargs, max_episode_steps, num_envs
        self.backend, self.vectorization, self.step_timeout = backend, vectorization, step_timeout
        self.observed, self.frame_stack, self.action_mask = observed, frame_stack, action_mask
        self.normalize_observations, self.scale_rewards = normalize_observations, scale_rewards
        self.solved_return = solved_return
        if problems := _unusable(kwargs):
            raise ConfigError(problems)
        name = re.sub(r"-v\d+$", "", id.rpartition(":")[2])
        flags = [key for key, value in kwargs.items() if value is True]
        text = "_".join([name, *flags, *(["partial"] if observed is not None else [])]).lower()
        pattern = r"[^a-z0-9_]+" if re.search(r"[a-z0-9_]", name.lower()) else r"\W+"  # no Latin letter: any letters
        self.label = re.sub(pattern, "-", text).strip("-") or "env"

    def make(self, num_envs: int, episode_seed: EpisodeSeed) -> VectorEnv[Any, Any, Any]:
        if self.step_timeout is not None and self.vectorization != "async":
            cause, remedy = "only a process of its own can be left waiting", "give env.vectorization=async"
            raise ConfigError(Problem("env.step_timeout", self.step_timeout, cause, remedy))
        if self.backend == "envpool":
            if self.vectorization == "async":
                cause, remedy = "EnvPool steps them all itself", "give env.vectorization=sync, or env.backend=gymnasium"
                raise ConfigError(Problem("env.vectorization", "async", cause, remedy))
            if self.action_mask not in ("auto", "none"):
                cause, remedy = "EnvPool gives no masks", "give env.action_mask=none, or env.backend=gymnasium"
                raise ConfigError(Problem("env.action_mask", self.action_mask, cause, remedy))
            for key in ("observed", "frame_stack"):
                if (value := getattr(self, key)) is not None:
                    cause, remedy = "EnvPool's observations are used as they are", "give env.backend=gymnasium"
                    raise ConfigError(Problem(f"env.{key}", value, cause, remedy))
            return make_pool(self.id, self.kwargs, self.max_episode_steps, num_envs, episode_seed)
        makers = [partial(self._make_one, index, episode_seed) for index in range(num_envs)]
        if self.vectorization == "async":
            return SubprocessVectorEnv(makers, step_timeout=self.step_timeout)
        return SerialVectorEnv(makers)

    def with_frames(self) -> GymnasiumEnvironment:
        """Return the same problem with frames, from gymnasium in this process, without EnvPool or subprocesses."""
        if not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or pygame complains that there is none
        filmed = copy.copy(self)
        filmed.backend, filmed.vectorization, filmed.step_timeout = "gymnasium", "sync", None
        filmed.kwargs = {key: value for key, value in self.kwargs.items() if key != "render_mode"}
        env = filmed.make(1, lambda index, episode: 0)
        env.close()
        modes = env.metadata.get("render_modes") or []
        if "rgb_array" not in modes:
            cause = f"it cannot be filmed: its render modes are {', '.join(map(str, modes)) or 'none'}"
            raise ConfigError(Problem("env.id", self.id, cause, "films need an environment with rgb_array"))
        filmed.kwargs["render_mode"] = "rgb_array"
        return filmed

    def _make_one(self, index: int, episode_seed: EpisodeSeed) -> gymnasium.Env[Any, Any]:
        limit, kwargs = self.max_episode_steps, copy.deepcopy(self.kwargs)  # which an environment may change
        try:
            env = gymnasium.make(self.id, max_episode_steps=limit, disable_env_checker=True, **kwargs)
        except gymnasium_error.DependencyNotInstalled as error:
            raise ConfigError(Problem("env.id", self.id, "a package is missing", one_line(error))) from error
        except gymnasium_error.UnregisteredEnv as error:
            raise ConfigError(Problem("env.id", self.id, "there is no such environment", _suggest(self.id))) from error
        except ModuleNotFoundError as error:
            module = error.name or self.id.partition(":")[0]
            remedy = f"pip install the package that holds {module}"
            raise ConfigError(Problem("env.id", self.id, f"the module {module} is missing", remedy)) from error
        except (Exception, SystemExit) as error:
            own = error.__cause__ if type(error.__cause__) is type(error) else error  # gymnasium repeats a TypeError
            cause = f"cannot be made: {type(own).__name__}: {with_place(own)}"
            raise ConfigError(Problem("env.id", self.id, cause, _remedy(self.id, own))) from error
        if self.observed is not None:
            env = _observing(env, self.observed)
        if self.frame_stack is not None:
            env = stack_frames(env, self.frame_stack)
        return SeededEpisodes(env, index, episode_seed, mask_source(env, self.action_mask))


def _observing(env: gymnasium.Env[Any, Any], entries: list[int]) -> gymnasium.Env[Any, Any]:
    """Return an environment that shows some entries of its observations only. Raises ConfigError where it cannot."""
    space = env.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(Problem("env.observed", entries, f"the observations are {space}, no vector", "leave it out"))
    if not entries or len({*entries}) < len(entries) or max(entries) >= space.shape[0]:
        cause = f"the observations have {space.shape[0]} entries"
        raise ConfigError(Problem("env.observed", entries, cause, f"give some of 0 to {space.shape[0] - 1}, each once"))
    seen = gymnasium.spaces.Box(space.low[entries], space.high[entries], dtype=space.dtype.type)
    return gymnasium.wrappers.TransformObservation(env, lambda observation: observation[entries], seen)


def _unusable(kwargs: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with the arguments, whatever the environment is."""
    others = {
        "id": "give env.id",
        "max_episode_steps": "give env.max_episode_steps",
        "disable_env_checker": "leave it out",
    }
    taken = [
        Problem(f"env.kwargs.{key}", kwargs[key], "this argument is gymnasium.make's", remedy)
        for key, remedy in others.items()
        if key in kwargs
    ]
    cause, remedy = "has no exact record", "give numbers, texts, true, false, null, and lists and mappings of these"
    parts = unrecordable(kwargs, "env.kwargs")
    return taken + [Problem(key, ..., f"{type(part).__name__} {cause}", remedy) for key, part in parts]


def _remedy(id: str, error: BaseException) -> str:
    """Return the remedy for an environment that cannot be made: what its constructor takes, where an argument is wrong."""
    if isinstance(error, gymnasium_error.Error) or id.count(":") > 1:
        return "give Name-v0, or module:Name-v0"
    if isinstance(error, TypeError) and "argument" in str(error):
        with suppress(Exception):  # it is made by something that has no signature
            entry_point = gymnasium.spec(id.rpartition(":")[2]).entry_point
            maker = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
            return f"it takes {inspect.signature(maker)}"  # type: ignore[arg-type]
    return "see env.kwargs"


def _suggest(name: str) -> str:
    import difflib

    namespace, slash, _ = name.rpartition(":")[2].partition("/")
    if slash and not any(known.startswith(f"{namespace}/") for known in gymnasium.registry):
        return f"pip install the package that holds {namespace}/, and give env.id=its_module:{name.rpartition(':')[2]}"
    close = difflib.get_close_matches(name, list(gymnasium.registry), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "see gymnasium.pprint_registry(), or give module:Name-v0"
