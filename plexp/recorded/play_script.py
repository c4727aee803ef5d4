"""The script that plays an episode with an exported policy, and needs no plexp."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import gymnasium
from gymnasium import spaces

SCRIPT = '''"""{title}

Plays an episode: python {name}{show}. It needs {runtime} and gymnasium.
"""
{system}from pathlib import Path

import gymnasium
{imports}

{policy}
{mode}env = gymnasium.make({make})
{flatten}(observation, _), total, over = env.reset(seed=0), 0.0, False
while not over:
    action = {action}
    observation, reward, terminated, truncated, _ = env.step(action)
    total, over = total + float(reward), terminated or truncated
print(f"return {{total:.2f}}")
'''
PARTS = {
    "pt2": {
        "runtime": "torch",
        "imports": "import torch",
        "policy": 'policy = torch.export.load(Path(__file__).with_name("{file}")).module()',
        "action": "policy(torch.as_tensor(observation, dtype=torch.{dtype})[None]).detach().numpy()[0]",
    },
    "onnx": {
        "runtime": "onnxruntime",
        "imports": "import numpy as np\nimport onnxruntime",
        "policy": 'policy = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"))',
        "action": 'policy.run(None, {{"observations": np.asarray(observation, np.{dtype})[None]}})[0][0]',
    },
}
SHOW = {
    "show": " [--show]",
    "system": "import sys\n",
    "mode": 'render_mode = "human" if "--show" in sys.argv else None\n',
}
"""For an environment that can be watched."""
FLATTEN = "env = gymnasium.wrappers.FlattenObservation(env)\n"


def play_script(sheet: Mapping[str, Any], file: str, title: str, *, image: bool) -> str:
    """For an environment of gymnasium (the sheet's `id`, `kwargs`, `max_episode_steps`) and a policy file beside the script.

    `image`: the observations are bytes. Raises gymnasium's Error, or ImportError, where gymnasium does not make it.
    """
    limit = sheet.get("max_episode_steps")
    kwargs: dict[str, Any] = {key: value for key, value in sheet.get("kwargs", {}).items() if key != "render_mode"}
    given = {**({} if limit is None else {"max_episode_steps": limit}), "disable_env_checker": True, **kwargs}
    with closing(gymnasium.make(sheet["id"], **given)) as env:
        is_flat = isinstance(env.observation_space, spaces.Box)
        can_show = "human" in env.metadata.get("render_modes", ())
    names = {"file": file, "dtype": "uint8" if image else "float32"}
    parts = {key: text.format(**names) for key, text in PARTS[file.rpartition(".")[2]].items()}
    return SCRIPT.format(
        title=title,
        name="play.py" if file.endswith("pt2") else "play_onnx.py",
        make=", ".join([_quoted(sheet["id"]), *_arguments(given), *(["render_mode=render_mode"] if can_show else [])]),
        flatten="" if is_flat else FLATTEN,
        **(SHOW if can_show else dict.fromkeys(SHOW, "")),
        **parts,
    )


def _arguments(given: Mapping[str, Any]) -> list[str]:
    """As Python writes them; by ** where a name is none."""
    odd = {key: value for key, value in given.items() if not key.isidentifier()}
    plain = [f"{key}={_quoted(value)}" for key, value in given.items() if key not in odd]
    return [*plain, f"**{odd!r}"] if odd else plain


def _quoted(value: object) -> str:
    plain = isinstance(value, str) and value.isprintable() and not set(value) & {'"', "\\"}
    return f'"{value}"' if plain else repr(value)
