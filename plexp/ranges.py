"""The ranges that plugin signatures are written in; pydantic checks them, `plexp plugins NAME` prints them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Fraction: TypeAlias = Annotated[float, Gt(0), Lt(1)]
"""0 < x < 1"""
PositiveFraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
"""0 < x ≤ 1"""
UnitInterval: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""0 ≤ x ≤ 1"""

__all__ = [
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveFraction",
    "PositiveInt",
    "UnitInterval",
]
