"""Tests of mine: its contract, and what it does."""

import torch
from plexp.plugins.net.mine import Mine

from plexp.testing import faults


def test_it_fulfils_the_contract() -> None:
    assert faults("net", "mine") == []


def test_it_has_so_many_parameters() -> None:
    body, features = Mine(width=8, share_trunk=False).trunk((3,))
    assert features == 8 and sum(p.numel() for p in body.parameters()) == 3 * 8 + 8
    assert body(torch.zeros(5, 3)).shape == (5, 8)
