"""Parts of a replay buffer: a tree of sums, a queue of final observations, and the memory that is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plexp.envs.environment import Array

CGROUPS = Path("/sys/fs/cgroup")


class SumTree:
    """Binary tree of sums over `size` leaves, as one flat array (Schaul et al. 2016, appendix B.2.1).

    Node 1 is the root, the children of node i are 2i and 2i + 1, and leaf j is node `first` + j. Each inner node is always
    computed as the sum of its children, so that the tree is a function of its leaves alone.
    """

    def __init__(self, size: int) -> None:
        self.depth = (size - 1).bit_length()
        self.first = 1 << self.depth
        self.nodes = np.zeros(2 * self.first)

    @property
    def leaves(self) -> Array:
        """Values of the leaves, as a view; there may be more than `size`, of value zero."""
        return self.nodes[self.first :]

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self.nodes[1])

    def set(self, leaves: Array, values: Array) -> None:
        """Set the values [B] of leaves [B]; of a leaf that is in there repeatedly, the last value counts."""
        nodes = leaves + self.first
        self.nodes[nodes] = values
        for _ in range(self.depth):
            nodes = nodes >> 1
            self.nodes[nodes] = self.nodes.take(2 * nodes) + self.nodes.take(2 * nodes + 1)

    def set_range(self, begin: int, values: Array) -> None:
        """Set the values of neighbouring leaves from `begin` on."""
        low, high = self.first + begin, self.first + begin + len(values)
        self.nodes[low:high] = values
        while low > 1:
            low, high = low >> 1, ((high - 1) >> 1) + 1
            self.nodes[low:high] = self.nodes[2 * low : 2 * high : 2] + self.nodes[2 * low + 1 : 2 * high : 2]

    def find(self, sums: Array) -> Array:
        """Return for each x in [0, total) the leaf j with Σ_{i<j} v_i ≤ x < Σ_{i≤j} v_i; never one of value zero."""
        nodes, rest = np.ones(len(sums), np.int64), np.array(sums, np.float64)
        for _ in range(self.depth):
            nodes *= 2
            left = self.nodes.take(nodes)
            right = (rest >= left) & (self.nodes.take(nodes + 1) > 0)  # after rounding, x may be beyond the last leaf
            rest -= left * right
            nodes += right
        return nodes - self.first


class FinalObservations:
    """Queue of observations with ascending keys, in neighbouring memory: at most twice what the most of them needed."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self.keys, self.values = np.zeros(0, np.int64), np.zeros((0, *shape), dtype)
        self.begin = self.end = 0

    def __len__(self) -> int:
        return self.end - self.begin

    def add(self, keys: Array, observations: Array) -> None:
        """Add observations [K, *obs] with keys [K] that are not there yet."""
        if self.end + len(keys) > len(self.keys):
            self._move(max(16, 2 * (len(self) + len(keys))))
        before, self.end = self.end, self.end + len(keys)
        self.keys[before : self.end], self.values[before : self.end] = keys, observations
        if (np.diff(self.keys[max(self.begin, before - 1) : self.end]) < 0).any():
            live = slice(self.begin, self.end)
            order = np.argsort(self.keys[live])
            self.keys[live], self.values[live] = self.keys[live][order], self.values[live][order]

    def _move(self, capacity: int) -> None:
        """Move the observations to new memory for this number of them."""
        old, length = slice(self.begin, self.end), len(self)
        keys, values = self.keys[old], self.values[old]
        self.keys, self.values = np.zeros(capacity, np.int64), np.empty((capacity, *values.shape[1:]), values.dtype)
        self.keys[:length], self.values[:length] = keys, values
        self.begin, self.end = 0, length

    def drop_below(self, key: int) -> None:
        """Drop the observations with a smaller key."""
        if len(self) and self.keys[self.begin] < key:
            self.begin += int(np.searchsorted(self.keys[self.begin : self.end], key))

    def take(self, keys: Array) -> Array:
        """Return the observations of these keys, which must be there."""
        return self.values[self.begin + np.searchsorted(self.keys[self.begin : self.end], keys)]


def free_memory() -> int | None:
    """Return how many bytes this process can still get; None if the operating system does not say."""
    try:
        lines = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = next(int(text.split()[0]) << 10 for name, _, text in lines if name == "MemAvailable")
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
    return min([free, *_free_in_groups()])


def _free_in_groups() -> Iterator[int]:
    """Yield what each control group (cgroup v2) of this process leaves free: that of a container, or of a job of Slurm."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    except OSError:
        return
    for folder in [CGROUPS / own, *(CGROUPS / own).parents]:
        try:
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            lines = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # there is none, or its limit is "max"
            continue
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        yield max(0, limit - used + cached)
