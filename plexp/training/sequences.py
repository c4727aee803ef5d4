"""The sequences that recurrent networks are evaluated and trained on: parts of episodes, never across their ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plexp.envs.environment import Array
from plexp.nn.pytree import TreeSpec, flatten, unflattener
from plexp.nn.recurrent import Sequences
from plexp.training.types import Minibatch, Trajectory


def packed(begins: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """Return the order in which the steps of sequences are evaluated together, as torch's PackedSequence has it.

    Args:
        begins: [C] index of the first step of each sequence, whose other steps follow.
        lengths: [C] number of its steps, 1 or more.

    Returns the sequences [C], the longest first; the indices [R] of the steps, all first ones and then all second ones; and
    how many sequences [L] have a first, second, … step.
    """
    order = np.argsort(-lengths, kind="stable")
    begins, ordered = begins[order], lengths[order]
    # of the sequences in this order, those that have a k-th step are the first batch_sizes[k]
    batch_sizes = np.searchsorted(-ordered, -np.arange(ordered[0]), side="left")
    steps = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
    rank = np.arange(len(steps)) - np.repeat(np.cumsum(batch_sizes) - batch_sizes, batch_sizes)
    return order, begins[rank] + steps, batch_sizes


def episode_starts(trajectory: Trajectory) -> Array:
    """Return which rows [T, N] after the first ones show the first observation of an episode; False for the first ones."""
    valid, done = trajectory.valid.numpy(), (trajectory.terminated | trajectory.truncated).numpy()
    starts = np.zeros_like(valid)
    starts[1:] = valid[1:] & (done[:-1] | ~valid[:-1])
    return starts


def parts_of_episodes(trajectory: Trajectory) -> tuple[Array, Array]:
    """Return the rows [R] of the flattened [T · N] that a policy saw in an episode, and which of them begin a part [R].

    The rows are ordered by environment and time. A row that only resets (NEXT_STEP) is the last one of its episode, since it
    shows the true final observation; other rows that are not valid are left out.
    """
    valid = trajectory.valid.numpy()
    steps, envs = valid.shape
    seen = valid.copy()
    seen[0], seen[1:] = True, valid[1:] | valid[:-1]
    begins = episode_starts(trajectory)
    begins[0] = True
    rows = np.arange(steps * envs).reshape(steps, envs).T[seen.T]
    return rows, begins.T[seen.T]


def unroll(trajectory: Trajectory, *, with_successors: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return how a trajectory is evaluated from the states that its episodes have in it.

    Args:
        trajectory: T steps of N environments, with K final observations.
        with_successors: also the observations after the last steps, each as the continuation of its own episode.

    Returns rows [R] of [T · N observations, N last ones, K final ones] in the order of `Sequences`, its `batch_sizes`, and the
    states [C, S] that the sequences begin with.
    """
    assert trajectory.states is not None
    rows, begins = parts_of_episodes(trajectory)
    part = np.cumsum(begins) - 1
    if with_successors:
        steps, envs = trajectory.rewards.shape
        final_index = trajectory.final_index.numpy()
        last = np.arange((steps - 1) * envs, steps * envs)
        last = last[~np.isin(last, final_index)]
        sources = np.concatenate([last, final_index])
        successors = np.concatenate([last + envs, (steps + 1) * envs + np.arange(len(final_index))])
        place = np.full(steps * envs, -1)
        place[rows] = np.arange(len(rows))
        places, is_seen = place[sources], place[sources] >= 0
        rows = np.insert(rows, places[is_seen] + 1, successors[is_seen])
        part = np.insert(part, places[is_seen] + 1, part[places[is_seen]])
    lengths = np.bincount(part)
    starts = np.cumsum(lengths) - lengths
    order, indices, batch_sizes = packed(starts, lengths)
    first_rows = rows[starts][order]
    states = trajectory.states.flatten(0, 1)[torch.from_numpy(first_rows)]
    return torch.from_numpy(rows[indices]), torch.from_numpy(batch_sizes), states


class SequenceBatch:
    """Valid rows of trajectories, cut into sequences of at most L steps, from which minibatches of whole sequences are made.

    Args:
        batch: the valid rows, in the order of the flattened [T, N] of each trajectory.
        trajectories: the trajectories that they are of.
        length: L; larger: gradients of longer memories, and more time.
    """

    def __init__(self, batch: Minibatch, trajectories: list[Trajectory], length: int) -> None:
        cuts = [_cut(trajectory, length) for trajectory in trajectories]
        offsets = np.cumsum([0, *(trajectory.num_valid for trajectory in trajectories)])
        rows = np.concatenate([rows + offset for (rows, _, _), offset in zip(cuts, offsets[:-1], strict=True)])
        self.lengths = np.concatenate([lengths for _, lengths, _ in cuts])
        device = batch.advantages.device
        self.states = torch.cat([states for _, _, states in cuts]).to(device)
        leaves, spec_of_rows = flatten(batch)
        order = torch.from_numpy(rows).to(device)
        self.leaves = [leaf.index_select(0, order) for leaf in leaves]
        self.begins, self.rebuild = np.cumsum(self.lengths) - self.lengths, unflattener(spec_of_rows)

    @property
    def spec(self) -> TreeSpec:
        """Structure of the minibatches."""
        return flatten(self._of(np.zeros(1, np.int64)))[1]

    def minibatches(self, number: int, rng: np.random.Generator) -> Iterator[list[Tensor]]:
        """Yield the tensors of `number` minibatches of almost as many rows, of whole sequences in a new random order.

        There are never more minibatches than sequences.
        """
        order = rng.permutation(len(self.lengths)) if number > 1 else np.arange(len(self.lengths))
        ends = np.cumsum(self.lengths[order])
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, number) / number, side="left") + 1
        for sequences in np.split(order, np.unique(cuts)):
            if len(sequences):
                yield flatten(self._of(sequences))[0]

    def _of(self, sequences: Array) -> Minibatch:
        """Return the minibatch of some of the sequences."""
        order, indices, batch_sizes = packed(self.begins[sequences], self.lengths[sequences])
        taken = torch.from_numpy(indices).to(self.states.device)
        batch: Minibatch = self.rebuild([leaf.index_select(0, taken) for leaf in self.leaves])
        states = self.states[torch.from_numpy(sequences[order]).to(self.states.device)]
        observations: Any = batch.observations
        return replace(batch, observations=Sequences(observations, torch.from_numpy(batch_sizes), states))


def _cut(trajectory: Trajectory, length: int) -> tuple[Array, Array, Tensor]:
    """Cut the valid rows of a trajectory into sequences of at most `length` steps.

    Returns their indices among the valid rows, sequence by sequence; the number of steps of each sequence; and the states
    that they begin with.
    """
    assert trajectory.states is not None
    valid = trajectory.valid.numpy().reshape(-1)
    rows, begins = parts_of_episodes(trajectory)
    starts = np.flatnonzero(begins)
    since = np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))
    rows, begins = rows[valid[rows]], (since % length == 0)[valid[rows]]
    states = trajectory.states.flatten(0, 1)[torch.from_numpy(rows[begins])]
    return (np.cumsum(valid) - 1)[rows], np.diff([*np.flatnonzero(begins), len(rows)]), states
