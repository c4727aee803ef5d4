"""Packs Dict and Tuple observations, and masks of legal actions, into one array each; see plexp/nn/layout.py."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from plexp.envs.environment import Array
from plexp.errors import ConfigError, Problem, Unusable
from plexp.nn.layout import LEGAL, MASK, Layout, PartKind

log = logging.getLogger("plexp")

MaskSource: TypeAlias = Literal["info", "observation", "none"]
"""Place in which an environment says which actions are legal: `info["action_mask"]`, the part `action_mask` of a Dict
observation, or none."""


class PackedSpace(spaces.Box):
    """Space of observations that were packed into rows.

    Args:
        space: space of the observations as the environment gives them.
        mask: where masks of legal actions come from.
        sizes: number of choices of each entry of an action; empty where there are no masks.
    """

    def __init__(self, space: spaces.Space[Any], mask: MaskSource, sizes: Sequence[int]) -> None:
        leaves = [leaf for leaf in _leaves(space) if mask == "none" or leaf[1] != (MASK,)]
        self.leaves = [(path, leaf) for _, path, leaf in leaves]
        parts: list[tuple[str, PartKind, tuple[int, ...]]] = [(name, *_kind(leaf)) for name, _, leaf in leaves]
        if mask != "none":
            parts.append((LEGAL, "mask", (sum(sizes),)))
        self.mask, self.layout = mask, Layout(parts)
        layout = self.layout
        low, high, self.numbers = _bounds(layout, [leaf for _, leaf in self.leaves])
        """Bounds [2, D] of the entries that `Layout.numbers` returns; of rows of bytes the bounds say nothing."""
        super().__init__(low, high, (layout.size,), np.uint8 if layout.is_bytes else np.float32)

    def pack(self, observation: Any, legal: Array | None = None) -> Array:
        """Return an observation as a row; `legal` [n] is its mask, where there are masks."""
        values = []
        for path, leaf in self.leaves:
            value = observation
            for key in path:
                value = value[key]
            values.append(np.asarray(spaces.flatten(leaf, value)))
        return self.layout.pack(values if legal is None else [*values, legal])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedSpace) and self.layout == other.layout and super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


class PackObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper whose observations are rows of a PackedSpace.

    Args:
        env: the environment, with any observations that can be flattened.
        mask: where it says which actions are legal.

    Raises Unusable, in `reset` and `step`, for a mask that is missing, is not of zeros and ones, or allows no action.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], mask: MaskSource) -> None:
        super().__init__(env)
        self.mask, self.sizes = mask, choices(env.action_space) if mask != "none" else []
        self.space = self.observation_space = PackedSpace(env.observation_space, mask, self.sizes)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Reset the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._pack(observation, info, has_terminated=False), info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._pack(observation, info, bool(terminated)), reward, terminated, truncated, info

    def _pack(self, observation: Any, info: Mapping[str, Any], has_terminated: bool) -> Array:
        if self.mask == "none":
            return self.space.pack(observation)
        return self.space.pack(observation, self._legal(observation, info, has_terminated))

    def _legal(self, observation: Any, info: Mapping[str, Any], has_terminated: bool) -> Array:
        """Return the mask [n], bool; after a terminated episode, where it may be missing or all zero, all are legal."""
        where = f"info[{MASK!r}]" if self.mask == "info" else f"observation[{MASK!r}]"
        given = info.get(MASK) if self.mask == "info" else observation[MASK]
        total = sum(self.sizes)
        if given is None:
            if has_terminated:
                return np.ones(total, np.bool_)
            raise Unusable(f"no {where}; expected {total} entries of 0 and 1 after every reset and step")
        parts = given if isinstance(given, tuple | list) and len(given) == len(self.sizes) > 1 else (given,)
        mask = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
        if mask.shape != (total,) or mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all():
            raise Unusable(f"{where} = {np.array2string(mask, threshold=8)}; expected {total} entries of 0 and 1")
        legal = mask.astype(np.bool_)
        if all(part.any() for part in np.split(legal, np.cumsum(self.sizes)[:-1])):
            return legal
        if has_terminated:
            return np.ones(total, np.bool_)
        raise Unusable(
            f"{where} that allows no action; expected one legal action at least, until the episode has terminated"
        )


class PackedActions(spaces.Box):
    """Space of the actions of a Dict or Tuple space as rows of numbers, those of its parts one after the other."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        bounds = [_action_bounds(leaf) for _, _, leaf in _leaves(space)]
        low, high = (np.concatenate([bound[i] for bound in bounds]) for i in range(2))
        super().__init__(low, high, low.shape, np.float64)

    @property
    def parts(self) -> list[spaces.Space[Any]]:
        """Spaces of the parts, in their order."""
        return [leaf for _, _, leaf in _leaves(self.space)]

    def unpack(self, row: Array) -> Any:
        """Return an action as the environment takes it."""
        return _unpacked(iter(row), self.space)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedActions) and self.space == other.space

    __hash__ = None  # type: ignore[assignment]


class UnpackAction(gymnasium.ActionWrapper[Any, Any, Any]):
    """Wrapper of an environment with Dict or Tuple actions that takes them as rows of `PackedActions`."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = self.packed = PackedActions(env.action_space)

    def action(self, action: Array) -> Any:
        """Return the action of a row."""
        return self.packed.unpack(action)


def _unpacked(numbers: Iterator[float], space: spaces.Space[Any]) -> Any:
    """Return an action of a space from the next of some numbers."""
    if isinstance(space, spaces.Dict):
        return {key: _unpacked(numbers, part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_unpacked(numbers, part) for part in space.spaces)
    values = np.fromiter(itertools.islice(numbers, int(np.prod(space.shape or ()))), np.float64)
    rounded = values if np.issubdtype(space.dtype, np.floating) else np.rint(values)
    array = rounded.astype(space.dtype).reshape(space.shape or ())
    return array[()] if isinstance(space, spaces.Discrete) else array


def _action_bounds(space: spaces.Space[Any]) -> tuple[Array, Array]:
    """Return the least and the largest value of each number of an action of a space; (0, 0) where it has none."""
    match space:
        case spaces.Discrete():
            return np.array([float(space.start)]), np.array([float(space.start + space.n - 1)])
        case spaces.MultiDiscrete():
            start = space.start.reshape(-1).astype(np.float64)
            return start, start + space.nvec.reshape(-1) - 1
        case spaces.MultiBinary():
            return np.zeros(int(np.prod(space.shape))), np.ones(int(np.prod(space.shape)))
        case spaces.Box():
            return space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    return np.zeros(1), np.zeros(1)  # of a space that is refused, with its name, where a policy is made


def choices(space: spaces.Space[Any]) -> list[int]:
    """Return the number of choices of each entry of an action; an empty list for actions that are no choices."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec.reshape(-1)] if isinstance(space, spaces.MultiDiscrete) else []


def mask_source(env: gymnasium.Env[Any, Any], wanted: Literal["auto", "info", "observation", "none"]) -> MaskSource:
    """Return where an environment has its masks; `auto` finds those in observations.

    Raises ConfigError for masks that the environment does not have.
    """
    if wanted == "none":
        return "none"
    total = sum(choices(env.action_space))
    space = env.observation_space
    is_part = isinstance(space, spaces.Dict) and MASK in space.spaces and _size(space[MASK]) == total
    if wanted != "auto":
        problem = None
        if not total:
            problem = "its actions are not Discrete or MultiDiscrete", "give env.action_mask=none"
        elif wanted == "observation" and not is_part:
            cause = f"its observations have no part {MASK} of {total} entries"
            problem = cause, "give env.action_mask=info, none, or a Dict observation with that part"
        if problem is not None:
            raise ConfigError(Problem("env.action_mask", wanted, *problem))
        return wanted
    return "observation" if is_part and total else "none"


@cache
def tell_of_mask(name: str) -> None:
    """Warn, once in a process, that an environment has masks which are not used."""
    if multiprocessing.parent_process() is None:
        log.warning("%s: its info has an %s, which is not used; give env.action_mask=info to use it", name, MASK)


def _size(space: spaces.Space[Any]) -> int:
    """Return the number of entries of an array of bits or numbers; 0 for another space."""
    return int(np.prod(space.shape)) if isinstance(space, spaces.Box | spaces.MultiBinary) else 0


def _leaves(
    space: spaces.Space[Any], path: tuple[Any, ...] = ()
) -> Iterator[tuple[str, tuple[Any, ...], spaces.Space[Any]]]:
    """Yield name, path and space of each part of a space that is no Dict or Tuple itself."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from _leaves(part, (*path, key))
    else:
        yield "/".join(map(str, path)) or "observation", path, space


def _kind(space: spaces.Space[Any]) -> tuple[PartKind, tuple[int, ...]]:
    """Return kind and shape of a part."""
    match space:
        case spaces.Box() if space.dtype == np.uint8 and len(space.shape) == 3:
            return "image", space.shape
        case spaces.Box() | spaces.MultiBinary():
            return "numbers", tuple(space.shape)
    return "choices", (spaces.flatdim(space),)


def _bounds(layout: Layout, leaves: Sequence[spaces.Space[Any]]) -> tuple[Array, Array, Array]:
    """Return the bounds of the entries of a row, and those of its numbers, [2, D]."""
    boxes: list[Any] = [spaces.flatten_space(leaf) for leaf in leaves]
    parts = list(zip(layout.parts.values(), boxes, strict=False))  # the mask, if there is one, is the last part
    low, high = np.zeros(layout.size, layout.dtype), np.full(layout.size, 255 if layout.is_bytes else 1, layout.dtype)
    with np.errstate(over="ignore"):
        numbers = [np.stack([box.low, box.high]).astype(np.float32) for part, box in parts if part.kind == "numbers"]
        if not layout.is_bytes:
            for part, box in parts:
                low[part.start : part.stop], high[part.start : part.stop] = box.low, box.high
    return low, high, np.concatenate([np.empty((2, 0), np.float32), *numbers], 1)
