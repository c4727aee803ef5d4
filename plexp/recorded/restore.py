"""An experiment as a run has kept it, with the agent that it trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from plexp.config import registry
from plexp.config.compose import changed
from plexp.config.hydra_errors import compose_values
from plexp.config.schema import ROOT, SECTIONS
from plexp.envs.environment import Environment
from plexp.errors import ConfigError, Problem, one_line
from plexp.execution.experiment import Experiment, build, make

log = logging.getLogger("plexp")
GROUPS = {"algo": "algo", "advantage": "advantage", "net": "net", "critic_net": "net", "env": "env"}


def restored(values: dict[str, Any], weights: Path, newer: str = "") -> Experiment:
    """The experiment of a recorded configuration, uncompiled on the CPU, its agent with these weights.

    Its environments are open: close `training_env`. `newer`: the version that wrote it, if that is newer than this one.
    Raises ConfigError for a configuration or weights that do not fit this plexp.
    """
    experiment = rebuilt(values | {"compile": False, "device": "cpu"}, newer)
    try:
        experiment.agent.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        experiment.training_env.close()
        remedy = "use the plexp, and the plugins, that trained it"
        raise ConfigError(Problem("run", weights.name, f"it does not fit ({one_line(error)})", remedy)) from error
    return experiment


def rebuilt(values: dict[str, Any], newer: str = "") -> Experiment:
    """The experiment of a recorded configuration; keys that it has not yet take today's values, and a line says so.

    Raises ConfigError for a configuration that does not fit this plexp.
    """
    missing: list[str] = []
    values = _completed(values, missing)
    if missing:
        log.warning("the run was kept by an older plexp, without %s: today's values are taken", ", ".join(missing))
    values["evaluation"] = values["evaluation"] | {"film": False}
    try:
        return build(values)
    except ConfigError as error:
        if not newer:
            raise
        cause = f"plexp {newer} kept it, and this one cannot read it ({'; '.join(map(str, error.problems))})"
        raise ConfigError(Problem("run", values.get("seed", ...), cause, f'pip install "plexp>={newer}"')) from error


def _completed(values: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    today = compose_values()
    full = {**{key: today[key] for key in ROOT}, **values}
    missing += sorted(ROOT.keys() - values.keys())
    sections: dict[str, dict[str, Any]] = {name: today[name] for name in (*SECTIONS, "policy")}
    for section, group in GROUPS.items():
        if isinstance(values.get(section), dict) and "plugin" in values[section]:
            sections[section] = _sheet(section, group, values[section])
    for section, usual in sections.items():
        own = values.get(section, {})
        missing += [f"{section}.{key}" for key in usual if key not in own and section not in SECTIONS]
        full[section] = {**usual, **own}
    return full


def _sheet(section: str, group: str, own: dict[str, Any]) -> dict[str, Any]:
    """Today's values of a plugin. Raises ConfigError if it is not there any more."""
    beside = [f"env.id={own['id']}"] if section == "env" and "id" in own else []
    chosen = f"{group}@{section}" if section != group else group
    found: dict[str, Any] = compose_values(f"{chosen}={own['plugin']}", *beside)[section]
    return found


def environment_for(experiment: Experiment, overrides: Sequence[str]) -> Environment:
    """Its environment, or with overrides (`env=NAME`, `env.KEY=VALUE`) another one that its agent can play.

    Raises ConfigError for one that cannot be made, or whose observations or actions are others.
    """
    if not overrides:
        return experiment.environment
    if strange := [each for each in overrides if not each.lstrip("+").startswith(("env=", "env."))]:
        remedy = "give env=NAME or env.KEY=VALUE"
        raise ConfigError(Problem(strange[0], ..., "only the environment can be another", remedy))
    names = [each for each in overrides if each.startswith("env=")]
    sheet = compose_values(*names)["env"] if names else experiment.values["env"]
    sheet = changed({"env": sheet}, [each for each in overrides if each not in names])["env"]
    cls = registry.find("env", sheet["plugin"])
    own = {key: value for key, value in sheet.items() if key != "plugin"}
    if problems := registry.check(cls.__name__, "env", registry.parameters(cls) | registry.ENV_PRESET_FIELDS, own):
        raise ConfigError(problems)
    environment: Environment = make(cls, sheet)
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
