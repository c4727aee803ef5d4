"""Tests of mine: its contract, and what it does."""

import torch
from plexp.plugins.advantage.mine import Mine

from plexp.testing import faults, make_rollout


def test_it_fulfils_the_contract() -> None:
    assert faults("advantage", "mine") == []


def test_worked_by_hand() -> None:
    """Two steps of one environment: the first goes on, the second terminates."""
    ended = torch.tensor([[False], [True]])
    values, following = torch.tensor([[0.5], [2.0]]), torch.tensor([[2.0], [7.0]])
    rollout = make_rollout(rewards=torch.tensor([[1.0], [3.0]]), values=values, next_values=following, terminated=ended)
    targets = Mine(gamma=0.5)(rollout)
    assert targets.advantages.tolist() == [[1.0 + 0.5 * 2.0 - 0.5], [3.0 - 2.0]]
    assert targets.value_targets.tolist() == [[2.0], [3.0]]
