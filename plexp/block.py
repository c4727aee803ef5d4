"""Memory for the steps of a rollout, written in place as they are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plexp.stepper import Array


@dataclass(frozen=True)
class Block:
    """Room for L steps of N environments. `rows` are the L + 1 observations as tensors of the same memory."""

    observations: Array
    rows: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    rewards: Array
    terminated: Array
    truncated: Array

    @classmethod
    def begun(cls, first: Array, length: int, noise: tuple[Tensor, ...]) -> Block:
        observations = np.empty((length + 1, *first.shape), first.dtype)
        observations[0] = first
        rewards, ends = np.empty((length, len(first))), np.empty((2, length, len(first)), np.bool_)
        return cls(observations, torch.from_numpy(observations).unbind(0), noise, rewards, ends[0], ends[1])

    @classmethod
    def joined(cls, blocks: list[Block]) -> Block:
        if len(blocks) == 1:
            return blocks[0]
        names = ("rewards", "terminated", "truncated")
        observations = np.concatenate([blocks[0].observations[:1], *(block.observations[1:] for block in blocks)])
        return cls(observations, (), (), *(np.concatenate([getattr(block, n) for block in blocks]) for n in names))
