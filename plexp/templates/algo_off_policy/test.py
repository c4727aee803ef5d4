"""Tests of mine: its contract, and its equation."""

from types import SimpleNamespace

import torch
from plexp.plugins.algo.mine import Mine

from plexp.testing import faults


def test_it_fulfils_the_contract() -> None:
    assert faults("algo", "mine") == []


def test_its_loss_is_hubers_of_the_one_step_error() -> None:
    """Compare with y = 1 + 0.5 · 4 and 2 (terminated), for Q(s, a) of 2.5 and 4: ½ · 0.5² and 2 − ½."""
    values = SimpleNamespace(policy=lambda observations: torch.tensor([[2.5, 0.0], [0.0, 4.0]]))
    target = SimpleNamespace(policy=lambda observations: torch.tensor([[4.0, 1.0], [7.0, 9.0]]))
    networks = SimpleNamespace(q_policy=lambda **options: values)
    learner = SimpleNamespace(num_steps=1, optimizer=lambda policy: None, target=lambda policy: target)
    rows = SimpleNamespace(
        observations=None,
        next_observations=None,
        actions=torch.tensor([0, 1]),
        rewards=torch.tensor([1.0, 2.0]),
        discounts=torch.tensor([0.5, 0.0]),
        weights=torch.ones(2),
    )
    loss, terms = Mine(networks, learner, epsilon=0.1).loss(rows)
    assert loss.item() == (0.125 + 1.5) / 2
    assert terms["td_errors"].tolist() == [0.5, -2.0]
