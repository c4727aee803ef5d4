"""Mine."""

from __future__ import annotations

import math

from torch import nn

from plexp import PositiveInt, register


@register("net", "mine")
class Mine:
    """One hidden layer: `trunk` is the place to change.

    Args:
        width: its units; larger: more can be learnt, slower.
        share_trunk: one body for actor and critic; false: a body each.
    """

    def __init__(self, *, width: PositiveInt, share_trunk: bool) -> None:
        self.width, self.share_trunk = width, share_trunk
        self.label = f"mine{width}"

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), self.width), nn.Tanh()), self.width

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        layer = nn.Linear(features, outputs)
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
        return layer
