"""Numbers as a person reads and writes them."""

from __future__ import annotations

import math


def number(value: float | None, steps: bool = False, beside: float = 0) -> str:
    """500, 47.3, 0.083, −198.5; of steps 37.5k, 1.2M; a dash for none; as many decimals as the size `beside` it has."""
    if value is None or not math.isfinite(value):
        return "—"
    for unit, letter in ((1e6, "M"), (1e3, "k")) if steps else ():
        if abs(value) >= unit * 0.99995:
            return number(value / unit) + letter
    size = max(abs(value), beside)
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{round(value, digits) or 0.0:,.{digits}f}" if size >= 0.0005 or size == 0 else f"{value:.1g}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def parsed(text: str | None) -> float | None:
    """Return the number in a param; None if it is not one."""
    try:
        return float(text or "")
    except ValueError:
        return None


def natural(value: str) -> tuple[bool, float, str]:
    """Sorts numbers by size, then words."""
    found = parsed(value)
    known = found is not None and not math.isnan(found)
    return not known, found if found is not None and known else 0.0, value
