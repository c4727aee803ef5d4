"""The script that plays an episode with an exported policy and needs no plexp; its text is play_script.py.j2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces
from jinja2 import Environment, FileSystemLoader

from plexp.envs.packing import PackedSpace
from plexp.envs.spaces import is_image
from plexp.nn.layout import LEGAL, MASK


def play_script(env: Mapping[str, Any], file: str, title: str, space: spaces.Space[Any], state_size: int) -> str:
    """Return the script for a policy file that lies beside it.

    Args:
        env: configuration of an environment of gymnasium: `id`, `kwargs`, `max_episode_steps`, `observed` and
            `frame_stack`.
        file: name of the policy file, which ends with `pt2` or `onnx`.
        title: first line of the script.
        space: space of the observations that the policy takes.
        state_size: number of entries of a recurrent policy's state; 0 for any other.

    Raises gymnasium's Error, or ImportError, for an environment that gymnasium does not make.
    """
    limit = env.get("max_episode_steps")
    kwargs = {key: value for key, value in env.get("kwargs", {}).items() if key != "render_mode"}
    arguments = {**({} if limit is None else {"max_episode_steps": limit}), "disable_env_checker": True, **kwargs}
    with closing(gymnasium.make(env["id"], **arguments)) as made:
        is_flat = isinstance(made.observation_space, spaces.Box)
        packed = (
            space if isinstance(space, PackedSpace) and (LEGAL in space.layout.parts or space.layout.is_bytes) else None
        )
        is_composite = isinstance(made.action_space, spaces.Dict | spaces.Tuple)
        can_show = "human" in made.metadata.get("render_modes", ())
    texts = [_literal(env["id"]), *_as_code(arguments), *(["render_mode=render_mode"] if can_show else [])]
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True
    )
    return templates.get_template("play_script.py.j2").render(
        title=title,
        name="play.py" if file.endswith("pt2") else "play_onnx.py",
        runtime="torch" if file.endswith("pt2") else "onnxruntime",
        file=file,
        arguments=", ".join(texts),
        dtype="uint8" if is_image(space) else "float32",
        is_flat=is_flat,
        is_composite=is_composite,
        observed=env.get("observed"),
        frame_stack=env.get("frame_stack"),
        state_size=state_size,
        **({} if packed is None else _packing(packed)),
        can_show=can_show,
    )


def _packing(space: PackedSpace) -> dict[str, Any]:
    """Return what the script needs to pack an observation into a row."""
    layout = space.layout.of_floats()
    places = zip(space.leaves, layout.parts.values(), strict=False)  # the mask, if there is one, is the last part
    parts = [(path, part.start, part.stop) for (path, _), part in places]
    where = "info" if space.mask == "info" else "observation"
    return {"size": layout.size, "parts": parts, "mask": layout.parts.get(LEGAL), "mask_of": f'{where}["{MASK}"]'}


def _as_code(arguments: Mapping[str, Any]) -> list[str]:
    """Return keyword arguments as Python code; those whose names are no identifiers by `**`."""
    others = {key: value for key, value in arguments.items() if not key.isidentifier()}
    texts = [f"{key}={_literal(value)}" for key, value in arguments.items() if key not in others]
    return [*texts, f"**{_literal(others)}"] if others else texts


def _literal(value: object) -> str:
    """Return a value as Python code, which has no literal of an infinite number."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    is_plain = isinstance(value, str) and value.isprintable() and not set(value) & {'"', "\\"}
    return f'"{value}"' if is_plain else repr(value)
