"""Tests of critics that are evaluated by one call, against each of them alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plexp.nn.networks import Critics


def members(count: int, *, norm: bool) -> list[nn.Module]:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.LayerNorm(7)] if norm else []
    return [nn.Sequential(nn.Linear(5, 7), *copy.deepcopy(layers), nn.Tanh(), nn.Linear(7, 1)) for _ in range(count)]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_values_and_gradients_are_those_of_each_member(count: int, norm: bool) -> None:
    alone = members(count, norm=norm)
    critics = Critics(alone)
    observations, actions = torch.randn(11, 3), torch.randn(11, 2, requires_grad=True)
    values = critics(observations, actions)
    expected = torch.stack([member(torch.cat([observations, actions], -1)).squeeze(-1) for member in alone])
    torch.testing.assert_close(values, expected)
    gradients = torch.autograd.grad(values.square().sum(), [*critics.parameters(), actions])
    plain = [
        torch.autograd.grad(expected[k].square().sum(), [*m.parameters(), actions], retain_graph=True)
        for k, m in enumerate(alone)
    ]
    for index in range(len(list(alone[0].parameters()))):
        torch.testing.assert_close(gradients[index], torch.stack([each[index] for each in plain]))
    torch.testing.assert_close(gradients[-1], sum(each[-1] for each in plain))


def test_a_copy_has_parameters_of_its_own() -> None:
    critics = Critics(members(2, norm=False))
    copied = copy.deepcopy(critics)
    inputs = torch.randn(4, 5)
    before = critics(inputs)
    with torch.no_grad():
        next(iter(copied.parameters())).add_(1)
    torch.testing.assert_close(critics(inputs), before)
    assert not torch.equal(copied(inputs), before)
    assert {name for name, _ in critics.named_parameters()} == {f"stacked.{i}" for i in range(4)}
