"""Checks what an environment returns, where it returns it, and says what came and what was expected."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, OrderEnforcing, PassiveEnvChecker, TimeLimit

from plexp.envs.environment import Array
from plexp.envs.packing import PackObservation, UnpackAction
from plexp.errors import Unusable

NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64, np.int32})
"""Types of rewards that need no second look."""
FLAGS = frozenset({bool, np.bool_})
"""Types of `terminated` and `truncated` that need no second look."""
NUMERIC = "biuf"
"""Kinds of NumPy's dtypes that are numbers."""
OLD = "as gymnasium has it, and gym before 0.26 had not"


class CheckedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that checks what `reset` and `step` of an environment return, and passes it on in gymnasium's form.

    What has that form passes as it is. What can be understood without a loss is converted: other numbers than the space's
    that fit its dtype, lists, a reward or an end in an array of one. Numbers that are not finite, and those outside the
    bounds of a Box, are looked for in whole rollouts; see plexp/envs/faults.py.

    Raises Unusable for anything else.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.space = env.observation_space
        self.is_box = isinstance(self.space, spaces.Box)
        self.shape, self.dtype = (self.space.shape, self.space.dtype) if self.is_box else (None, None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        result: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Unusable(f"{_several(result)}; expected (observation, info), {OLD}")
        return as_in(self.space, result[0]), _info(result[1])

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        result: Any = self.env.step(action)
        if result.__class__ is tuple and len(result) == 5:
            observation, reward, terminated, truncated, info = result
            if (
                observation.__class__ is np.ndarray
                and observation.dtype is self.dtype
                and observation.shape == self.shape
                and reward.__class__ in NUMBERS
                and terminated.__class__ in FLAGS
                and truncated.__class__ in FLAGS
                and info.__class__ is dict
            ):
                return result
        if not isinstance(result, tuple | list) or len(result) != 5:
            names = "(observation, reward, terminated, truncated, info)"
            raise Unusable(f"{_several(result)}; expected {names}, {OLD}")
        observation, reward, terminated, truncated, info = result
        ends = _flag("terminated", terminated), _flag("truncated", truncated)
        return as_in(self.space, observation), _reward(reward), *ends, _info(info)


def checked(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return the environment with a CheckedEnv beneath the wrappers that gymnasium put around it.

    It takes the place of OrderEnforcing: vector environments reset before they step.
    """
    outer: list[gymnasium.Wrapper[Any, Any, Any, Any]] = []
    while type(env) in (
        PackObservation,
        UnpackAction,
        FlattenObservation,
        TimeLimit,
        OrderEnforcing,
        PassiveEnvChecker,
    ):
        outer.append(env)  # type: ignore[arg-type]
        env = env.env  # type: ignore[attr-defined]
    inner: gymnasium.Env[Any, Any] = CheckedEnv(env)
    for wrapper in reversed(outer):
        if not isinstance(wrapper, OrderEnforcing | PassiveEnvChecker):
            wrapper.env = inner
            inner = wrapper
    return inner


def as_in(space: spaces.Space[Any], value: Any, name: str = "observation") -> Any:
    """Return an observation as its space has it, and without a copy where it is so.

    Raises Unusable for another shape, for what is no number or does not fit the dtype, and for a choice that the space
    does not have. A Box's bounds do not matter.
    """
    is_array = isinstance(space, spaces.Box) and value.__class__ is np.ndarray
    if is_array and value.dtype == space.dtype and value.shape == space.shape:
        return value
    match space:
        case spaces.Dict():
            if not isinstance(value, Mapping) or not space.spaces.keys() <= value.keys():
                came = f"the keys {abridged(list(value))}" if isinstance(value, Mapping) else kind_of(value)
                raise Unusable(f"{came} as {name}; expected a dict with the keys {abridged(list(space.spaces))}")
            return {key: as_in(part, value[key], f"{name}[{key!r}]") for key, part in space.spaces.items()}
        case spaces.Tuple():
            if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
                raise Unusable(f"{kind_of(value)} as {name}; expected a tuple of {len(space.spaces)}")
            parts = zip(space.spaces, value, strict=True)
            return tuple(as_in(part, item, f"{name}[{i}]") for i, (part, item) in enumerate(parts))
        case spaces.Discrete():
            choice = _numbers(value)
            first, last = int(space.start), int(space.start + space.n - 1)
            if choice is None or choice.size != 1 or choice.item() % 1 or not first <= choice.item() <= last:
                raise Unusable(f"{name} = {abridged(value)}; expected an integer from {first} to {last}")
            return np.int64(choice.item())
    array = _numbers(value)
    if array is None or array.shape != space.shape:
        raise Unusable(f"{kind_of(value)} as {name}; expected {space.dtype} numbers of shape {space.shape}")
    wrong = None
    try:
        with np.errstate(over="raise", invalid="ignore"):
            numbers = array.astype(space.dtype, copy=False)
    except FloatingPointError:
        wrong = np.abs(array) > np.finfo(space.dtype).max
    else:
        if isinstance(space, spaces.MultiDiscrete):
            wrong = (numbers != array) | (numbers < space.start) | (numbers >= space.start + space.nvec)
        elif isinstance(space, spaces.MultiBinary):
            wrong = (array != 0) & (array != 1)
        elif numbers.dtype.kind in "iu":
            wrong = numbers != array
        if wrong is None or not wrong.any():
            return numbers
    expected = f"numbers that fit {space.dtype}" if isinstance(space, spaces.Box) else f"integers of {space}"
    raise Unusable(f"{name}{entry(array, wrong)}; expected {expected}")


def entry(array: Array, is_wrong: Array) -> str:
    """Return index and value of the first entry that is wrong: `[2] = nan`; without an index for a single number."""
    index = tuple(int(i) for i in np.argwhere(is_wrong)[0])
    return f"{list(index) if index else ''} = {array[index]}"


def abridged(value: object) -> str:
    """Return a value as text in one line, cut where it is long."""
    if isinstance(value, np.ndarray):
        return " ".join(np.array2string(value, threshold=8, edgeitems=3).split())
    if isinstance(value, np.generic):
        return str(value)
    return " ".join(reprlib.repr(value).split())


def kind_of(value: object) -> str:
    """Return what kind of thing a value is: an array's shape, the text of what is short, else its type."""
    if isinstance(value, np.ndarray):
        return f"an array of {'shape' if value.dtype.kind in NUMERIC else value.dtype} {value.shape}"
    if value is None or isinstance(value, str | bool | int | float | np.generic):
        return abridged(value)
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict) else ""
    return f"a {type(value).__name__}{size}"


def _several(result: object) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else kind_of(result)


def _numbers(value: object) -> Array | None:
    """Return a value as an array of numbers; None if it is something else."""
    try:
        array = np.asarray(value)
    except Exception:  # nested lists of different lengths, or an object's own __array__
        return None
    return array if array.dtype.kind in NUMERIC else None


def _reward(reward: Any) -> Any:
    if reward.__class__ in NUMBERS:
        return reward
    array = _numbers(reward)
    if array is None or array.size == 0:
        raise Unusable(f"{kind_of(reward)} as reward; expected one number")
    if array.size > 1:
        raise Unusable(
            f"{kind_of(array)} as reward; expected one number for one objective (weigh several in a wrapper)"
        )
    return float(array.item())


def _flag(name: str, value: Any) -> Any:
    if value.__class__ in FLAGS:
        return value
    array = _numbers(value)
    if array is None or array.size != 1 or array.item() not in (0, 1):
        raise Unusable(f"{kind_of(value)} as {name}; expected True or False")
    return bool(array.item())


def _info(info: Any) -> dict[str, Any]:
    if not isinstance(info, Mapping):
        raise Unusable(f"{kind_of(info)} as info; expected a dict")
    return info  # type: ignore[return-value]
