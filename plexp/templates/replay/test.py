"""Tests of mine: its contract, and what it does."""

import numpy as np
import torch
from plexp.plugins.replay.mine import Mine

from plexp import ReplaySpec, Trajectory
from plexp.testing import faults


def test_it_fulfils_the_contract() -> None:
    assert faults("replay", "mine") == []


def test_worked_by_hand() -> None:
    """Two steps of one environment: the first goes on, the second terminates."""
    buffer = Mine(capacity=10).make(ReplaySpec(1, (1,), np.dtype(np.float32), (), torch.int64))
    ended = torch.tensor([[False], [True]])
    buffer.add(
        Trajectory(
            observations=torch.tensor([[[0.0]], [[1.0]]]),
            actions=torch.tensor([[0], [1]]),
            rewards=torch.tensor([[1.0], [3.0]]),
            terminated=ended,
            truncated=torch.zeros_like(ended),
            valid=torch.ones_like(ended),
            last_observations=torch.tensor([[2.0]]),
            final_observations=torch.zeros(0, 1),
            final_index=torch.zeros(0, dtype=torch.int64),
        )
    )
    first = buffer.transitions(np.array([0]), n_steps=2, gamma=0.5)
    assert first.rewards.tolist() == [1.0 + 0.5 * 3.0] and first.discounts.tolist() == [0.0]
