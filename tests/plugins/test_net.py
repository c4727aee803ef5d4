"""Tests of networks: the module is what the config says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from plexp.plugins.net.cnn import CNN
from plexp.plugins.net.mlp import MLP
from torch import nn

from plexp.errors import ConfigError
from tests.support.builders import NET, make_agent

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}


def mlp(**changes: Any) -> MLP:
    return MLP(**{**NET, **changes})


def parts(module: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    """Return the submodules of these kinds, in order."""
    return [each for each in module.modules() if isinstance(each, kinds)]


@pytest.mark.parametrize(("layers", "width"), [(1, 8), (3, 5)])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_has_its_layers_widths_norms_and_activations(
    layers: int, width: int, layer_norm: bool, activation: str
) -> None:
    trunk, features = mlp(layers=layers, width=width, layer_norm=layer_norm, activation=activation).trunk((4,))
    block = [nn.Linear, nn.LayerNorm, ACTIVATIONS[activation]] if layer_norm else [nn.Linear, ACTIVATIONS[activation]]
    assert features == width
    assert [type(m) for m in parts(trunk, nn.Linear, nn.LayerNorm, *ACTIVATIONS.values())] == block * layers
    sizes = [(m.in_features, m.out_features) for m in parts(trunk, nn.Linear)]
    assert sizes == [(4, width)] + [(width, width)] * (layers - 1)
    assert trunk(torch.zeros(7, 4)).shape == (7, width)


def test_mlp_of_two_layers_is_its_formula() -> None:
    trunk, _ = mlp(layers=2).trunk((4,))
    x, (first, second) = torch.randn(3, 4), parts(trunk, nn.Linear)
    hidden = torch.tanh(x @ first.weight.T + first.bias)
    torch.testing.assert_close(trunk(x), torch.tanh(hidden @ second.weight.T + second.bias))


def test_mlp_flattens_observations_of_several_axes() -> None:
    trunk, features = mlp().trunk((3, 2))
    assert trunk(torch.zeros(5, 3, 2)).shape == (5, features)


@pytest.mark.parametrize("shape", [(6,), (3, 2, 1)])
def test_mlp_takes_observations_that_are_bytes(shape: tuple[int, ...]) -> None:
    """A rollout keeps uint8 observations as bytes, such as the 128 bytes of Atari's RAM."""
    trunk, features = mlp().trunk(shape)
    assert trunk(torch.full((5, *shape), 200, dtype=torch.uint8)).shape == (5, features)


def test_labels_name_what_a_sweep_varies() -> None:
    assert mlp(layers=3, width=64).label == "mlp3x64"
    assert CNN(width=512, share_trunk=True).label == "cnn512"


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 16), (16, 4), (8, 8)])
def test_orthogonal_layers_keep_lengths_up_to_their_gain(inputs: int, outputs: int) -> None:
    """WᵀW = gain²·1, or WWᵀ where W is wide; biases are zero."""
    for gain in (0.01, 1.0):
        _assert_orthogonal(mlp(initialization="orthogonal").head(inputs, outputs, gain=gain), gain)
        _assert_orthogonal(CNN(width=8, share_trunk=True).head(inputs, outputs, gain=gain), gain)
    trunk, _ = mlp(initialization="orthogonal", width=outputs).trunk((inputs,))
    _assert_orthogonal(parts(trunk, nn.Linear)[0], math.sqrt(2))


def _assert_orthogonal(layer: Any, gain: float) -> None:
    weight = layer.weight.detach().flatten(1).double()
    gram = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
    torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-5 * gain**2)
    assert not layer.bias.any()


def test_default_initialization_is_torchs() -> None:
    torch.manual_seed(3)
    expected = nn.Linear(4, 8)
    torch.manual_seed(3)
    layer = mlp(initialization="default").head(4, 8, gain=0.01)
    assert torch.equal(layer.weight, expected.weight) and torch.equal(layer.bias, expected.bias)


def test_heads_start_with_gain_one_hundredth_for_the_policy_and_one_for_the_critic() -> None:
    agent = make_agent(initialization="orthogonal")
    _assert_orthogonal(agent.head.linear, 0.01)
    _assert_orthogonal(agent.critic.head, 1.0)


@pytest.mark.parametrize("share_trunk", [False, True])
def test_share_trunk_decides_whether_there_are_one_or_two_trunks(share_trunk: bool) -> None:
    agent = make_agent(share_trunk=share_trunk)
    assert (agent.trunk is agent.critic.trunk) is share_trunk
    assert agent.shares_trunk is share_trunk
    trunks = {id(p) for p in itertools.chain(agent.trunk.parameters(), agent.critic.trunk.parameters())}
    assert len(trunks) == (2 if share_trunk else 4)


def test_cnn_is_the_network_of_the_nature_dqn() -> None:
    trunk, features = CNN(width=512, share_trunk=True).trunk((4, 84, 84))
    convolutions = parts(trunk, nn.Conv2d)
    shapes = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]
    assert shapes == [(4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
    (linear,) = parts(trunk, nn.Linear)
    assert (linear.in_features, linear.out_features, features) == (64 * 7 * 7, 512, 512)
    assert len(parts(trunk, nn.ReLU)) == 4
    for layer in (*convolutions, linear):
        _assert_orthogonal(layer, math.sqrt(2))


def test_cnn_scales_bytes_to_one_and_does_not_scale_floats() -> None:
    trunk, _ = CNN(width=8, share_trunk=True).trunk((3, 40, 36))
    pixels = torch.randint(0, 256, (2, 3, 40, 36), dtype=torch.uint8)
    assert torch.equal(trunk[0](pixels), pixels.float() / 255)
    assert torch.equal(trunk(pixels), trunk(pixels.float() / 255))
    assert not torch.equal(trunk(pixels), trunk(pixels.float()))


def test_cnn_gives_the_same_for_channels_first_and_last() -> None:
    net, trunks = CNN(width=8, share_trunk=True), []
    for shape in ((3, 40, 48), (40, 48, 3)):
        torch.manual_seed(0)
        trunks.append(net.trunk(shape)[0])
    pixels = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)
    assert torch.equal(trunks[0](pixels), trunks[1](pixels.permute(0, 2, 3, 1)))


@pytest.mark.parametrize("shape", [(3, 36, 36), (36, 100, 1), (4, 37, 51)])
def test_cnn_takes_images_of_36_pixels_or_more(shape: tuple[int, ...]) -> None:
    trunk, features = CNN(width=8, share_trunk=True).trunk(shape)
    assert trunk(torch.zeros(2, *shape)).shape == (2, features)


def test_cnn_takes_stacks_of_images_with_their_channels_one_after_the_other() -> None:
    torch.manual_seed(0)
    stacked, _ = CNN(width=8, share_trunk=True).trunk((2, 36, 40, 3))
    torch.manual_seed(0)
    plain, _ = CNN(width=8, share_trunk=True).trunk((6, 36, 40))
    images = torch.randint(0, 256, (5, 2, 36, 40, 3), dtype=torch.uint8)
    joined = torch.cat([images[:, 0], images[:, 1]], -1).permute(0, 3, 1, 2)
    torch.testing.assert_close(stacked(images), plain(joined))
    first, _ = CNN(width=8, share_trunk=True).trunk((2, 3, 36, 40))
    assert first(images.permute(0, 1, 4, 2, 3)).shape == (5, 8)


@pytest.mark.parametrize("shape", [(8,), (84, 84), (3, 35, 84), (84, 35, 3), (2, 2, 3, 84, 84)])
def test_cnn_refuses_observations_that_are_not_images_or_too_small(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        CNN(width=8, share_trunk=True).trunk(shape)
    (problem,) = error.value.problems
    assert (problem.key, problem.value) == ("net", "cnn")
    assert "36 pixels" in problem.cause and str(list(shape)) in problem.cause and "net=mlp" in problem.remedy
