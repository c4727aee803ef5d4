"""Recurrent networks with a gated recurrent unit, for environments whose observations do not show their whole state."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from plexp.plugins.net.cnn import CNN
from plexp.plugins.net.mlp import MLP
from plexp.plugins.net.multi import Multi
from torch import nn

from plexp import Core, GRUCore, PositiveInt, Recurrent, register


@register("net", "gru")
class GRU:
    """An encoder of each observation, a gated recurrent unit over the steps of an episode, and the heads.

    The state is zero where an episode begins. Training goes back at most `algo.sequence_length` steps, from the state that the
    policy had there (truncated backpropagation through time, Williams and Peng 1990).

    Args:
        encoder: network of each observation: mlp, cnn for images, or multi for the parts of Dict and Tuple observations.
        size: outputs of the recurrent unit.
        layers, width, activation, layer_norm, initialization: as for net=mlp, of the encoder.
        encoders, part_width, image_width: as for net=multi; image_width also counts for cnn.
        share_trunk: whether actor and critic share encoder and recurrent unit, and have a head each.
    """

    core: ClassVar[type[Core]] = GRUCore
    name: ClassVar = "gru"

    def __init__(
        self,
        *,
        encoder: Literal["mlp", "cnn", "multi"],
        size: PositiveInt,
        layers: PositiveInt,
        width: PositiveInt,
        activation: Literal["tanh", "relu", "silu", "elu"],
        layer_norm: bool,
        initialization: Literal["orthogonal", "default"],
        encoders: dict[str, Any],
        part_width: PositiveInt,
        image_width: PositiveInt,
        share_trunk: bool,
    ) -> None:
        self.size, self.initialization, self.share_trunk = size, initialization, share_trunk
        self.by_parts, self.state_size = encoder == "multi", self.core.vectors * size
        shape: Any = {"layers": layers, "width": width, "activation": activation, "layer_norm": layer_norm}
        shape |= {"initialization": initialization, "share_trunk": share_trunk}
        self.mlp = MLP(**shape)
        self.encoder = {
            "mlp": lambda: self.mlp,
            "cnn": lambda: CNN(width=image_width, share_trunk=share_trunk),
            "multi": lambda: Multi(encoders=encoders, part_width=part_width, image_width=image_width, **shape),
        }[encoder]()
        self.label = f"{self.name}{size}" if encoder == "mlp" else f"{self.name}{size}-{encoder}"

    def trunk(self, shape: Any) -> tuple[nn.Module, int]:
        encoder, features = self.encoder.trunk(shape)
        core = self.core(features, self.size, orthogonal=self.initialization == "orthogonal")
        return Recurrent(encoder, core), self.size

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        head: nn.Module = self.mlp.head(features, outputs, gain=gain)
        return head
