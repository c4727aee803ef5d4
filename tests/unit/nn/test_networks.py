"""Tests of heads of Q values by loops, and of critics that are evaluated by one call, against each of them alone."""

from __future__ import annotations

import copy

import pytest
import torch
from plexp.plugins.net.mlp import MLP
from torch import nn

from plexp.nn.networks import Critics, QHead
from tests.support.builders import NET


def members(count: int, *, norm: bool, outputs: int = 1) -> list[nn.Module]:
    torch.manual_seed(0)
    net, made = MLP(**NET | {"layer_norm": norm, "layers": 2}), []
    for _ in range(count):
        trunk, features = net.trunk((5,))
        made.append(nn.Sequential(trunk, net.head(features, outputs, gain=1.0)))
    return made


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_values_and_gradients_are_those_of_each_member(count: int, norm: bool) -> None:
    alone = members(count, norm=norm)
    critics = Critics(copy.deepcopy(alone))
    observations, actions = torch.randn(11, 3), torch.randn(11, 2, requires_grad=True)
    values = critics(observations, actions)
    expected = torch.stack([member(torch.cat([observations, actions], -1)).squeeze(-1) for member in alone])
    torch.testing.assert_close(values, expected)
    gradients = torch.autograd.grad(values.square().sum(), [*critics.parameters(), actions])
    plain = [
        torch.autograd.grad(expected[k].square().sum(), [*m.parameters(), actions], retain_graph=True)
        for k, m in enumerate(alone)
    ]
    own = [gradient for each in plain for gradient in each[:-1]]
    torch.testing.assert_close(list(gradients[:-1]), own)
    torch.testing.assert_close(gradients[-1], sum(each[-1] for each in plain))
    torch.testing.assert_close(critics.first(observations, actions), expected[0])


def test_values_of_several_actions_are_those_of_each_member() -> None:
    alone = members(2, norm=False, outputs=4)
    observations = torch.randn(11, 5)
    values = Critics(alone)(observations)
    assert values.shape == (2, 11, 4)
    torch.testing.assert_close(values, torch.stack([member(observations) for member in alone]))


@pytest.mark.parametrize("norm", [False, True])
def test_a_copy_has_parameters_of_its_own(norm: bool) -> None:
    critics = Critics(members(2, norm=norm))
    copied = copy.deepcopy(critics)
    inputs = torch.randn(4, 5)
    before = critics(inputs)
    torch.testing.assert_close(copied(inputs), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    torch.testing.assert_close(critics(inputs), before, rtol=0, atol=0)
    assert not torch.equal(copied(inputs), before)


def test_critics_are_saved_and_restored() -> None:
    first, second = Critics(members(2, norm=True)), Critics(members(3, norm=True)[1:])
    inputs = torch.randn(4, 5)
    assert not torch.equal(first(inputs), second(inputs))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(inputs), second(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("dueling", [False, True])
def test_a_head_of_values_is_that_of_a_plain_loop(dueling: bool, width: int) -> None:
    """Compare Q = V + A − mean A for each row, action and quantile; the quantiles of the first action come first."""
    head = QHead(MLP(**NET), 8, 4, width=width, dueling=dueling).requires_grad_(False)
    features = torch.randn(3, 8)
    advantages, output = head.advantages(features), head(features)
    assert output.shape == (3, 4 * width)
    for b in range(3):
        for k in range(width):
            own = [float(advantages[b, width * a + k]) for a in range(4)]
            wanted = own
            if head.value is not None:
                wanted = [float(head.value(features)[b, k]) + x - sum(own) / 4 for x in own]
            assert output[b, k::width].tolist() == pytest.approx(wanted, abs=1e-6)
