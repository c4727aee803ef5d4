"""Converts gymnasium's spaces to what the agent is built from; raises ConfigError for unsupported ones."""

from __future__ import annotations

import math
from typing import Any, Literal

import gymnasium.spaces as spaces
import numpy as np
import torch

from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import (
    ActionDistribution,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)

MOST_CHOICES = 4096
"""Integers of a Box, of all its dimensions together, up to which the policy has a logit for each; larger: more memory."""
NARROWEST = 0.1
"""Width of an action, in standard deviations of the first policy, below which nearly every action is clipped."""


def action_distribution(space: spaces.Space[Any], bounds: Literal["clip", "tanh"]) -> ActionDistribution:
    """Return the distribution that the policy has over an action space; each integer of a Box is a choice.

    Raises ConfigError for an unsupported space, and for `bounds=tanh` on a Box without finite bounds.
    """
    match space:
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
    supported = f"Discrete, Box of floats, MultiDiscrete, MultiBinary and Box of at most {MOST_CHOICES:,} integers"
    raise ConfigError(
        Problem("env", ..., f"the action space {space} is not supported", f"wrap it into one of {supported}")
    )


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
    supported = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
    raise ConfigError(
        Problem("env", ..., f"the observation space {space} is not supported", f"wrap it into one of {supported}")
    )


def is_image(space: spaces.Space[Any]) -> bool:
    """Return whether observations are images: uint8 with three axes, stored as bytes and scaled by the network."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
