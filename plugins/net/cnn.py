"""Convolutional networks for image observations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plexp import ConfigError, PositiveInt, Problem, register

LAYOUT = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel, stride
SMALLEST = 36  # pixels a side: below, the last convolution has nothing left


class Pixels(nn.Module):
    """Images of either axis order, or stacks of them, to [B, C, H, W] floats; bytes are scaled to 0…1 here and nowhere else.

    The channels of the images of a stack stand one after the other.
    """

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255
        images = images.movedim(-1, -3) if self.channels_last else images
        return images.flatten(1, -3)


@register("net", "cnn")
class CNN:
    """The network of the Nature DQN (Mnih et al. 2015, Methods): three convolutions and one fully connected layer, ReLU.

    Takes images of 36 pixels a side or more, channels first or last, and stacks of them. Orthogonal initialisation with the
    usual gains.
    """

    def __init__(self, *, width: PositiveInt, share_trunk: bool) -> None:
        self.width, self.share_trunk = width, share_trunk
        self.label = f"cnn{width}"

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        image = shape[-3:]
        if len(shape) not in (3, 4) or sorted(image)[1] < SMALLEST:
            cause = f"net=cnn takes images of {SMALLEST} pixels a side or more, and the observations are {list(shape)}"
            raise ConfigError(Problem("net", "cnn", cause, "choose net=mlp"))
        channels_last = image[-1] < image[0]
        channels, height, breadth = (image[2], image[0], image[1]) if channels_last else image
        channels *= math.prod(shape[:-3])
        modules: list[nn.Module] = [Pixels(channels_last)]
        for outputs, kernel, stride in LAYOUT:
            modules += [_orthogonal(nn.Conv2d(channels, outputs, kernel, stride), math.sqrt(2)), nn.ReLU()]
            channels, height, breadth = outputs, (height - kernel) // stride + 1, (breadth - kernel) // stride + 1
        flat = channels * height * breadth
        modules += [nn.Flatten(), _orthogonal(nn.Linear(flat, self.width), math.sqrt(2)), nn.ReLU()]
        return nn.Sequential(*modules), self.width

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        return _orthogonal(nn.Linear(features, outputs), gain)


def _orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
