"""Multilayer perceptrons for vector observations."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from plexp import PositiveInt, register

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}


class Body(nn.Sequential):
    """Layers one after the other; observations that are bytes are scaled to 0…1 here and nowhere else."""

    def forward(self, observations: Tensor) -> Tensor:
        features = observations.float() / 255 if observations.dtype == torch.uint8 else observations
        for layer in self:
            features = layer(features)
        return features


@register("net", "mlp")
class MLP:
    """Fully connected layers of one width, each followed by layer normalisation (if on) and the activation.

    `orthogonal` initialisation takes the usual gains: √2 in the body, 0.01 for the policy's and 1 for the critic's last layer,
    biases 0 (Saxe et al. 2014; Engstrom et al. 2020 on why it matters). `default` leaves what torch does.
    """

    def __init__(
        self,
        *,
        layers: PositiveInt,
        width: PositiveInt,
        activation: Literal["tanh", "relu", "silu", "elu"],
        layer_norm: bool,
        initialization: Literal["orthogonal", "default"],
        share_trunk: bool,
    ) -> None:
        self.layers, self.width, self.activation, self.layer_norm = layers, width, activation, layer_norm
        self.initialization, self.share_trunk = initialization, share_trunk
        self.label = f"mlp{layers}x{width}"

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        modules: list[nn.Module] = [] if len(shape) == 1 else [nn.Flatten()]
        inputs = math.prod(shape)
        for _ in range(self.layers):
            modules.append(self._linear(inputs, self.width, math.sqrt(2)))
            if self.layer_norm:
                modules.append(nn.LayerNorm(self.width))
            modules.append(ACTIVATIONS[self.activation]())
            inputs = self.width
        return Body(*modules), self.width

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        return self._linear(features, outputs, gain)

    def _linear(self, inputs: int, outputs: int, gain: float) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        if self.initialization == "orthogonal":
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        return layer
