"""The ranges that plugin signatures are written in; pydantic checks them, `plexp plugins NAME` prints them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Fraction: TypeAlias = Annotated[float, Gt(0), Lt(1)]
"""0 < x < 1"""
PositiveFraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
"""0 < x ≤ 1"""
UnitInterval: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""0 ≤ x ≤ 1"""

LogStd: TypeAlias = Literal["free", "state", "identity"]
"""How a Gaussian policy's log σ is given."""
ActionBounds: TypeAlias = Literal["clip", "tanh"]
"""How actions are kept within a Box."""

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
