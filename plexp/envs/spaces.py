"""Converts gymnasium's spaces to what the agent is built from; raises ConfigError for unsupported ones."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium.spaces as spaces
import numpy as np

from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import (
    ActionDistribution,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)


def action_distribution(space: spaces.Space[Any], bounds: Literal["clip", "tanh"]) -> ActionDistribution:
    """Return the distribution that the policy has over an action space.

    Raises ConfigError for an unsupported space, and for `bounds=tanh` on a Box without finite bounds.
    """
    match space:
        case spaces.Discrete():
            return Categorical(int(space.n), int(space.start))
        case spaces.MultiDiscrete():
            return MultiCategorical(space.nvec, space.start)
        case spaces.MultiBinary():
            return Bernoulli(space.shape)
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            if bounds == "clip":
                return DiagonalGaussian(space.low, space.high)
            if np.isfinite(space.low).all() and np.isfinite(space.high).all():
                return SquashedGaussian(space.low, space.high)
            remedy = "give policy.bounds=clip"
            raise ConfigError(
                Problem("policy.bounds", bounds, f"tanh needs finite bounds, and the actions are {space}", remedy)
            )
    supported = "Discrete, Box of floats, MultiDiscrete and MultiBinary"
    raise ConfigError(
        Problem("env", ..., f"the action space {space} is not supported", f"wrap it into one of {supported}")
    )


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
