"""Converts gymnasium's spaces to what the agent is built from; raises ConfigError for unsupported ones."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium
import gymnasium.spaces as spaces
import numpy as np
import torch
from gymnasium.wrappers import FlattenObservation

from plexp.envs.packing import MaskSource, PackedActions, PackedSpace, PackObservation, UnpackAction
from plexp.envs.stacking import StackedSpace
from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import (
    ActionDistribution,
    Bernoulli,
    Categorical,
    Composite,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)
from plexp.nn.layout import Layout

MOST_CHOICES = 4096
"""Integers of a Box, of all its dimensions together, up to which the policy has a logit for each; larger: more memory."""
READABLE = "Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of these"
HOW = "register that as Name-v0 in a module, and give env.id=module:Name-v0"
NARROWEST = 0.1
"""Width of an action, in standard deviations of the first policy, below which nearly every action is clipped."""


def action_distribution(space: spaces.Space[Any], bounds: Literal["clip", "tanh"]) -> ActionDistribution:
    """Return the distribution that the policy has over an action space; each integer of a Box is a choice.

    Raises ConfigError for an unsupported space, and for `bounds=tanh` on a Box without finite bounds.
    """
    match space:
        case PackedActions():
            return Composite([action_distribution(part, bounds) for part in space.parts])
        case spaces.Discrete():
            return Categorical(int(space.n), int(space.start), _dtype(space))
        case spaces.MultiDiscrete():
            return MultiCategorical(space.nvec, space.start, _dtype(space))
        case spaces.MultiBinary():
            return Bernoulli(space.shape)
        case spaces.Box() if _number_of_choices(space) <= MOST_CHOICES:
            low, high = space.low.astype(np.int64), space.high.astype(np.int64)
            return MultiCategorical(high - low + 1, low, _dtype(space))
        case spaces.Box() if space.dtype in (np.float16, np.float32, np.float64):
            if bounds == "clip":
                return DiagonalGaussian(space.low, space.high)
            with np.errstate(over="ignore"):
                widths = space.high.astype(np.float32) - space.low.astype(np.float32)
            if np.isfinite(widths).all():
                return SquashedGaussian(space.low, space.high)
            remedy = "give policy.bounds=clip"
            raise ConfigError(
                Problem("policy.bounds", bounds, f"tanh needs finite bounds, and the actions are {space}", remedy)
            )
    supported = f"Discrete, Box of floats, MultiDiscrete, MultiBinary, Box of at most {MOST_CHOICES:,} integers"
    supported += ", or Dict or Tuple of these"
    cause = f"the action space {described(space)} is not supported"
    raise ConfigError(Problem("env", ..., cause, f"wrap it into {supported}, {HOW}"))


def _number_of_choices(space: spaces.Box) -> float:
    """Return the number of integers in all dimensions of a Box; infinity for one of floats."""
    if not np.issubdtype(space.dtype, np.integer):
        return math.inf
    return float((space.high.astype(np.float64) - space.low.astype(np.float64) + 1).sum())


def _dtype(space: spaces.Space[Any]) -> torch.dtype:
    """Return the type of a space's actions."""
    return torch.from_numpy(np.zeros(1, space.dtype)).dtype


def mismatch_of_scale(space: spaces.Space[Any], std: float) -> str:
    """Return how the bounds of a Box of actions disagree with a policy that starts at 0 ± `std`; empty if they do not.

    They do where the policy starts more than one standard deviation outside, or where a dimension is so narrow that nearly
    every action is clipped. Dimensions without finite bounds, or of zero width, agree with any policy.
    """
    if isinstance(space, PackedActions):
        return next(filter(None, (mismatch_of_scale(part, std) for part in space.parts)), "")
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return ""
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    is_bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    with np.errstate(invalid="ignore"):
        indices = np.flatnonzero(is_bounded & ((low > std) | (high < -std) | (high - low < NARROWEST * std)))
    if not len(indices):
        return ""
    i = indices[0]
    return f"action {i} lies in [{low[i]:g}, {high[i]:g}], and the policy starts at 0 ± {std:g}"


def observation_shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Return the shape of one observation.

    Raises ConfigError for a space other than Box: env plugins flatten Dict, Tuple and Discrete observations.
    """
    if isinstance(space, spaces.Box) and space.shape:
        return space.shape
    cause = f"the observation space {described(space)} is not supported"
    raise ConfigError(Problem("env", ..., cause, f"wrap it into {READABLE}, {HOW}"))


def flattened(env: gymnasium.Env[Any, Any], mask: MaskSource = "none") -> gymnasium.Env[Any, Any]:
    """Return an environment whose observations are one array: Dict and Tuple ones packed, discrete ones flattened.

    Dict and Tuple actions are taken as rows. `mask` says where the environment has the masks of its legal actions. Raises
    ConfigError for an observation space that has a part without a fixed number of entries, and for one that is missing, or
    no space of gymnasium's.
    """
    problem = _without_spaces(env) or _unreadable(env)
    if problem is not None:
        raise ConfigError(problem)
    if isinstance(env.action_space, spaces.Dict | spaces.Tuple):
        env = UnpackAction(env)
    if mask != "none" or isinstance(env.observation_space, spaces.Dict | spaces.Tuple):
        return PackObservation(env, mask)
    is_array = isinstance(env.observation_space, spaces.Box) and bool(env.observation_space.shape)
    return env if is_array else FlattenObservation(env)


def described(space: spaces.Space[Any]) -> str:
    """Return a space in one short line: without the bounds of each entry of an array, and cut where it is long."""
    if isinstance(space, PackedActions):
        return described(space.space)
    if isinstance(space, spaces.Box):
        bounds = [text if text and "[" not in text else "…" for text in (space.low_repr, space.high_repr)]
        return f"Box({', '.join(bounds)}, {space.shape}, {space.dtype})"
    return textwrap.shorten(str(space), 120, placeholder=" …)")


def _without_spaces(env: gymnasium.Env[Any, Any]) -> Problem | None:
    """Return the problem of an environment that lacks one of its spaces; None if it has both."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            came = "missing" if space is None else f"a {type(space).__module__}.{type(space).__name__}"
            return Problem(*_key(env), f"its {name} is {came}", f"set self.{name} to a space of gymnasium.spaces")
    return None


def _unreadable(env: gymnasium.Env[Any, Any]) -> Problem | None:
    """Return the problem of an environment with observations that no network reads; None if it has none."""
    space = env.observation_space
    unreadable = next(_unreadable_parts(space, "observation"), None)
    if unreadable is None:
        return None
    part, name = unreadable
    cause = f"its {name} is a {type(part).__name__}, which has no fixed number of entries"
    if isinstance(part, spaces.Box):
        cause = f"its {name} is a Box of {part.dtype}"
    wrapper = "gymnasium.wrappers.TransformObservation"
    if isinstance(space, spaces.Dict):
        others = [key for key, other in space.items() if not any(_unreadable_parts(other, ""))]
        wrapper = f"gymnasium.wrappers.FilterObservation(env, {others})" if others else wrapper
    return Problem(*_key(env), cause, f"wrap it into {READABLE}, such as by {wrapper}, {HOW}")


def _unreadable_parts(space: spaces.Space[Any], name: str) -> Iterator[tuple[spaces.Space[Any], str]]:
    """Yield the parts of a space that cannot be flattened to a vector, each with its name."""
    match space:
        case spaces.Dict():
            for key, part in space.spaces.items():
                yield from _unreadable_parts(part, f"{name}[{key!r}]")
        case spaces.Tuple():
            for i, part in enumerate(space.spaces):
                yield from _unreadable_parts(part, f"{name}[{i}]")
        case spaces.Box() if np.issubdtype(space.dtype, np.number) or space.dtype == np.bool_:
            return
        case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return
        case _:
            yield space, name


def _key(env: gymnasium.Env[Any, Any]) -> tuple[str, str]:
    """Return the key and the value that name an environment."""
    return ("env", type(env.unwrapped).__name__) if env.spec is None else ("env.id", env.spec.id)


def layout_of(space: spaces.Space[Any]) -> Layout | None:
    """Return the layout of observations that were packed into rows; None for others."""
    return space.layout if isinstance(space, PackedSpace) else None


def observation_dtype(space: spaces.Space[Any]) -> np.dtype[Any]:
    """Return the type in which observations are kept: uint8 for images and rows with images, float32 for others."""
    layout = layout_of(space)
    return np.dtype(np.uint8 if is_image(space) or (layout is not None and layout.is_bytes) else np.float32)


def is_image(space: spaces.Space[Any]) -> bool:
    """Return whether observations are images, or stacks of them: uint8, stored as bytes and scaled by the network."""
    axes = 0 if not isinstance(space, spaces.Box) else len(space.shape)
    return space.dtype == np.uint8 and (axes == 3 or (axes == 4 and isinstance(space, StackedSpace)))
