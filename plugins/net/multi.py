"""Networks for structured observations: an encoder for each part, and a trunk that joins them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from plexp.plugins.net.cnn import CNN
from plexp.plugins.net.mlp import MLP
from torch import Tensor, nn

from plexp import ConfigError, Part, PositiveInt, Problem, one_line, register

Encoder: TypeAlias = Literal["cnn", "mlp", "embedding", "flat"]
USUAL: dict[str, Encoder] = {"image": "cnn", "numbers": "mlp", "choices": "embedding"}


class Joined(nn.Module):
    """Encoders of parts [B, *shape], whose features [B, F], side by side, go through a trunk.

    Args:
        encoders: encoder of each part by its name; other parts are not seen.
        trunk: layers from all features to those that are returned.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], trunk: nn.Module) -> None:
        super().__init__()
        self.names, self.encoders, self.trunk = list(encoders), nn.ModuleList(encoders.values()), trunk

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        parts = [encoder(observations[name]) for name, encoder in zip(self.names, self.encoders, strict=True)]
        features: Tensor = self.trunk(torch.cat(parts, -1))
        return features


@register("net", "multi")
class Multi:
    """An encoder for each part of a Dict or Tuple observation, whose features one multilayer perceptron joins.

    Images go through the convolutions of net=cnn, numbers through one hidden layer, and a choice is looked up in a table
    of learnt vectors. `mlp` takes an image as a vector, `flat` leaves a part as it is.

    Args:
        encoders: encoder of a part by its name, such as `camera: cnn`, where it is to be another than usual.
        part_width: features of a part of numbers or choices.
        image_width: features of an image.
        layers, width, activation, layer_norm, initialization, share_trunk: as for net=mlp, of what joins the parts.
    """

    by_parts = True

    def __init__(
        self,
        *,
        encoders: dict[str, Any],
        part_width: PositiveInt,
        image_width: PositiveInt,
        layers: PositiveInt,
        width: PositiveInt,
        activation: Literal["tanh", "relu", "silu", "elu"],
        layer_norm: bool,
        initialization: Literal["orthogonal", "default"],
        share_trunk: bool,
    ) -> None:
        self.encoders, self.part_width, self.share_trunk = encoders, part_width, share_trunk
        shape: Any = {"activation": activation, "layer_norm": layer_norm, "initialization": initialization}
        self.mlp = MLP(layers=layers, width=width, share_trunk=share_trunk, **shape)
        self.part_mlp = MLP(layers=1, width=part_width, share_trunk=share_trunk, **shape)
        self.cnn = CNN(width=image_width, share_trunk=share_trunk)
        self.label = f"multi{layers}x{width}"

    def trunk(self, parts: Mapping[str, Part]) -> tuple[nn.Module, int]:
        if unknown := [name for name in self.encoders if name not in parts]:
            remedy = f"give one of {', '.join(parts)}"
            raise ConfigError(Problem(f"net.encoders.{unknown[0]}", ..., "the observations have no such part", remedy))
        made = {name: self._encoder(name, part) for name, part in parts.items()}
        trunk, features = self.mlp.trunk((sum(size for _, size in made.values()),))
        return Joined({name: encoder for name, (encoder, _) in made.items()}, trunk), features

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        head: nn.Module = self.mlp.head(features, outputs, gain=gain)
        return head

    def _encoder(self, name: str, part: Part) -> tuple[nn.Module, int]:
        """Return the layers from a part [B, *shape] to features [B, F], and F."""
        kind, made = self.encoders.get(name, USUAL[part.kind]), None
        match kind:
            case "cnn" if part.kind == "image":
                try:
                    made = self.cnn.trunk(part.shape)
                except ConfigError as error:
                    raise self._refusal(name, kind, one_line(error)) from error
            case "mlp":
                made = self.part_mlp.trunk(part.shape)
            case "embedding" if part.kind == "choices":
                made = nn.Linear(math.prod(part.shape), self.part_width, bias=False), self.part_width
            case "flat" if part.kind != "image":
                made = nn.Flatten(), math.prod(part.shape)
        if made is None:
            raise self._refusal(name, kind, f"this is no encoder for {part.kind} of the shape {list(part.shape)}")
        layers: tuple[nn.Module, int] = made
        return layers

    @staticmethod
    def _refusal(name: str, kind: object, cause: str) -> ConfigError:
        remedy = "give mlp, cnn (images), embedding (choices) or flat (all but images)"
        return ConfigError(Problem(f"net.encoders.{name}", kind, cause, remedy))
