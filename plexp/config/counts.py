"""Numbers as people write them: 1e5, 2.5e6, 100k and 1M for integers, and 1 for a float."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, get_args, get_origin

MOST = 2**63 - 1
"""Largest integer that NumPy, torch and databases can hold."""
SUFFIXES = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}


def read_count(value: object) -> int | None:
    """Return the integer that 100000.0 (YAML's reading of 1e5) or "100k" stands for; None if the value stands for none.

    Numbers under 10 are not counts that anyone shortens: 1.0 stays a float.
    """
    if isinstance(value, str) and (match := re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([kKM])", value)):
        number = Decimal(match[1].replace("_", "")) * SUFFIXES[match[2]]
    elif isinstance(value, float) and value.is_integer():
        number = Decimal(value)
    else:
        return None
    return int(number) if number >= 10 and number == int(number) else None


def converted(values: Mapping[str, Any], types: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return values with the counts of the keys that take an integer, and neither a float nor any text, as integers.

    `types` is called only if there may be such a count, since types of a plugin need its import.
    """
    counts = {key: count for key, value in values.items() if (count := read_count(value)) is not None}
    if not counts:
        return dict(values)
    kinds = types()
    return {**values, **{key: count for key, count in counts.items() if takes_integers_alone(kinds.get(key))}}


def with_floats(values: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with integers as floats where a key takes floats and no integers: torch.full(3, 0) is of integers."""

    def is_float(key: str) -> bool:
        kinds = _members(types.get(key))
        return float in kinds and not kinds & {int, Any}

    return {key: float(value) if type(value) is int and is_float(key) else value for key, value in values.items()}


def takes_integers_alone(annotation: Any) -> bool:
    """Return True if a type takes integers, and neither floats nor any text."""
    kinds = _members(annotation)
    return int in kinds and not kinds & {float, str, Any}


def _members(annotation: Any) -> set[Any]:
    """Return the plain types of a union, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    arguments = get_args(annotation)
    if arguments and not isinstance(annotation, type) and get_origin(annotation) not in (list, dict, tuple):
        return set().union(*map(_members, arguments))
    return {annotation}
