"""Dataclasses of tensors as flat lists, and back.

The functions of `torch.utils._pytree` that plexp uses, tried with torch 2.6 to 2.13: the module is private, and torch has no
public one. Dataclasses take part after `torch.export.register_dataclass`, which is public; their fields are matched by name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree
from torch.utils._pytree import TreeSpec

__all__ = ["TreeSpec", "flatten", "unflatten"]


def flatten(tree: Any) -> tuple[list[Tensor], TreeSpec]:
    """Return the tensors of a tree, and its structure; fields that are None belong to the structure."""
    return _pytree.tree_flatten(tree)


def unflatten(leaves: list[Tensor], spec: TreeSpec) -> Any:
    """Return the tree with this structure and these tensors."""
    return _pytree.tree_unflatten(leaves, spec)
