"""Residual network for actor and critic."""

from __future__ import annotations

import math

from torch import Tensor, nn

from plexp import PositiveInt, register


class Block(nn.Module):
    """Residual block: x + W₂ relu(W₁ norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.inner(features)


@register("net", "residual")
class Residual:
    """Residual blocks with layer normalisation (He et al. 2016; Lee et al. 2025 for RL).

    Args:
        blocks: how many; more: deeper.
        width: units of each layer; larger: more can be learnt, slower.
        share_trunk: one body for actor and critic; false: a body each.
    """

    def __init__(self, *, blocks: PositiveInt, width: PositiveInt, share_trunk: bool) -> None:
        self.blocks, self.width, self.share_trunk = blocks, width, share_trunk
        self.label = f"residual{blocks}x{width}"

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        first = nn.Linear(math.prod(shape), self.width)
        return nn.Sequential(nn.Flatten(), first, *(Block(self.width) for _ in range(self.blocks))), self.width

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        layer = nn.Linear(features, outputs)
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
        return layer
