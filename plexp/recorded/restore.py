"""Rebuilds the experiment of a recorded run, with the agent that it trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from plexp.config import registry
from plexp.config.compose import apply_changes
from plexp.config.hydra_errors import compose_values
from plexp.config.schema import ROOT, SECTIONS
from plexp.envs.environment import Environment
from plexp.envs.packing import PackedActions, PackedSpace
from plexp.envs.spaces import observation_dtype
from plexp.errors import ConfigError, Problem, one_line
from plexp.execution.experiment import Experiment, build, make
from plexp.nn.layout import LEGAL, MASK
from plexp.tracking.lookup import RunHandle
from plexp.training.policy import noise_of

log = logging.getLogger("plexp")
REMOVED = {"env": {"check_bounds"}}
"""Keys that earlier versions recorded, and that changed nothing of what a run computes."""
GROUPS = {"algo": "algo", "advantage": "advantage", "net": "net", "critic_net": "net", "replay": "replay", "env": "env"}


def restored(values: dict[str, Any], weights: Path, newer: str = "") -> Experiment:
    """Return the experiment of a recorded configuration with the weights of its agent, uncompiled and on the CPU.

    Its environments are open: close `training_env`.

    Args:
        values: the recorded configuration.
        weights: file of the agent's weights.
        newer: version of plexp that recorded it, if that is newer than this one; else empty.

    Raises ConfigError for a configuration or weights that do not fit this version of plexp.
    """
    changes = {"compile": False, "device": "cpu"}
    if values.get("replay") is not None:  # nothing is trained, so nothing is kept
        least = max(values["algo"].get(key) or 1 for key in ("batch_size", "learning_starts"))
        changes |= {"replay": {**values["replay"], "capacity": max(least, values["env"].get("num_envs", 1))}}
    experiment = rebuilt(values | changes, newer)
    try:
        experiment.agent.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        experiment.close()
        remedy = "use the plexp, and the plugins, that trained it"
        raise ConfigError(Problem("run", weights.name, f"it does not fit ({one_line(error)})", remedy)) from error
    return experiment


def rebuilt(values: dict[str, Any], newer: str = "") -> Experiment:
    """Return the experiment of a recorded configuration.

    Keys that did not exist when it was recorded take their present values, and a warning names them. Raises ConfigError
    for a configuration that does not fit this version of plexp.
    """
    missing: list[str] = []
    values = _completed(values, missing)
    if missing:
        log.warning("an older plexp recorded the run, without %s: the present values are taken", ", ".join(missing))
    values["evaluation"] = values["evaluation"] | {"film": False}
    try:
        return build(values)
    except ConfigError as error:
        if not newer:
            raise
        cause = f"plexp {newer} recorded it, and this one cannot read it ({'; '.join(map(str, error.problems))})"
        raise ConfigError(Problem("run", values.get("seed", ...), cause, f'pip install "plexp>={newer}"')) from error


def _completed(values: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    present = compose_values()
    full = {**{key: present[key] for key in ROOT}, **values}
    missing += sorted(ROOT.keys() - values.keys())
    sections: dict[str, dict[str, Any]] = {name: present[name] for name in (*SECTIONS, "policy")}
    for section, group in GROUPS.items():
        if isinstance(values.get(section), dict) and "plugin" in values[section]:
            sections[section] = _present_values(section, group, values[section])
    if "policy" in values and values["policy"] is None:
        del sections["policy"]
    for section, defaults in sections.items():
        removed = REMOVED.get(section, set()) - defaults.keys()
        recorded = {key: value for key, value in values.get(section, {}).items() if key not in removed}
        missing += [f"{section}.{key}" for key in defaults if key not in recorded and section not in SECTIONS]
        full[section] = {**defaults, **recorded}
    return full


def _present_values(section: str, group: str, recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the present values of a plugin. Raises ConfigError if the plugin does not exist any more."""
    overrides = [f"env.id={recorded['id']}"] if section == "env" and "id" in recorded else []
    choice = f"{group}@{section}" if section != group else group
    values: dict[str, Any] = compose_values(f"{choice}={recorded['plugin']}", *overrides)[section]
    return values


def environment_for(experiment: Experiment, overrides: Sequence[str]) -> Environment:
    """Return the experiment's environment, or with overrides (`env=NAME`, `env.KEY=VALUE`) another one.

    Raises ConfigError for one that cannot be made, or whose observations or actions are not those of the agent.
    """
    if not overrides:
        return experiment.environment
    if others := [override for override in overrides if not override.lstrip("+").startswith(("env=", "env."))]:
        remedy = "give env=NAME or env.KEY=VALUE"
        raise ConfigError(Problem(others[0], ..., "only the environment can be changed", remedy))
    names = [override for override in overrides if override.startswith("env=")]
    values = compose_values(*names)["env"] if names else experiment.config.env
    values = apply_changes({"env": values}, [override for override in overrides if override not in names])["env"]
    cls = registry.find("env", values["plugin"])
    parameters = {key: value for key, value in values.items() if key != "plugin"}
    types = registry.parameters(cls) | registry.ENV_PRESET_FIELDS
    if problems := registry.check(cls.__name__, "env", types, parameters):
        raise ConfigError(problems)
    environment: Environment = make(cls, values)
    env = environment.make(1, lambda index, episode: 0)
    env.close()
    trained = experiment.training_env
    for what, there, here in (
        ("observations", trained.single_observation_space.shape, env.single_observation_space.shape),
        ("actions", trained.single_action_space, env.single_action_space),
    ):
        if there != here:
            cause = f"its {what} are {here}, and the agent's {there}"
            raise ConfigError(Problem("env", environment.label, cause, "choose one with the same spaces"))
    return environment


class RecordedAgent:
    """A trained agent that acts on the observations of its environment.

    Args:
        experiment: the experiment of the run, with the agent's weights.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.agent, self.space = experiment.agent.eval(), experiment.training_env.single_observation_space
        self.actions = experiment.training_env.single_action_space
        self.rng = np.random.default_rng(experiment.config.seed)
        self.state = self.agent.initial_state(1)
        """State [B, S] of a recurrent policy after the last observations."""

    def reset(self) -> None:
        """Forget the episode: to be called before the first observation of another, if the policy is recurrent."""
        self.state = self.agent.initial_state(1)

    def act(self, observation: Any, *, action_mask: npt.ArrayLike | None = None, sampled: bool = False) -> Any:
        """Return the action for an observation, as the environment's `step` takes it.

        A recurrent policy remembers what it was given since `reset`; another number of observations begins new episodes.

        Args:
            observation: one observation, or a batch of arrays [B, *obs], for which there are B actions; one of a Dict or Tuple
                space may be as the environment gives it, or flattened.
            action_mask: which actions are legal, where the environment says so in its info; None: all are.
            sampled: whether the action is sampled from the policy; False: the most likely one is taken.

        Raises ConfigError for an observation of another shape.
        """
        shape = self.space.shape or ()
        is_row = isinstance(observation, np.ndarray) and observation.shape[-1:] == shape and action_mask is None
        if isinstance(self.space, PackedSpace) and not is_row:
            observation = self._packed(self.space, observation, action_mask)
        batch = np.asarray(observation, observation_dtype(self.space))
        is_single = batch.shape == shape
        if not is_single and batch.shape[1:] != shape:
            cause = f"the agent's observations have the shape {list(shape)}"
            remedy = "give one of them or a batch"
            raise ConfigError(Problem("observation", list(batch.shape), cause, remedy))
        observations = torch.from_numpy(batch[None] if is_single else batch)
        if len(self.state) != len(observations):
            self.state = self.agent.initial_state(len(observations))
        if sampled:
            noise = noise_of(self.agent, len(observations)).draw_noise(self.rng, 1, len(observations))[0]
            actions, self.state = self.agent.act(observations, self.state, torch.from_numpy(noise))
        else:
            actions, self.state = self.agent.act_greedily(observations, self.state)
        rows: npt.NDArray[Any] = self.agent.distribution.to_environment(actions).numpy()
        space = self.actions
        result = [space.unpack(row) for row in rows] if isinstance(space, PackedActions) else rows
        return result[0] if is_single else result

    @staticmethod
    def _packed(space: PackedSpace, observation: Any, action_mask: npt.ArrayLike | None) -> npt.NDArray[Any]:
        """Return an observation as the row that the agent takes."""
        mask = space.layout.parts.get(LEGAL)
        if mask is not None and action_mask is None and isinstance(observation, Mapping):
            action_mask = observation.get(MASK)
        try:
            legal = None if mask is None else np.ones(mask.shape) if action_mask is None else np.asarray(action_mask)
            return space.pack(observation, None if legal is None else legal.reshape(mask.shape))  # type: ignore[union-attr]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            cause = f"it does not have the parts {', '.join(space.layout.parts)} ({one_line(error)})"
            raise ConfigError(Problem("observation", ..., cause, "give one observation of the environment")) from error


def restore_agent(run: RunHandle) -> RecordedAgent:
    """Return the agent of a recorded run.

    Raises ConfigError for a run without an agent, or one that does not fit this version of plexp.
    """
    with restored(run.values, run.file("agent.safetensors"), run.newer) as experiment:
        return RecordedAgent(experiment)
