"""Values of configurations in JSON, exactly: with keys that are not texts, which JSON does not have.

Importing this needs neither Hydra nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ITEMS = "__items__"
"""Key under which a mapping is written as a list of its keys and values."""
SCALARS = (str, int, float, bool, type(None))
"""Types that YAML and JSON give back as they were."""


def dumps(value: Any, **options: Any) -> str:
    """Return a value as JSON, such that `loads` returns it with the same types; `options` are those of `json.dumps`."""
    return json.dumps(_written(value), **options)


def loads(text: str) -> Any:
    """Return the value that `dumps` wrote, or any other JSON. Raises ValueError for a text that is none."""
    return json.loads(text, object_hook=_read)


def unrecordable(value: object, key: str) -> Iterator[tuple[str, object]]:
    """Yield the parts of a value that a record would not give back as they are, each with its dotted key."""
    if type(value) is dict:
        for name, part in value.items():
            if type(name) not in SCALARS:
                yield key, name
            yield from unrecordable(part, f"{key}.{name}")
    elif type(value) is list:
        for i, part in enumerate(value):
            yield from unrecordable(part, f"{key}[{i}]")
    elif type(value) not in SCALARS:
        yield key, value


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value) and value.keys() != {ITEMS}:
            return {key: _written(part) for key, part in value.items()}
        pairs = [[key, _written(part)] for key, part in value.items()]
        return {ITEMS: sorted(pairs, key=lambda pair: f"{type(pair[0]).__name__} {pair[0]}")}
    if isinstance(value, list | tuple):
        return [_written(part) for part in value]
    return value


def _read(mapping: dict[str, Any]) -> dict[Any, Any]:
    return dict(mapping[ITEMS]) if mapping.keys() == {ITEMS} else mapping
