"""Tests of mine: its contract, and its equation."""

from types import SimpleNamespace

import torch
from plexp.plugins.algo.mine import Mine

from plexp.testing import faults


def test_it_fulfils_the_contract() -> None:
    assert faults("algo", "mine") == []


def test_its_loss_is_minus_the_advantage_times_the_log_probability() -> None:
    rows = SimpleNamespace(advantages=torch.tensor([2.0, -1.0]), importance_weights=torch.ones(2))
    agent = SimpleNamespace(evaluate=lambda minibatch: SimpleNamespace(log_probs=torch.tensor([-0.5, -3.0])))
    learner = SimpleNamespace(total_loss=lambda losses, output, minibatch: losses)
    assert Mine(agent, learner, num_steps=1).loss(rows).tolist() == [1.0, -3.0]
