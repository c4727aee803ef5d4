"""Tests of values in JSON: every value that a configuration may have comes back as it was, or is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from plexp.config import plain
from plexp.config.identity import identity

VALUES: list[Any] = [
    {},
    {"a": 1, "b": [1.0, True, None, "1", 1e-5, 1e300, "ü\n"]},
    {0: "a", 1: "b"},
    {"0": "a", "1": "b"},
    {0: "a", "0": "b", 1.5: "c", True: "d", None: "e"},
    {"deep": [{"er": {2: {3: [4]}}}]},
    {plain.ITEMS: [[1, 2]]},
    {plain.ITEMS: 3, "more": 4},
    {"large": math.inf, "small": -math.inf},
]


def kinds(value: Any) -> Any:
    """Return the value with the type of every part of it, in order."""
    if isinstance(value, dict):
        return [(type(key), key, kinds(part)) for key, part in sorted(value.items(), key=repr)]
    return [kinds(part) for part in value] if isinstance(value, list) else (type(value), value)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_comes_back_with_its_types(value: Any) -> None:
    assert kinds(plain.loads(plain.dumps(value))) == kinds(value)
    assert kinds(yaml.safe_load(yaml.safe_dump(value, sort_keys=False))) == kinds(value), "config.yaml has it so"
    assert list(plain.unrecordable(value, "key")) == []


def test_json_without_other_keys_is_as_it_was_before() -> None:
    for value in VALUES[:2]:
        assert plain.dumps(value, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_identities_tell_keys_of_different_types_apart_and_ignore_their_order() -> None:
    kwargs: list[dict[Any, Any]] = [{0: 1}, {"0": 1}, {0: 1, "0": 2}, {"0": 2, 0: 1}, {0: 2, "0": 1}]
    identities = [identity({"env": {"kwargs": {"table": value}}}) for value in kwargs]
    assert identities[2] == identities[3] and len(set(identities)) == 4


def test_what_a_record_would_change_is_named_with_its_key() -> None:
    value = {"a": (1, 2), "b": [0, {"c": Path("x")}], "d": {(1, 2): 3}, "e": 1}
    named = [(key, type(part)) for key, part in plain.unrecordable(value, "env.kwargs")]
    assert [key for key, _ in named] == ["env.kwargs.a", "env.kwargs.b[1].c", "env.kwargs.d"]
    assert named[0][1] is tuple and named[2][1] is tuple
