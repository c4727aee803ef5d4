"""Types of configuration values, with their ranges, for the signatures of plugins.

Pydantic checks them, and `plexp plugins NAME` prints them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Fraction: TypeAlias = Annotated[float, Gt(0), Lt(1)]
"""A number between 0 and 1, without both ends."""
PositiveFraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
"""A number between 0 and 1, without 0."""
UnitInterval: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""A number between 0 and 1, with both ends."""

LogStd: TypeAlias = Literal["free", "state", "identity"]
"""Source of a Gaussian policy's log σ."""
ActionBounds: TypeAlias = Literal["clip", "tanh"]
"""Way to keep actions within the bounds of a Box."""

__all__ = [
    "ActionBounds",
    "Fraction",
    "LogStd",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveFraction",
    "PositiveInt",
    "UnitInterval",
]
