"""Registers and finds plugins, and makes the schema of a plugin from its signature."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

import plexp
from plexp.config import config_files
from plexp.config.counts import MOST, takes_integers_alone
from plexp.config.fields import PositiveInt, UnitInterval
from plexp.config.paths import conf_folders
from plexp.errors import ConfigError, Problem, nearest, one_line

REQUIRED_GROUPS = ("algo", "advantage", "net", "env")
"""Groups of which an experiment has one plugin each."""
GROUPS = (*REQUIRED_GROUPS, "replay", "callbacks")
NAME = r"[a-z][a-z0-9_]*"
"""Pattern of a plugin's name, which cannot lead out of the plugin's folder."""
T = TypeVar("T")
ENV_PRESET_FIELDS: dict[str, Any] = {
    "gamma": UnitInterval,
    "total_timesteps": PositiveInt,
    "evaluation_every": PositiveInt | None,
    "random_return": float | None,
}
"""Keys of an env config that describe the problem, for the root of the configuration to interpolate."""

_plugins: dict[tuple[str, str], type] = {}


def register(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Register a class as the plugin `name` of a group; its module must be `plugins/<group>/<name>.py`."""
    if group not in GROUPS:
        raise ValueError(f"register({group!r}, {name!r}): there are the groups {', '.join(GROUPS)}")

    def decorate(cls: type[T]) -> type[T]:
        other = _plugins.get((group, name))
        if other and other.__module__ != cls.__module__:
            raise ValueError(f"{group}={name} is registered twice: in {other.__module__} and in {cls.__module__}")
        _plugins[group, name] = cls
        return cls

    return decorate


def names(group: str) -> list[str]:
    """Return the names of a group's plugins, by their files, without importing them."""
    return sorted(file.stem for folder in folders(group) for file in folder.glob("*.py") if file.stem != "__init__")


def find(group: str, name: object) -> type:
    """Import the file of a plugin, and return its class.

    Raises ConfigError for an invalid name, and for a file that does not exist or cannot be imported.
    """
    key = f"{group}.plugin"
    if len(files := files_of(group, str(name))) > 1:
        raise ConfigError(Problem(key, name, f"there are two: {files[0]} and {files[1]}", "rename or remove one"))
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or name not in names(group):
        raise ConfigError(Problem(key, name, "there is no such plugin", nearest(str(name), names(group))))
    try:
        importlib.import_module(f"plexp.plugins.{group}.{name}")
    except Exception as error:
        cause = f"plugins/{group}/{name}.py does not import ({type(error).__name__}: {one_line(error)})"
        raise ConfigError(Problem(key, name, cause, "fix the file, or choose another plugin")) from error
    if (group, name) not in _plugins:
        cause = f"plugins/{group}/{name}.py registers nothing by that name"
        raise ConfigError(Problem(key, name, cause, f'put @register("{group}", "{name}") above its class'))
    return _plugins[group, name]


def parameters(cls: type) -> dict[str, Any]:
    """Return the configuration of a class: its keyword-only parameters with their annotated types.

    An object that is wired in and marked `configured_with_owner` (the learner of an algorithm) takes its values from the
    same section, so its parameters are included. Raises ConfigError for a parameter without a type.
    """
    hints = get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    types = {}
    for name in own_parameters(cls):
        if name not in hints:
            cause, remedy = f"parameter {name} of {cls.__name__} has no type", f"write {name}: PositiveInt, or another"
            raise ConfigError(Problem("plugin", cls.__module__.rpartition(".")[2], cause, remedy))
        types[name] = hints[name]
    for part in configured_parts(cls):
        types |= parameters(part)
    return types


def configured_parts(cls: type) -> list[type]:
    """Return the classes that are wired into `cls` and take their values from its section, such as the learner."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    return [wired for wired in hints.values() if getattr(wired, "configured_with_owner", False)]


def refused(cls: type) -> dict[str, str]:
    """Return the remedy for each parameter that others have, and neither `cls` nor a part configured with it can have."""
    remedies: dict[str, str] = {}
    for part in configured_parts(cls):
        remedies |= getattr(part, "refused", {})
    return remedies | getattr(cls, "refused", {})


def own_parameters(cls: type) -> list[str]:
    """Return the names of the keyword-only parameters of `cls` itself."""
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]


def check(
    title: str, key: str, types: Mapping[str, Any], values: Mapping[str, Any], remedies: Mapping[str, str] | None = None
) -> list[Problem]:
    """Return everything that is wrong with the values of a section.

    Args:
        title: name of the class that takes them, for messages.
        key: name of the section; empty for the root.
        types: type of each value.
        values: the values.
        remedies: remedy for each parameter that other plugins of the group have and this one cannot have; see `refused`.
    """
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    fields: Any = {name: (kind, ...) for name, kind in types.items()}
    model = create_model(title, __config__=config, **fields)
    try:
        model(**values)
    except ValidationError as error:
        problems: dict[str, Problem] = {}
        for fault in error.errors():
            name = str(fault["loc"][0])
            problems.setdefault(name, _problem(title, key, name, fault, types, remedies or {}))
        return _gathered(title, key, problems, error) if key else list(problems.values())
    return [
        Problem(f"{key}.{name}".lstrip("."), value, f"must be at most {MOST}", f"give {describe_type(types[name])}")
        for name, value in values.items()
        if isinstance(value, int) and value > MOST and takes_integers_alone(types[name])
    ]


def _gathered(title: str, key: str, problems: dict[str, Problem], error: ValidationError) -> list[Problem]:
    """Return the problems of a section with those of a config that is hardly begun, or of another plugin, as one."""
    missing = [str(fault["loc"][0]) for fault in error.errors() if fault["type"] == "missing"]
    foreign = [str(fault["loc"][0]) for fault in error.errors() if fault["type"] == "extra_forbidden"]
    gathered = []
    if len(missing) > 2:
        remedy = "give each a value, or begin the config with defaults: [ANOTHER]"
        gathered.append(Problem(key, ..., f"it has no value for {', '.join(missing)}", remedy))
    if len(foreign) > 2:
        remedy = "choose a whole config, not its plugin alone, or leave them out"
        gathered.append(Problem(key, ..., f"{title} has no parameters {', '.join(foreign)}", remedy))
    named = [name for names in (missing, foreign) if len(names) > 2 for name in names]
    return [*gathered, *(problem for name, problem in problems.items() if name not in named)]


def describe_type(annotation: Any) -> str:
    """Return a type in words: `float > 0`, `int ≥ 1 or null`, `one of minibatch, off`."""
    if annotation is type(None):
        return "null"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        symbols = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
        bounds = [
            f"{sign} {getattr(m, attr):g}"
            for m in arguments[1:]
            for attr, sign in symbols.items()
            if hasattr(m, attr) and getattr(m, attr) is not None
        ]
        return " ".join([describe_type(arguments[0]), " and ".join(bounds)]).strip()
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"list of {describe_type(arguments[0])}"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(map(describe_type, arguments))
    return (
        annotation.__name__
        if isinstance(annotation, type) and not arguments
        else str(annotation).replace("typing.", "")
    )


def _problem(
    title: str, key: str, name: str, fault: Mapping[str, Any], types: Mapping[str, Any], remedies: Mapping[str, str]
) -> Problem:
    dotted = f"{key}.{name}" if key else name
    if fault["type"] == "extra_forbidden":
        if name in remedies:
            return Problem(dotted, fault["input"], f"{title} cannot use it", remedies[name])
        return Problem(dotted, ..., f"{title} has no such parameter", nearest(name, sorted(types)))
    if fault["type"] == "missing":
        return Problem(dotted, ..., "has no value", f"give {describe_type(types[name])}")
    return Problem(
        dotted, fault["input"], fault["msg"].replace("Input should be", "must be"), f"give {describe_type(types[name])}"
    )


def files_of(group: str, name: str) -> list[Path]:
    """Return the files of a plugin; `find` refuses more than one. An invalid name has none."""
    if not re.fullmatch(NAME, name):
        return []
    return [file for folder in folders(group) if (file := folder / f"{name}.py").is_file()]


def check_choices(choices: Mapping[str, object]) -> None:
    """Raise ConfigError if the chosen config of a group lies outside its folder, or in two; `choices` as Hydra has them."""
    problems = []
    for key, choice in choices.items():
        group = key.partition("@")[0]
        for option in choice if isinstance(choice, list) else [choice]:
            if ".." in str(option).split("/"):  # Hydra would follow it out of the group's folder
                remedy = nearest(str(option), config_files.options(group))
                problems.append(Problem(group, option, "there is no such option", remedy))
            places = [f for folder in conf_folders() if (f := folder / group / f"{option}.yaml").is_file()]
            if len(places) > 1:
                cause = f"there are two: {places[0]} and {places[1]}"
                problems.append(Problem(group, option, cause, "rename or remove one"))
    if problems:
        raise ConfigError(problems)


def folders(group: str) -> list[Path]:
    """Return the folders that may have plugins of a group."""
    return [folder for root in plexp.__path__ if (folder := Path(root) / "plugins" / group).is_dir()]
