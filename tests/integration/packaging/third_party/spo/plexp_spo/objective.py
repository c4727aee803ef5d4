"""Objective of Simple Policy Optimization."""

from __future__ import annotations

from torch import Tensor


def simple_surrogate(ratios: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """Return −(r·A − |A|·(r − 1)²/(2ε)), [B] (Xie et al. 2024, eq. 12, as a loss).

    It is a parabola in r with its minimum at 1 + sign(A)·ε.
    """
    return advantages.abs() * (ratios - 1).square() / (2 * epsilon) - ratios * advantages
