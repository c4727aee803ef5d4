"""The cells of recurrent networks that torch asks of other devices than the CPU, in plain operations for the fake device.

Each has the signature of torch's operator. What a backward function needs, its workspace, is this module's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def gru_cell(
    inputs: Tensor, hidden: Tensor, h: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return h' and a workspace; see `plexp.nn.recurrent.GRUCore`."""
    rx, zx, nx = (inputs if input_bias is None else inputs + input_bias).chunk(3, -1)
    rh, zh, nh = (hidden if hidden_bias is None else hidden + hidden_bias).chunk(3, -1)
    r, z = (rx + rh).sigmoid(), (zx + zh).sigmoid()
    n = (nx + r * nh).tanh()
    return (1 - z) * n + z * h, torch.cat([r, z, n, h, nh], -1)


def gru_cell_backward(gradient: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    """Return the gradients of the inputs, the products with h, h, and the biases."""
    r, z, n, h, nh = workspace.chunk(5, -1)
    of_n = gradient * (1 - z) * (1 - n.square())
    of_z, of_r = gradient * (h - n) * z * (1 - z), of_n * nh * r * (1 - r)
    inputs, hidden = torch.cat([of_r, of_z, of_n], -1), torch.cat([of_r, of_z, of_n * r], -1)
    biases = (inputs.sum(0), hidden.sum(0)) if has_bias else (None, None)
    return inputs, hidden, gradient * z, *biases


def lstm_cell(
    inputs: Tensor, hidden: Tensor, c: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return h', c' and a workspace; see `plexp.nn.recurrent.LSTMCore`."""
    gates = inputs + hidden
    for bias in (input_bias, hidden_bias):
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * c + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], -1)


def lstm_cell_backward(
    of_h: Tensor | None, of_c: Tensor | None, c: Tensor, after: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the gates, c, and the bias."""
    i, f, g, o = workspace.chunk(4, -1)
    of_h = torch.zeros_like(c) if of_h is None else of_h
    of_after = (0 if of_c is None else of_c) + of_h * o * (1 - after.tanh().square())
    of_gates = torch.cat(
        [
            of_after * g * i * (1 - i),
            of_after * c * f * (1 - f),
            of_after * i * (1 - g.square()),
            of_h * after.tanh() * o * (1 - o),
        ],
        -1,
    )
    return of_gates, of_after * f, of_gates.sum(0) if has_bias else None


CELLS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._thnn_fused_gru_cell.default: gru_cell,
    torch.ops.aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
    torch.ops.aten._thnn_fused_lstm_cell.default: lstm_cell,
    torch.ops.aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
}
"""Functions in place of torch's operators."""
