"""Exports agents: files that act without plexp, and a script beside each that plays an episode with it."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from plexp.envs.adapter import EnvAdapter
from plexp.errors import ConfigError, Problem, one_line, writing
from plexp.execution.experiment import Experiment
from plexp.files import draft_of, try_writing, write_whole
from plexp.nn.recurrent import state_size_of
from plexp.recorded.play_script import play_script
from plexp.recorded.restore import restored
from plexp.tracking.lookup import RunHandle
from plexp.tracking.models import register
from plexp.training.policy import as_model, forgotten, greedy_policy

Act = Callable[..., Sequence[Tensor]]
"""A function from observations [B, *obs] as the environment gives them, and the state [B, S] of a recurrent policy, to actions
[B, *act] as the environment takes them, and the next state."""
INPUTS, OUTPUTS = ("observations", "state"), ("actions", "next_state")
"""Names of what an ONNX file takes and gives; those of the state only for a recurrent policy."""
BATCHES = (1, 2, 7)
STEPS = 64
"""Steps of each of the seven environments whose observations a file is tried with; more: surer, and slower."""
TOLERANCE = 1e-4
"""Largest relative difference of actions: far above the rounding of other kernels, far below a mistake."""
NEEDS = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Formats, each with the packages that it needs."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and tried on real observations."""

    file: Path
    script: Path | None
    """Script that plays an episode with it; None for an environment that gymnasium does not make by an id."""
    observations: int
    """Number of observations on which its actions were compared with the agent's, in batches of 1, 2 and 7."""
    difference: float
    """Largest difference of an action; of choices the share that differs (logits that are equal but for rounding)."""


def check_formats(formats: list[str]) -> None:
    """Raise ConfigError for a format whose packages are not installed."""
    for kind in formats:
        if missing := [name for name in NEEDS[kind] if importlib.util.find_spec(name) is None]:
            cause = f"it needs the package {missing[0]}, which is missing"
            raise ConfigError(Problem("--format", kind, cause, f'pip install "plexp[{kind}]"'))


def export(experiment: Experiment, formats: list[str], folder: Path, title: str) -> list[Exported]:
    """Write the greedy policy in each format of `NEEDS`, and a script that plays an episode with it.

    Raises ConfigError for a policy that cannot be traced, and a file that acts differently or cannot be written.
    """
    check_formats(formats)
    policy = greedy_policy(experiment.agent).eval()
    inputs = policy.inputs(*met_observations(experiment))
    exported = []
    for kind in formats:
        file = folder / f"policy.{kind}"
        with writing("--to", folder, "give a folder that you can write: --to FOLDER"):
            act = write(policy, tuple(column[:2] for column in inputs), kind, file)
            script = _write_script(experiment, file, title)
        difference = compare(act, policy, inputs)
        if difference > _tolerance(experiment.training_env.single_action_space.dtype):
            file.unlink()
            cause = f"what it gives acts differently from the agent (by {difference:.2g})"
            raise ConfigError(Problem("--format", kind, cause, f"give --format {'pt2' if kind == 'onnx' else 'onnx'}"))
        exported.append(Exported(file, script, len(inputs[0]), difference))
    return exported


def write(policy: nn.Module, example: tuple[Tensor, ...], kind: str, file: Path) -> Act:
    """Write a policy and return it as it is read back.

    Args:
        policy: observations [B, *obs] -> actions [B, *act], with the state before and after of a recurrent one.
        example: arguments of the policy with B = 2; the file takes any B.
        kind: format of the file.
        file: where to write it.

    Raises ConfigError if it cannot be traced, OSError if it cannot be written.
    """
    try_writing(file.parent)  # or say so, before it takes seconds
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells that torchvision is not there
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")  # and torch.export prints the graph it fails at
            with draft_of(file) as draft:
                try:
                    return {"pt2": _write_pt2, "onnx": _write_onnx}[kind](policy, example, draft)
                except Exception:
                    try_writing(file.parent)  # raises what is wrong, where torch does not name it
                    raise
    except (OSError, ImportError):
        raise
    except Exception as error:  # torch.export has dozens of its own
        cause = f"torch cannot trace this policy ({type(error).__name__}: {one_line(error)[:200]})"
        remedy = "its network must be of tensor operations, without choices that depend on their values"
        raise ConfigError(Problem("--format", kind, cause, remedy)) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _write_pt2(policy: nn.Module, example: tuple[Tensor, ...], file: Path) -> Act:
    rows = tuple({0: torch.export.Dim("batch")} for _ in example)
    torch.export.save(torch.export.export(policy, example, dynamic_shapes=rows), file)
    read = torch.export.load(file).module()
    return lambda *inputs: _as_tuple(read(*inputs))


def _write_onnx(policy: nn.Module, example: tuple[Tensor, ...], file: Path) -> Act:
    import onnxruntime

    inputs, outputs = INPUTS[: len(example)], OUTPUTS[: len(example)]
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs)}
    rows = tuple({0: torch.export.Dim("batch")} for _ in example)
    torch.onnx.export(
        policy, example, file, dynamic_shapes=rows, dynamo=True, external_data=False, verbose=False, **names
    )
    session = onnxruntime.InferenceSession(file)

    def act(*given: Tensor) -> tuple[Tensor, ...]:
        columns = {name: column.numpy() for name, column in zip(inputs, given, strict=True)}
        return tuple(torch.from_numpy(result) for result in session.run(None, columns))

    return act


def _as_tuple(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _tolerance(dtype: Any) -> float:
    """Return the largest relative difference of actions of a type: `TOLERANCE`, or one step of a coarser type."""
    return max(TOLERANCE, float(np.finfo(dtype).eps)) if np.issubdtype(dtype, np.floating) else TOLERANCE


@torch.no_grad()
def compare(act: Act, policy: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Return the largest relative difference of actions and states, in batches of 1, 2 and 7.

    Of integers it is the share that differs.
    """
    parts = [part for size in BATCHES for part in zip(*(column.split(size) for column in inputs), strict=True)]  # type: ignore[no-untyped-call]
    ours = [torch.cat(column) for column in zip(*(_as_tuple(policy(*part)) for part in parts), strict=True)]
    theirs = [torch.cat(column) for column in zip(*(act(*part) for part in parts), strict=True)]
    return max(_difference(*pair) for pair in zip(ours, theirs, strict=True))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if not ours.is_floating_point():
        return float((ours != theirs).double().mean())
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))


def met_observations(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return observations [B, *obs] that the agent meets when it plays, and the states [B, S] before them."""
    agent, count = experiment.agent, max(BATCHES)
    with closing(experiment.environment.make(count, experiment.streams.evaluation(0))) as env:
        adapter = EnvAdapter(env, agent.distribution)
        rows, states = [torch.from_numpy(adapter.reset())], [agent.initial_state(count)]
        ended = np.zeros(count, np.bool_)
        for _ in range(STEPS):
            actions, state = agent.act_greedily(rows[-1], states[-1])
            observations, _, terminated, truncated, _ = adapter.step(actions)
            done = terminated | truncated
            states.append(forgotten(state, done if adapter.same_step else ended))
            rows.append(torch.from_numpy(observations))
            ended = done
    return torch.cat(rows), torch.cat(states)


def _write_script(experiment: Experiment, file: Path, title: str) -> Path | None:
    env: Mapping[str, Any] = experiment.config.env
    if "id" not in env:
        return None
    try:
        space, state_size = experiment.training_env.single_observation_space, state_size_of(experiment.agent.trunk)
        text = play_script(env, file.name, title, space, state_size)
    except (gymnasium.error.Error, ImportError):  # an id of another library that this plugin knows
        return None
    path = file.with_name("play.py" if file.suffix == ".pt2" else "play_onnx.py")
    write_whole(path, text)
    return path


def export_run(run: RunHandle, formats: list[str], folder: Path) -> Iterator[str]:
    """Write the agent of a run in these formats, with a script beside each, and yield a line for each file.

    Raises ConfigError for a run without an agent, one that cannot be traced, and a folder that cannot be written.
    """
    title = f"The greedy agent of {run.name} (run {run.run_id})"
    if "eval/final_return" in run.metrics:
        title += f", final return {run.metrics['eval/final_return']:.1f}"
    with restored(run.values, run.file("agent.safetensors"), run.newer) as experiment:
        for made in export(experiment, formats, folder, f"{title}."):
            how = f"largest difference {made.difference:.1e}" if made.difference else "equal"
            yield f"{made.file}  actions on {made.observations} observations, by 1, 2 and 7: {how}"
            if made.script is None:
                yield "no script beside it: gymnasium makes no such environment by its id"
            else:
                yield f"{made.script}  plays an episode with it, without plexp"


def check_name(name: str) -> None:
    """Raise ConfigError for a name that MLflow's registry refuses."""
    if not name.strip() or name.startswith("..") or name == "." or re.search(r"[/:']", name):
        remedy = "give --register another, without / : or ', such as cartpole"
        raise ConfigError(Problem("--register", name, "this is no name for a registered model", remedy))


def register_run(run: RunHandle, name: str) -> str:
    """Make the run's model a version of a registered model, and its alias `best`; return a line that says so.

    A run without a model gets one.
    """

    def policy() -> tuple[nn.Module, object]:
        with restored(run.values, run.file("agent.safetensors"), run.newer) as experiment:
            return as_model(experiment.agent, torch.from_numpy(experiment.trainer.collector.observations)[:2])

    version = register(run, name, policy)
    return f"models:/{name}@best is version {version} now: run {run.name}, {run.run_id}"
