"""Recurrent networks: cores with a state, and the sequences of observations that they are trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
import torch.export
from torch import Tensor, nn

from plexp.nn.layout import Observations

MOST_PADDING = 4
"""Padded steps for each step up to which padding saves time: an update of net=lstm with sequences of up to 128 steps takes 0.41
instead of 1.67 s, and 0.40 s with 8."""


@dataclass(frozen=True)
class Sequences:
    """Observations of C sequences, in the order of torch's PackedSequence: all first steps, then all second ones, and so on.

    The sequences stand by their lengths, the longest first.
    """

    observations: Observations
    """[R, *obs] observations of all steps, as networks without a state take them."""
    batch_sizes: Tensor
    """[L] int64: the number of sequences that have a first, second, … step; R in all."""
    states: Tensor
    """[C, S] state of the policy's recurrent networks before the first steps."""
    taken: Tensor | None = None
    """[B] int64: the steps whose outputs are wanted, in their order; None: all, B = R."""
    burn_in: Sequences | None = None
    """Steps before some of the sequences, which only give the states that these begin with."""
    continued: Tensor | None = None
    """[C'] int64: the sequences that those of the burn-in are continued by."""

    def rows(self) -> Observations:
        """Return the observations [B, *obs] of the steps that are wanted."""
        if self.taken is None:
            return self.observations
        if isinstance(self.observations, Tensor):
            return self.observations.index_select(0, self.taken)
        return {name: part.index_select(0, self.taken) for name, part in self.observations.items()}


torch.export.register_dataclass(Sequences)
Inputs: TypeAlias = Observations | Sequences
"""Argument of a policy or a critic: observations one by one, or sequences of them."""


class Core(nn.Module):
    """Recurrent layer whose parameters are plain tensors, as the optimizer's flat vector needs them.

    Args:
        inputs: I, number of inputs.
        size: H, number of outputs.
        orthogonal: whether weights begin orthogonal, a matrix for each gate (Saxe et al. 2014), and biases as 0, but for the
            gate that keeps the state, whose bias of 1 lets a new network remember (Jozefowicz et al. 2015); False: all
            uniform within ±1/√H, as torch's own.
    """

    gates: ClassVar[int]
    """Number of gates, which have a block of rows each."""
    vectors: ClassVar[int]
    """Number of vectors [H] in a state."""
    keeping: ClassVar = 1
    """Index of the gate that keeps the state."""

    def __init__(self, inputs: int, size: int, *, orthogonal: bool) -> None:
        super().__init__()
        self.size, self.state_size = size, self.vectors * size
        rows = self.gates * size
        self.weight_ih, self.weight_hh = nn.Parameter(torch.empty(rows, inputs)), nn.Parameter(torch.empty(rows, size))
        self.bias_ih, self.bias_hh = nn.Parameter(torch.zeros(rows)), nn.Parameter(torch.zeros(rows))
        for parameter in self.parameters():
            if not orthogonal:
                nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))
            elif parameter.ndim == 2:
                for gate in parameter.detach().chunk(self.gates):
                    nn.init.orthogonal_(gate)
        if orthogonal:
            nn.init.ones_(self.bias_ih.detach().chunk(self.gates)[self.keeping])

    @property
    def weights(self) -> list[Tensor]:
        """The parameters in torch's order."""
        return [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]

    def step(self, inputs: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [N, H] and next states [N, S] for inputs [N, I] and states [N, S]."""
        raise NotImplementedError

    def run(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        """Return outputs [R, H] of sequences with inputs [R, I] and first states [C, S]."""
        raise NotImplementedError

    def last_states(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        """Return the states [C, S] after the last steps of sequences."""
        raise NotImplementedError

    def _options(self) -> tuple[Any, ...]:
        """Return the arguments of torch's kernels from the weights on; on a GPU only those of training have gradients."""
        return self.weights, True, 1, 0.0, torch.is_grad_enabled(), False


class GRUCore(Core):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate after the product, as in torch and cuDNN.

        r = σ(W_r x + b_r + U_r h + c_r)        z = σ(W_z x + b_z + U_z h + c_z)
        n = tanh(W_n x + b_n + r · (U_n h + c_n))        h' = (1 − z) · n + z · h

    A state is h.
    """

    gates, vectors = 3, 1

    def step(self, inputs: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        output = torch.gru_cell(inputs, states, *self.weights)
        return output, output

    def run(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        return self._over_time(inputs, batch_sizes, states)[0]

    def last_states(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        return self._over_time(inputs, batch_sizes, states)[1][0]

    def _over_time(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        return torch.gru(inputs, batch_sizes.cpu(), states.unsqueeze(0).contiguous(), *self._options())


class LSTMCore(Core):
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000), as in torch.

        i, f, o = σ(W x + b + U h + d), each with its own        g = tanh(W_g x + b_g + U_g h + d_g)
        c' = f · c + i · g        h' = o · tanh(c')

    A state is h beside c.
    """

    gates, vectors = 4, 2

    def step(self, inputs: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        output, cell = torch.lstm_cell(inputs, states.chunk(2, -1), *self.weights)
        return output, torch.cat([output, cell], -1)

    def run(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        if inputs.device.type == "cpu" and len(batch_sizes) * len(states) <= MOST_PADDING * len(inputs):
            return self._padded(inputs, batch_sizes, states)
        return torch.lstm(inputs, batch_sizes.cpu(), self._first(states), *self._options())[0]

    def last_states(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        _, output, cell = torch.lstm(inputs, batch_sizes.cpu(), self._first(states), *self._options())
        return torch.cat([output[0], cell[0]], -1)

    def _first(self, states: Tensor) -> list[Tensor]:
        return [part.unsqueeze(0).contiguous() for part in states.chunk(2, -1)]

    def _padded(self, inputs: Tensor, batch_sizes: Tensor, states: Tensor) -> Tensor:
        """Return the same, from sequences filled up to one length: oneDNN has a kernel over time for these alone.

        Forward and backward take 0.8 instead of 2.2 ms for 12 sequences of up to 16 steps with H = 64. No output depends on
        what comes after it.
        """
        longest, count = len(batch_sizes), len(states)
        places = torch.arange(longest * count).view(longest, count)[torch.arange(count) < batch_sizes.unsqueeze(-1)]
        full = inputs.new_zeros(longest * count, inputs.shape[-1]).index_copy(0, places, inputs)
        options: Any = (*self._options(), False)
        outputs: Tensor = torch.lstm(full.view(longest, count, -1), self._first(states), *options)[0]
        return outputs.flatten(0, 1).index_select(0, places)


class Recurrent(nn.Module):
    """Trunk with a state: an encoder of each observation, and a core over time.

    Args:
        encoder: layers from observations to the inputs [B, I] of the core.
        core: layer from inputs and states to features.
    """

    def __init__(self, encoder: nn.Module, core: Core) -> None:
        super().__init__()
        self.encoder, self.core, self.state_size = encoder, core, core.state_size
        self.first = 0
        """First column of the core's state in the policy's, which may have those of several trunks."""

    def step(self, observations: Observations, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, F] of observations [N, *obs], and the policy's states [N, S] after them."""
        end = self.first + self.state_size
        features, own = self.core.step(self.encoder(observations), states[:, self.first : end])
        return features, torch.cat([states[:, : self.first], own, states[:, end:]], -1)

    def forward(self, sequences: Sequences) -> Tensor:
        """Return features [B, F] of the steps of sequences that are wanted."""
        states, before = self._own(sequences), sequences.burn_in
        if before is not None and sequences.continued is not None:
            with torch.no_grad():
                inputs = self.encoder(before.observations)
                ends = self.core.last_states(inputs, before.batch_sizes, self._own(before))
                states = states.index_copy(0, sequences.continued, ends)
        features = self.core.run(self.encoder(sequences.observations), sequences.batch_sizes, states)
        return features if sequences.taken is None else features.index_select(0, sequences.taken)

    def _own(self, sequences: Sequences) -> Tensor:
        """Return the core's part of the first states."""
        return sequences.states[:, self.first : self.first + self.state_size]


def state_size_of(trunk: nn.Module) -> int:
    """Return the number of columns of a trunk's state; 0 for one that is not recurrent."""
    return trunk.state_size if isinstance(trunk, Recurrent) else 0


def features_of(trunk: nn.Module, observations: Inputs) -> Tensor:
    """Return what a trunk, with a state or without, makes of observations [B, *obs] or of sequences: features [B, F]."""
    if isinstance(observations, Sequences) and not isinstance(trunk, Recurrent):
        observations = observations.rows()
    features: Tensor = trunk(observations)
    return features


def read_by(reader: Any, sequences: Sequences) -> Sequences:
    """Return sequences whose observations, and those of the burn-in, are as the networks take them."""
    burn_in = None if sequences.burn_in is None else read_by(reader, sequences.burn_in)
    return replace(sequences, observations=reader(sequences.observations), burn_in=burn_in)
