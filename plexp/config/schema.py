"""Models of the configuration, and all checks that need no experiment: types, ranges, and values that contradict each other.

Importing this needs neither Hydra nor torch; checking imports the chosen plugins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, PrivateAttr

from plexp.config import counts, registry
from plexp.config.fields import ActionBounds, LogStd, PositiveInt, UnitInterval
from plexp.errors import ConfigError, Problem

Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
"""Type of the seed, the root of all randomness."""
CRITIC_SETTINGS = ("critic_learning_rate", "clip_value", "critic_epochs", "target_update_every")
"""Parameters of the learner that need a critic, unless they are null."""


class Section(BaseModel):
    """Section of the configuration; conf/config.yaml says what its values mean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Return the annotated type of each value."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: hints[name] for name in cls.model_fields}


class PolicyConfig(Section):
    """Settings of the policy's action distribution."""

    log_std: LogStd
    log_std_init: float
    bounds: ActionBounds
    action_samples: PositiveInt
    observes: list[str] | None
    critic_observes: list[str] | None


class EvaluationConfig(Section):
    """Settings of the evaluations during and after training."""

    every: PositiveInt | None
    episodes: PositiveInt
    final_episodes: PositiveInt
    max_steps: PositiveInt | None
    stop_when_solved: bool
    film: bool


class CheckpointConfig(Section):
    """Settings of checkpoints."""

    every: PositiveInt | None


class TrackerConfig(Section):
    """Settings of the record in MLflow."""

    uri: str | None
    experiment: str | None
    every: PositiveInt
    log_model: bool
    log_actions: bool


SECTIONS: dict[str, type[Section]] = {
    "policy": PolicyConfig,
    "evaluation": EvaluationConfig,
    "checkpoint": CheckpointConfig,
    "tracker": TrackerConfig,
}


class RunConfig(Section):
    """Configuration of a run.

    The sections of plugins are mappings, each with the name `plugin` and the plugin's parameters, which are checked
    against its signature.
    """

    seed: Seed
    gamma: UnitInterval
    total_timesteps: PositiveInt
    total_episodes: PositiveInt | None
    max_rollout_steps: PositiveInt | None
    device: str
    compile: Literal["auto"] | bool
    torch_threads: PositiveInt
    outputs: str
    objective: str
    resume: Literal["auto", "never"]
    rerun: bool
    policy: PolicyConfig | None
    """Settings of the policy; None: the algorithm has its own."""
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    tracker: TrackerConfig
    algo: dict[str, Any]
    advantage: dict[str, Any]
    net: dict[str, Any]
    env: dict[str, Any]
    critic_net: dict[str, Any] | None = None
    """Network for the critic alone; None: the same kind as the actor's."""
    replay: dict[str, Any] | None = None
    """Memory of past transitions; None: the algorithm learns from its own rollouts alone."""
    callbacks: dict[str, dict[str, Any]]
    """Callback plugins by name."""

    _values: dict[str, Any] = PrivateAttr(default_factory=dict)
    _classes: dict[str, type] = PrivateAttr(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The resolved values as they were given, for the record."""
        return self._values

    @property
    def classes(self) -> dict[str, type]:
        """Plugin class of each section: `algo`, `advantage`, …, and `callbacks.NAME` for each callback."""
        return self._classes


PLUGIN_SECTIONS = ("algo", "advantage", "net", "env", "critic_net", "replay", "callbacks")
ROOT = {name: kind for name, kind in RunConfig.types().items() if name not in {*SECTIONS, *PLUGIN_SECTIONS}}
"""Types of the values that belong to no section."""


def flattened(
    values: Mapping[str, Any], prefix: str = "", *, with_sections: bool = False
) -> Iterator[tuple[str, object]]:
    """Yield values with dotted keys, as they are typed on the command line.

    `with_sections`: sections too, each before its values; otherwise only empty ones.
    """
    for key, value in values.items():
        is_section = isinstance(value, Mapping) and bool(value)
        if with_sections or not is_section:
            yield f"{prefix}{key}", value
        if is_section:
            yield from flattened(value, f"{prefix}{key}.", with_sections=with_sections)


def with_counts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return resolved values, or some sections of them, with counts such as 1e5 and 100k as integers; see `counts`."""
    result = counts.converted(values, lambda: ROOT)
    for name, section in values.items():
        if name == "callbacks" and isinstance(section, Mapping):
            result[name] = {
                key: counts.converted(callback, partial(_plugin_types, "callbacks", callback))
                if isinstance(callback, Mapping)
                else callback
                for key, callback in section.items()
            }
        elif name in SECTIONS and isinstance(section, Mapping):
            result[name] = counts.converted(section, SECTIONS[name].types)
        elif name in PLUGIN_SECTIONS and isinstance(section, Mapping):
            group = {"critic_net": "net"}.get(name, name)
            result[name] = counts.converted(section, partial(_plugin_types, group, section))
    return result


def _plugin_types(group: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the type of each value of a plugin's section; none if there is no such plugin, which `check` refuses."""
    try:
        types = registry.parameters(registry.find(group, section.get("plugin")))
    except ConfigError:
        return {}
    return types | (registry.ENV_PRESET_FIELDS if group == "env" else {})


def check(values: Mapping[str, Any]) -> RunConfig:
    """Return the typed configuration of resolved values.

    Raises ConfigError with all problems at once: unknown keys, wrong types, values out of range, plugins that do not exist,
    and values that contradict each other.
    """
    classes, problems = _check_plugins(values)
    for name, section in SECTIONS.items():
        if isinstance(values.get(name), dict):
            problems += registry.check(name, name, section.types(), values[name])
        elif name != "policy" or values.get(name) is not None or not _replays(classes):
            problems.append(_not_a_section(name, values.get(name)))
    root = {key: value for key, value in values.items() if key not in (*PLUGIN_SECTIONS, *SECTIONS)}
    root_problems = registry.check("plexp", "", ROOT, root)
    reported = {(problem.key, repr(problem.value)) for problem in root_problems}
    # A wrong value of the root, such as gamma, is wrong in every section that interpolates it too: report it once.
    problems = [p for p in problems if (p.key.rpartition(".")[2], repr(p.value)) not in reported] + root_problems
    if not problems:
        problems = _contradictions(values, classes)
    if problems:
        raise ConfigError(problems)
    sections = {key: value for key, value in values.items() if key not in PLUGIN_SECTIONS}
    sections |= {name: _with_floats(values[name], cls) for name, cls in classes.items() if "." not in name}
    callbacks = values.get("callbacks") or {}
    sections["callbacks"] = {name: _with_floats(callbacks[name], classes[f"callbacks.{name}"]) for name in callbacks}
    config = RunConfig(**sections)
    config._values, config._classes = dict(values), classes
    return config


def _check_plugins(values: Mapping[str, Any]) -> tuple[dict[str, type], list[Problem]]:
    """Return the plugin class of each section, and what is wrong with the sections."""
    classes: dict[str, type] = {}
    problems: list[Problem] = []
    groups = {group: group for group in registry.REQUIRED_GROUPS}
    if "critic_net" in values:
        groups["critic_net"] = "net"
    if values.get("replay") is not None:
        groups["replay"] = "replay"
    callbacks = values.get("callbacks") or {}
    if isinstance(callbacks, dict):
        groups |= {f"callbacks.{name}": "callbacks" for name in callbacks}
    else:
        problems.append(Problem("callbacks", callbacks, "this is a list of configs", "give callbacks=[patience]"))
    for section, group in groups.items():
        config = (callbacks.get(section.partition(".")[2]) if "." in section else values.get(section)) or {}
        if not isinstance(config, dict):
            problems.append(_not_a_section(section, config))
            continue
        parameters = dict(config)
        try:
            cls = registry.find(group, parameters.pop("plugin", None))
            types = registry.parameters(cls) | (registry.ENV_PRESET_FIELDS if group == "env" else {})
        except ConfigError as error:
            problems += error.problems
            continue
        classes[section] = cls
        problems += registry.check(cls.__name__, section, types, parameters, registry.refused(cls))
    return classes, problems


def _with_floats(section: Mapping[str, Any], cls: type) -> dict[str, Any]:
    return counts.with_floats(section, registry.parameters(cls))


def _not_a_section(section: str, value: object) -> Problem:
    return Problem(section, value, "this is a section, not a value", f"give {section}.KEY=…, or leave it out")


def _contradictions(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Problem]:
    """Return what is wrong with values that are valid alone but contradict each other."""
    if problems := [*_parts_for_family(values, classes), *_estimator_for_schedule(values, classes)]:
        return problems
    if "replay" in classes:
        return _numbers_of_replay(values, classes)
    if not registry.configured_parts(classes["algo"]):  # without plexp's learner the names may mean something else
        return []
    return [*_learner_for_estimator(values, classes), *_minibatches_of_rollout(values, classes)]


def _replays(classes: Mapping[str, type]) -> bool:
    """Return whether the algorithm learns from past transitions."""
    parts = registry.configured_parts(classes["algo"]) if "algo" in classes else []
    return any(getattr(part, "uses_replay", False) for part in parts)


def _parts_for_family(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Problem]:
    """Return a problem for an estimator or a replay memory that the algorithm cannot use, or does without."""
    algo, estimator = values["algo"]["plugin"], values["advantage"]["plugin"]
    replays, problems = _replays(classes), []
    if replays and estimator != "none":
        cause = f"algo={algo} learns from past transitions, without advantages"
        problems.append(Problem("advantage", estimator, cause, "give advantage=none"))
    if replays and "replay" not in classes:
        problems.append(Problem("replay", None, f"algo={algo} learns from past transitions", "give replay=uniform"))
    if not replays and estimator == "none":
        cause = f"algo={algo} weighs its policy gradient by advantages"
        problems.append(Problem("advantage", estimator, cause, "give an estimator, such as advantage=gae"))
    if not replays and "replay" in classes:
        cause = f"algo={algo} learns from the rollouts of its own policy"
        problems.append(Problem("replay", values["replay"]["plugin"], cause, "leave it out, or give algo=dqn"))
    return problems


def _numbers_of_replay(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Problem]:
    """Return a problem for numbers of steps and transitions that do not fit each other."""
    algo, capacity, num_envs = values["algo"], values["replay"].get("capacity"), values["env"].get("num_envs", 1)
    every, problems = algo["train_every"], []
    if every % num_envs:
        cause = f"the {num_envs} environments make a step each at once, so it must be a multiple of them"
        remedy = f"give algo.train_every={math.ceil(every / num_envs) * num_envs} or another env.num_envs"
        problems.append(Problem("algo.train_every", every, cause, remedy))
    key = max("learning_starts", "batch_size", key=lambda name: algo[name])
    least, budget = algo[key], values["total_timesteps"]
    if capacity is not None and capacity // num_envs * num_envs < least:
        cause = f"it holds fewer transitions than algo.{key}={least}"
        remedy = f"give replay.capacity={math.ceil(least / num_envs) * num_envs} or more"
        problems.append(Problem("replay.capacity", capacity, cause, remedy))
    if budget < least:
        cause = f"the training ends after total_timesteps={budget}, before the first gradient step"
        problems.append(Problem(f"algo.{key}", least, cause, f"give algo.{key}={max(1, budget // 10)} or so"))
    return problems


def _estimator_for_schedule(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Problem]:
    if not getattr(classes["algo"], "updates_every_step", False) or not classes["advantage"].complete_episodes:  # type: ignore[attr-defined]
        return []
    algo, estimator = values["algo"]["plugin"], values["advantage"]["plugin"]
    cause = f"{estimator} needs whole episodes, and algo={algo} learns after every step"
    return [Problem("advantage", estimator, cause, "give advantage=td, or algo=reinforce")]


def _learner_for_estimator(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Problem]:
    """Return a problem for each setting of the learner that does not fit the estimator or the network."""
    algo, estimator = values["algo"], classes["advantage"]
    settings = {key: algo[key] for key in CRITIC_SETTINGS if algo.get(key) is not None}
    has_critic = getattr(estimator, "critic", "v") != "none"
    problems = []
    if not has_critic:
        cause = f"there is no critic with the estimator {estimator.__name__}"
        for key, value in settings.items():
            remedy = f"give algo.{key}=null or an estimator with a critic, such as advantage=gae"
            problems.append(Problem(f"algo.{key}", value, cause, remedy))
    share_trunk = values["net"].get("share_trunk", getattr(classes["net"], "share_trunk", False))
    if has_critic and share_trunk is True and "critic_epochs" in settings:
        remedy = "give net.share_trunk=false or algo.critic_epochs=null"
        cause = "actor and critic share a trunk"
        problems.append(Problem("algo.critic_epochs", settings["critic_epochs"], cause, remedy))
    if {"clip_value", "target_update_every"} <= settings.keys():
        cause = "the values of the rollout are the target critic's, not the old critic's"
        remedy = "give algo.clip_value=null or algo.target_update_every=null"
        problems.append(Problem("algo.clip_value", settings["clip_value"], cause, remedy))
    if algo.get("replay_rollouts") and not getattr(estimator, "off_policy", False):
        cause = f"the estimator {estimator.__name__} does not correct for the older policy of a replayed rollout"
        remedy = "give advantage=vtrace or algo.replay_rollouts=0"
        problems.append(Problem("algo.replay_rollouts", algo["replay_rollouts"], cause, remedy))
    return problems


def _minibatches_of_rollout(values: Mapping[str, Any], classes: Mapping[str, type]) -> list[Problem]:
    """Return a problem if the minibatches cannot all have the same size."""
    algo, estimator = classes["algo"], classes["advantage"]
    if getattr(algo, "complete_episodes", False) or getattr(estimator, "complete_episodes", False):
        return []
    steps = values["algo"].get("num_steps", getattr(algo, "num_steps", None))
    number = values["algo"].get("num_minibatches", getattr(algo, "num_minibatches", 1))
    envs = values["env"].get("num_envs", getattr(classes["env"], "num_envs", None))
    if not all(isinstance(size, int) for size in (steps, number, envs)) or steps * envs % number == 0:
        return []
    rows = steps * envs
    cause = f"the rollout has {steps} steps x {envs} environments = {rows} rows"
    cause += ", fewer than minibatches" if number > rows else ", which it does not divide"
    divisors = [n for n in range(1, rows + 1) if rows % n == 0]
    remedy = f"give algo.num_minibatches={min(divisors, key=lambda n: abs(n - number))}"
    return [Problem("algo.num_minibatches", number, cause, remedy)]
