"""Tests of recurrent cores against torch's modules and the written equations, and of sequences with a burn-in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from plexp.nn.recurrent import Core, GRUCore, LSTMCore, Recurrent, Sequences, features_of

LENGTHS = (5, 5, 3, 1)
CORES = [GRUCore, LSTMCore]


def make(cls: type[Core], *, inputs: int = 3, size: int = 4) -> Core:
    torch.manual_seed(0)
    return cls(inputs, size, orthogonal=False)


def of_torch(core: Core) -> nn.RNNBase:
    """Return torch's own module with the weights of a core."""
    kind: type[nn.GRU | nn.LSTM] = nn.GRU if isinstance(core, GRUCore) else nn.LSTM
    module = kind(core.weight_ih.shape[1], core.size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(module, f"{name}_l0").data.copy_(getattr(core, name))
    return module


def some_sequences() -> tuple[PackedSequence, list[Tensor]]:
    torch.manual_seed(1)
    parts = [torch.randn(length, 3) for length in LENGTHS]
    return pack_sequence(parts), parts


@pytest.mark.parametrize("lengths", [LENGTHS, (20, 1, 1, 1, 1)], ids=["padded", "packed"])
@pytest.mark.parametrize("cls", CORES)
def test_outputs_last_states_and_gradients_are_those_of_torchs_modules(
    cls: type[Core], lengths: tuple[int, ...]
) -> None:
    core = make(cls)
    module, states = of_torch(core), torch.randn(len(lengths), core.state_size)
    given = pack_sequence([torch.randn(length, 3) for length in lengths])
    first = [part.unsqueeze(0) for part in states.chunk(core.vectors, -1)]
    expected, last = module(given, first[0] if core.vectors == 1 else tuple(first))
    outputs = core.run(given.data, given.batch_sizes, states)
    torch.testing.assert_close(outputs, expected.data)
    ends = core.last_states(given.data, given.batch_sizes, states)
    torch.testing.assert_close(ends, torch.cat(list(last), -1)[0] if core.vectors == 2 else last[0])
    weights = torch.randn_like(outputs)
    (outputs * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected.data * weights).sum().backward()
    for ours, theirs in zip(core.weights, module.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("cls", CORES)
def test_steps_one_by_one_give_what_whole_sequences_do(cls: type[Core]) -> None:
    core = make(cls)
    given, parts = some_sequences()
    states = torch.randn(len(parts), core.state_size)
    outputs = core.run(given.data, given.batch_sizes, states)
    expected = []
    for part, state in zip(parts, states.unsqueeze(1), strict=True):
        column = []
        for row in part:
            output, state = core.step(row[None], state)
            column.append(output[0])
        expected.append(torch.stack(column))
    torch.testing.assert_close(outputs, pack_sequence(expected).data)


def test_a_step_is_what_the_equations_say() -> None:
    gru, lstm = make(GRUCore), make(LSTMCore)
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)

    def terms(core: Core) -> list[tuple[Tensor, Tensor]]:
        ours = (x @ core.weight_ih.T + core.bias_ih).chunk(core.gates, -1)
        return list(zip(ours, (h @ core.weight_hh.T + core.bias_hh).chunk(core.gates, -1), strict=True))

    (rx, rh), (zx, zh), (nx, nh) = terms(gru)
    r, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
    expected = (1 - z) * (nx + r * nh).tanh() + z * h
    for result in gru.step(x, h):
        torch.testing.assert_close(result, expected)
    i, f, g, o = (a + b for a, b in terms(lstm))
    cell = f.sigmoid() * c + i.sigmoid() * g.tanh()
    output, state = lstm.step(x, torch.cat([h, c], -1))
    torch.testing.assert_close(output, o.sigmoid() * cell.tanh())
    torch.testing.assert_close(state, torch.cat([output, cell], -1))


@pytest.mark.parametrize("cls", CORES)
def test_orthogonal_weights_are_orthogonal_gate_by_gate(cls: type[Core]) -> None:
    core = cls(8, 8, orthogonal=True)
    for weight in (core.weight_ih, core.weight_hh):
        for gate in weight.chunk(core.gates):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
    assert [bias.unique().item() for bias in core.bias_ih.detach().chunk(core.gates)] == [0, 1, 0, 0][: core.gates]
    assert not core.bias_hh.any()
    plain = cls(8, 8, orthogonal=False)
    bound = 8**-0.5
    assert all(0.5 * bound < parameter.abs().max() <= bound for parameter in plain.parameters())


@pytest.mark.parametrize("cls", CORES)
def test_a_burn_in_gives_the_first_states_and_gets_no_gradient(cls: type[Core]) -> None:
    trunk = Recurrent(nn.Linear(2, 3), make(cls))
    whole, states = torch.randn(7, 2), torch.randn(2, trunk.state_size)
    other = torch.randn(3, 2)
    joined = Sequences(pack_sequence([whole, other]).data, torch.tensor([2, 2, 2, 1, 1, 1, 1]), states)
    whole_first = torch.tensor([0, 2, 4, 6, 7, 8, 9])
    expected = trunk(joined)[whole_first][3:]
    before = Sequences(whole[:3], torch.tensor([1, 1, 1]), states[:1])
    later = pack_sequence([whole[3:], other])
    given = Sequences(later.data, later.batch_sizes, states, torch.tensor([0, 2, 4, 6]), before, torch.tensor([0]))
    features = trunk(given)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(trunk(replace(given, taken=None))[[1, 3, 5]], trunk(joined)[[1, 3, 5]])
    observations = whole[:3].clone().requires_grad_()
    trunk(replace(given, burn_in=replace(before, observations=observations))).sum().backward()
    assert observations.grad is None and trunk.core.weight_hh.grad is not None


def test_a_trunk_reads_and_writes_its_own_part_of_the_state() -> None:
    trunk = Recurrent(nn.Identity(), make(GRUCore))
    states, x = torch.randn(2, 9), torch.randn(2, 3)
    trunk.first = 3
    features, after = trunk.step(x, states)
    torch.testing.assert_close(features, trunk.core.step(x, states[:, 3:7])[0])
    assert torch.equal(after[:, :3], states[:, :3]) and torch.equal(after[:, 7:], states[:, 7:])
    torch.testing.assert_close(after[:, 3:7], features)
    torch.testing.assert_close(trunk(Sequences(x, torch.tensor([2]), states)), features)


def test_a_network_without_a_state_takes_the_wanted_rows_of_sequences() -> None:
    x = torch.randn(4, 3)
    given = Sequences(x, torch.tensor([2, 2]), torch.zeros(2, 0), torch.tensor([3, 1]))
    assert torch.equal(features_of(nn.Identity(), given), x[[3, 1]])
    parts = replace(given, observations={"a": x, "b": -x}).rows()
    assert isinstance(parts, dict) and torch.equal(parts["b"], -x[[3, 1]])
