"""Checkpoints: everything that a run needs to be resumed, in one file that is either whole or known to be damaged.

The format is safetensors, with everything but tensors as JSON in the header; nothing is ever unpickled. A file's name has its
step and the SHA-256 of its bytes, so that one rename makes it valid.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from plexp.files import sync_folder, write_whole

State: TypeAlias = Mapping[str, Any]
"""A state: nested mappings and lists of tensors, NumPy arrays, numbers, texts, booleans and None."""
FORMAT = 1
KEPT = 2
"""Number of files that stay: the newest, and the one before it in case the newest is damaged."""
NAME = re.compile(r"step-(\d{12})-([0-9a-f]{64})\.safetensors")
HEADER = "plexp"
TENSOR, ARRAY = "tensor://", "array://"
"""Prefixes of texts in the JSON that stand for the tensor or NumPy array of that number."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read."""

    state: dict[str, Any]
    """State of every part by name; empty if all files are damaged."""
    steps: int
    """Environment steps that had been learnt from."""
    damaged: list[str] = field(default_factory=list)
    """Damaged newer files, each with what is wrong."""


def save(folder: Path, state: State, steps: int) -> Path:
    """Write a state, whole or not at all, and remove all but the newest `KEPT` files.

    Raises OSError, and leaves the earlier files as they are, if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = encode(state)
    path = folder / f"step-{steps:012d}-{hashlib.sha256(data).hexdigest()}.safetensors"
    write_whole(path, data)
    sync_folder(folder)
    damaged = [file for file in _files(folder) if file.name > path.name]  # or this run would not be before them
    for old in [*damaged, *_files(folder)[len(damaged) + KEPT :]]:
        with suppress(OSError):
            old.unlink()
    return path


def load(folder: Path, restore: Callable[[dict[str, Any]], None] = lambda state: None) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; None if there is none.

    `restore` gets its state, and raises DamagedLog if what it refers to is not whole.
    """
    damaged: list[str] = []
    for path in _files(folder):
        name = NAME.fullmatch(path.name)
        assert name is not None
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != name[2]:
                raise ValueError(f"its {len(data)} bytes are not those that were written")
            state = decode(data)
            restore(state)
            return Checkpoint(state, int(name[1]), damaged)
        except (OSError, ValueError) as error:
            damaged.append(f"{path.name}: {error}")
    return Checkpoint({}, 0, damaged) if damaged else None


def encode(state: State) -> bytes:
    """Return a state as the bytes of a safetensors file. Raises TypeError for an object that cannot be in one."""
    tensors: dict[str, Tensor] = {}
    tree = _packed(state, tensors, "state")
    header = json.dumps({"format": FORMAT, "state": tree}, separators=(",", ":"))
    return save_tensors(tensors, metadata={HEADER: header})


def decode(data: bytes) -> dict[str, Any]:
    """Return the state that was given to `encode`. Raises ValueError for another format."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
    except KeyError:
        raise ValueError("it is not a checkpoint of plexp") from None
    if header["format"] != FORMAT:
        raise ValueError(f"it has format {header['format']}, and this version of plexp reads format {FORMAT}")
    state: dict[str, Any] = _unpacked(header["state"], load_tensors(data))
    return state


def copied(state: Any) -> Any:
    """Return a copy of a state, on the CPU and independent of later changes in place."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, np.ndarray):
        return state.copy()
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        plain = all(isinstance(value, int | float | str) for value in state)
        return list(state) if plain else [copied(value) for value in state]
    return state


def _packed(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    match value:
        case Tensor():
            tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()  # of memory of its own
            return f"{TENSOR}{len(tensors) - 1}"
        case np.ndarray() if value.dtype.kind in "biuf":
            tensors[str(len(tensors))] = torch.from_numpy(np.array(value, order="C"))
            return f"{ARRAY}{len(tensors) - 1}"
        case Mapping():
            return {str(key): _packed(item, tensors, f"{where}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [_packed(item, tensors, where) for item in value]
        case np.generic():
            return _packed(value.item(), tensors, where)
        case str() if value.startswith((TENSOR, ARRAY)):
            raise TypeError(f"{where}: the text {value!r} stands for a tensor")
        case None | bool() | int() | float() | str():
            return value
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(f"{where}: {kind} cannot be in a checkpoint")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case dict():
            return {key: _unpacked(item, tensors) for key, item in value.items()}
        case list():
            return [_unpacked(item, tensors) for item in value]
        case str() if value.startswith(TENSOR):
            return tensors[value.removeprefix(TENSOR)]
        case str() if value.startswith(ARRAY):
            return tensors[value.removeprefix(ARRAY)].numpy()
    return value


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), reverse=True)
