"""Structured observations: each is one row of numbers or bytes, and a layout says where its parts lie.

So whatever keeps, moves or compares observations knows arrays only; networks get the parts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plexp.nn.normalization import ObservationNormalizer

Array = npt.NDArray[Any]
Observations: TypeAlias = Tensor | dict[str, Tensor]
"""Observations as networks take them: one tensor [B, *obs], or a tensor [B, *shape] for each part."""
PartKind: TypeAlias = Literal["numbers", "image", "choices", "mask"]
"""Kind of a part: any numbers, an image of bytes, one-hot vectors of choices, or the mask of legal actions."""
MASK = "action_mask"
"""Name, in an environment's info or observation, of what says which actions are legal."""
LEGAL = "legal actions"
"""Name of the part that says which actions are legal."""
VECTOR = "vector"
"""Name of all other parts joined, for networks that take a vector."""
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Part:
    """A part of a structured observation."""

    kind: PartKind
    shape: tuple[int, ...]
    """Shape of the part in one observation."""
    start: int
    """First entry in the row."""
    stop: int
    """Entry after the last one."""


class Layout:
    """Places of the parts in a row: of float32, or of bytes where there are images, so that a pixel needs one.

    Args:
        parts: name, kind and shape of each part, in their order.
        is_bytes: whether rows are of bytes; None: where there are images.
    """

    def __init__(self, parts: Sequence[tuple[str, PartKind, tuple[int, ...]]], *, is_bytes: bool | None = None) -> None:
        self.is_bytes = any(kind == "image" for _, kind, _ in parts) if is_bytes is None else is_bytes
        self.dtype = np.dtype(np.uint8 if self.is_bytes else np.float32)
        self.parts: dict[str, Part] = {}
        """Parts by name."""
        start = 0
        for name, kind, given in parts:
            shape = given or (1,)
            is_float = self.is_bytes and kind in ("numbers", "choices")
            if is_float:
                start += -start % FLOAT_BYTES
            stop = start + math.prod(shape) * (FLOAT_BYTES if is_float else 1)
            self.parts[name] = Part(kind, shape, start, stop)
            start = stop
        self.size = start + (-start % FLOAT_BYTES if self.is_bytes else 0)
        """Number of entries of a row."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]

    def pack(self, values: Sequence[Array]) -> Array:
        """Return a new row with the values of the parts, in their order."""
        row = np.zeros(self.size, self.dtype)
        for part, value in zip(self.parts.values(), values, strict=True):
            entries = row[part.start : part.stop]
            if self.is_bytes and part.kind in ("numbers", "choices"):
                entries = entries.view(np.float32)
            entries[:] = value.reshape(-1)
        return row

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the parts of rows [..., size], by name: bytes for images, bool for the mask, else float32."""
        return {name: self._read(rows, part) for name, part in self.parts.items()}

    def numbers(self, rows: Array) -> Array:
        """Return the entries of rows [..., size] that are any numbers, [..., D]."""
        if not self.is_bytes:
            return rows
        parts = [part for part in self.parts.values() if part.kind == "numbers"]
        values = [np.ascontiguousarray(rows[..., part.start : part.stop]).view(np.float32) for part in parts]
        return np.concatenate([np.empty((*rows.shape[:-1], 0), np.float32), *values], -1)

    def of_floats(self) -> Layout:
        """Return the layout of the same parts in rows of float32, whatever they are; see `as_floats`."""
        return Layout([(name, part.kind, part.shape) for name, part in self.parts.items()], is_bytes=False)

    def as_floats(self, rows: Tensor) -> Tensor:
        """Return rows [..., size] as rows of float32, in which a pixel is a number from 0 to 255."""
        parts = [self._read(rows, part).flatten(-len(part.shape)).float() for part in self.parts.values()]
        return torch.cat(parts, -1)

    def _read(self, rows: Tensor, part: Part) -> Tensor:
        entries = rows[..., part.start : part.stop]
        if part.kind == "mask":
            return entries > 0
        if part.kind == "image":
            entries = entries.to(torch.uint8)
        elif self.is_bytes:
            entries = entries.contiguous().view(torch.float32)
        return entries.reshape(*entries.shape[:-1], *part.shape)


class ObservationReader:
    """Turns observations as the environments give them into what networks take.

    Args:
        shape: shape of one observation.
        normalized: whether numbers are standardized by their running statistics.
        layout: places of its parts; None: it is one array.
        by_parts: whether networks take each part by itself; False: they take one vector of all.
    """

    def __init__(
        self, shape: tuple[int, ...], *, normalized: bool = False, layout: Layout | None = None, by_parts: bool = False
    ) -> None:
        self.layout, self.by_parts = layout, by_parts and layout is not None
        parts = {} if layout is None else {name: part for name, part in layout.parts.items() if part.kind != "mask"}
        self.has_mask = layout is not None and len(parts) < len(layout.parts)
        """True if observations say which actions are legal."""
        self.standardized = [name for name, part in parts.items() if part.kind == "numbers" or not self.by_parts]
        self.sizes = [math.prod(parts[name].shape) for name in self.standardized]
        if layout is not None:
            shape = (sum(self.sizes),)
            normalized = normalized and bool(self.sizes)
        self.inputs: tuple[int, ...] | dict[str, Part] = parts if self.by_parts else shape
        """Argument of `Network.trunk`: the shape of one observation, or its parts by name."""
        self.normalizer = ObservationNormalizer(shape) if normalized else None
        """Normalizer of the numbers; None: they stay as they are."""

    def columns(self, names: Collection[str]) -> list[int]:
        """Return the entries of some parts in the vector of all."""
        ends = list(itertools.accumulate(self.sizes))
        places = {
            name: range(end - size, end) for name, size, end in zip(self.standardized, self.sizes, ends, strict=True)
        }
        return [column for name, place in places.items() if name in names for column in place]

    def __call__(self, observations: Tensor) -> Observations:
        """Return observations [B, *obs] as networks take them."""
        layout, normalizer = self.layout, self.normalizer
        if layout is None:
            return observations if normalizer is None else normalizer(observations)
        parts = layout.read(observations)
        if self.by_parts and normalizer is None:
            return parts
        vector = self._joined(parts)
        if normalizer is not None:
            vector = normalizer(vector)
        if not self.by_parts:
            return {VECTOR: vector, LEGAL: parts[LEGAL]} if self.has_mask else vector
        for name, values in zip(self.standardized, torch.split(vector, self.sizes, -1), strict=True):
            parts[name] = values.reshape(parts[name].shape)
        return parts

    def update(self, observations: Tensor) -> None:
        """Merge observations [B, *obs] into the statistics of the normalizer, if there is one."""
        if self.normalizer is not None:
            rows = observations if self.layout is None else self._joined(self.layout.read(observations))
            self.normalizer.update(rows)

    def _joined(self, parts: dict[str, Tensor]) -> Tensor:
        """Return what is standardized as one vector [B, D]."""
        values = [parts[name].flatten(-len(self.layout.parts[name].shape)) for name in self.standardized]  # type: ignore[union-attr]
        return torch.cat([value.float() for value in values], -1) if len(values) > 1 else values[0].float()
