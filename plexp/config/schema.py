"""What a configuration must be: its keys, types and ranges, and the plugins that it names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from plexp.config import registry
from plexp.config.fields import ActionBounds, LogStd, PositiveInt, UnitInterval
from plexp.errors import ConfigError, Problem

Seed = Annotated[int, Ge(0), Le(2**63 - 1)]

ROOT: dict[str, Any] = {
    "seed": Seed,
    "gamma": UnitInterval,
    "total_timesteps": PositiveInt,
    "total_episodes": PositiveInt | None,
    "device": str,
    "compile": Literal["auto"] | bool,
    "torch_threads": PositiveInt,
    "outputs": str,
    "objective": str,
    "resume": Literal["auto", "never"],
    "rerun": bool,
}
SECTIONS: dict[str, dict[str, Any]] = {
    "policy": {
        "log_std": LogStd,
        "log_std_init": float,
        "bounds": ActionBounds,
        "action_samples": PositiveInt,
    },
    "evaluation": {
        "every": PositiveInt | None,
        "episodes": PositiveInt,
        "final_episodes": PositiveInt,
        "stop_when_solved": bool,
        "film": bool,
    },
    "checkpoint": {"every": PositiveInt | None},
    "tracker": {
        "uri": str | None,
        "experiment": str | None,
        "every": PositiveInt,
        "log_model": bool,
        "log_actions": bool,
    },
}


def check(values: dict[str, Any]) -> dict[str, Any]:
    """The plugin classes of all groups; raises ConfigError with everything that is wrong."""
    problems: list[Problem] = []
    classes: dict[str, Any] = {}
    groups = {group: group for group in registry.REQUIRED_GROUPS}
    if "critic_net" in values:
        groups["critic_net"] = "net"
    listeners = values.get("callbacks") or {}
    if isinstance(listeners, dict):
        groups |= {f"callbacks.{name}": "callbacks" for name in listeners}
    else:
        problems.append(Problem("callbacks", listeners, "this is a list of sheets", "give callbacks=[patience]"))
    for section, group in groups.items():
        sheet = (listeners.get(section.partition(".")[2]) if "." in section else values.get(section)) or {}
        if not isinstance(sheet, dict):
            problems.append(_no_section(section, sheet))
            continue
        sheet = dict(sheet)
        try:
            cls = registry.find(group, sheet.pop("plugin", None))
        except ConfigError as error:
            problems += error.problems
            continue
        classes[section] = cls
        try:
            types = registry.parameters(cls) | (registry.ENV_PRESET_FIELDS if group == "env" else {})
        except ConfigError as error:
            problems += error.problems
            continue
        problems += registry.check(cls.__name__, section, types, sheet, getattr(cls, "refused", None))
    for section, types in SECTIONS.items():
        if isinstance(values.get(section), dict):
            problems += registry.check(section, section, types, values[section])
        else:
            problems.append(_no_section(section, values.get(section)))
    known = {*groups, *SECTIONS, "callbacks"}
    root = registry.check("plexp", "", ROOT, {k: v for k, v in values.items() if k not in known})
    faults = {(problem.key, repr(problem.value)) for problem in root}
    problems = [
        p for p in problems if (p.key.rpartition(".")[2], repr(p.value)) not in faults
    ] + root  # each fault once
    if (
        not problems
        and getattr(classes["algo"], "updates_every_step", False)
        and classes["advantage"].complete_episodes
    ):
        algo, estimator = values["algo"]["plugin"], values["advantage"]["plugin"]
        cause = f"{estimator} needs whole episodes, and algo={algo} learns after every step"
        problems.append(Problem("advantage", estimator, cause, "give advantage=td, or algo=reinforce"))
    if problems:
        raise ConfigError(problems)
    return classes


def _no_section(section: str, value: object) -> Problem:
    return Problem(section, value, "this is a section, not a value", f"give {section}.KEY=…, or leave it out")
