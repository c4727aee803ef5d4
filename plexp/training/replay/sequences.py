"""Sequences of past transitions, for recurrent networks with a Q function (R2D2 without its distributed part)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plexp.envs.environment import Array
from plexp.nn.recurrent import Sequences
from plexp.training.replay.buffer import ENDED, TERMINATED, VALID, ReplayBuffer
from plexp.training.sequences import packed
from plexp.training.types import Transitions

ETA = 0.9
"""Weight of the largest TD error of a sequence in its priority."""


def sequences(
    buffer: ReplayBuffer,
    indices: Array,
    length: int,
    burn_in: int,
    n_steps: int,
    gamma: float,
    weights: Array | None = None,
) -> tuple[Transitions, Array]:
    """Return transitions of the sequences that begin with some transitions (Kapturowski et al. 2019, section 3).

    A sequence ends with its episode, and with the newest row. What comes up to `burn_in` steps before it in its episode is
    unrolled first, without a gradient, from the state that the policy had there. The successor of each transition is
    observed within its own episode, so that its value is of the state that belongs to it.

    Args:
        buffer: has the transitions, and the states that the policy acted with.
        indices: [C] first transitions.
        length: most transitions of a sequence.
        burn_in: most steps before it.
        n_steps, gamma: see `ReplayBuffer.transitions`.
        weights: [C] importance weights; None: one each.

    Returns B transitions, sequence by sequence, and the number of them [C] in each sequence.
    """
    trained, lengths = _continued(buffer, indices, length)
    last, at, rewards, powers = buffer.follow(trained, trained % buffer.size, n_steps, gamma)
    flags = buffer.flags.take(at)
    ends = np.cumsum(lengths) - 1
    unrolled = (last[ends] - indices) // buffer.num_envs + 1  # steps with an observation of their own
    observations = _with_successors(buffer, indices, unrolled, last[ends], at[ends], flags[ends])
    starts = np.cumsum(unrolled + 1) - unrolled - 1
    order, rows, batch_sizes = packed(starts, unrolled + 1)
    place = np.empty_like(rows)
    place[rows] = np.arange(len(rows))
    start_of, first_of = np.repeat(starts, lengths), np.repeat(indices, lengths)
    begins, preceding = _preceding(buffer, indices, burn_in)
    before = _burn_in(buffer, begins, preceding)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    now = Sequences(
        torch.from_numpy(observations[rows]),
        torch.from_numpy(batch_sizes),
        torch.from_numpy(buffer.states.take(indices[order] % buffer.size, 0)),
        torch.from_numpy(place[start_of + (trained - first_of) // buffer.num_envs]),
        None if before is None else before[0],
        None if before is None else torch.from_numpy(rank[before[1]]),
    )
    taken = torch.from_numpy(place[start_of + (last - first_of) // buffer.num_envs + 1])
    following = Sequences(now.observations, now.batch_sizes, now.states, taken, now.burn_in, now.continued)
    batch = Transitions(
        observations=now,
        actions=torch.from_numpy(buffer.actions.take(trained % buffer.size, 0)),
        rewards=torch.from_numpy(rewards),
        next_observations=following,
        discounts=torch.from_numpy(powers * (flags & TERMINATED == 0)),
        weights=torch.ones(len(trained)) if weights is None else torch.from_numpy(np.repeat(weights, lengths)),
    )
    return batch, lengths


def mixed_errors(td_errors: Tensor, lengths: Array) -> Tensor:
    """Return η · max |δ| + (1 − η) · mean |δ| of each sequence [C] with η = 0.9 (Kapturowski et al. 2019, section 2.3).

    Args:
        td_errors: [B] δ, sequence by sequence.
        lengths: [C] number of transitions of each.
    """
    parts = td_errors.abs().split(lengths.tolist())  # type: ignore[no-untyped-call]
    return torch.stack([ETA * part.max() + (1 - ETA) * part.mean() for part in parts])


def _continued(buffer: ReplayBuffer, indices: Array, length: int) -> tuple[Array, Array]:
    """Return the transitions of sequences, one sequence after the other, and their numbers [C]."""
    newest = (buffer.added - 1) * buffer.num_envs
    steps = indices[:, None] + buffer.num_envs * np.arange(length)
    ended = buffer.flags.take(steps % buffer.size) & ENDED > 0
    is_in = np.ones(steps.shape, np.bool_)
    is_in[:, 1:] = np.logical_and.accumulate(~ended[:, :-1] & (steps[:, :-1] < newest), 1)
    return steps[is_in], is_in.sum(1)


def _preceding(buffer: ReplayBuffer, indices: Array, burn_in: int) -> tuple[Array, Array]:
    """Return the first of at most `burn_in` steps before transitions in their episodes, and the number of these steps."""
    steps = indices[:, None] - buffer.num_envs * np.arange(1, burn_in + 1)
    continues = buffer.flags.take(steps % buffer.size) & (VALID | ENDED) == VALID
    is_in = np.logical_and.accumulate(continues & (steps >= buffer.oldest * buffer.num_envs), 1)
    numbers: Array = is_in.sum(1)
    return indices - buffer.num_envs * numbers, numbers


def _with_successors(
    buffer: ReplayBuffer, indices: Array, numbers: Array, last: Array, at: Array, flags: Array
) -> Array:
    """Return the observations of steps in sequence, each sequence followed by the true successor of its last step."""
    total = numbers + 1
    starts = np.cumsum(total) - total
    since = np.arange(total.sum()) - np.repeat(starts, total)
    observations = buffer.observed(np.repeat(indices, total) + buffer.num_envs * since)
    observations[starts + numbers] = buffer.successors(last, at, flags)
    return observations


def _burn_in(buffer: ReplayBuffer, begins: Array, numbers: Array) -> tuple[Sequences, Array] | None:
    """Return what comes before sequences, and of which sequence each of it is; None if nothing comes before any."""
    preceded = np.flatnonzero(numbers)
    if not len(preceded):
        return None
    begins, numbers = begins[preceded], numbers[preceded]
    starts = np.cumsum(numbers) - numbers
    order, rows, batch_sizes = packed(starts, numbers)
    since = np.arange(numbers.sum()) - np.repeat(starts, numbers)
    steps = np.repeat(begins, numbers) + buffer.num_envs * since
    states = buffer.states.take(begins[order] % buffer.size, 0)
    before = Sequences(
        torch.from_numpy(buffer.observed(steps[rows])),
        torch.from_numpy(batch_sizes),
        torch.from_numpy(states),
    )
    return before, preceded[order]
