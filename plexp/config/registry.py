"""Plugins: register, find, and the schema of a plugin from its signature."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

import plexp
from plexp.config.fields import PositiveInt, UnitInterval
from plexp.config.paths import conf_folders
from plexp.errors import ConfigError, Problem, nearest, one_line

REQUIRED_GROUPS = ("algo", "advantage", "net", "env")
"""The groups of which an experiment has one plugin each."""
GROUPS = (*REQUIRED_GROUPS, "callbacks")
NAME = r"[a-z][a-z0-9_]*"
"""Of a plugin; so that none leads out of its folder."""
T = TypeVar("T")
ENV_PRESET_FIELDS: dict[str, Any] = {
    "gamma": UnitInterval,
    "total_timesteps": PositiveInt,
    "evaluation_every": PositiveInt | None,
    "random_return": float | None,
}
"""What an env sheet says of the problem, for the root to take up."""

_plugins: dict[tuple[str, str], type] = {}


def register(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Make a class known as `plugin: name` of `conf/<group>/*.yaml`. The module must be `plugins/<group>/<name>.py`."""
    if group not in GROUPS:
        raise ValueError(f"register({group!r}, {name!r}): there are the groups {', '.join(GROUPS)}")

    def decorate(cls: type[T]) -> type[T]:
        known = _plugins.get((group, name))
        if known and known.__module__ != cls.__module__:
            raise ValueError(f"{group}={name} is registered twice: in {known.__module__} and in {cls.__module__}")
        _plugins[group, name] = cls
        return cls

    return decorate


def names(group: str) -> list[str]:
    """The plugins of a group, by their files; imports none of them."""
    return sorted(file.stem for folder in folders(group) for file in folder.glob("*.py") if file.stem != "__init__")


def find(group: str, name: object) -> type:
    """The class of a plugin, importing its one file.

    Raises ConfigError for a name that is none, a file that is not there or does not import.
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
        raise ConfigError(Problem(key, name, cause, "mend the file or choose another plugin")) from error
    if (group, name) not in _plugins:
        cause = f"plugins/{group}/{name}.py registers nothing by that name"
        raise ConfigError(Problem(key, name, cause, f'put @register("{group}", "{name}") above its class'))
    return _plugins[group, name]


def parameters(cls: type) -> dict[str, Any]:
    """The configuration of a class: its keyword-only parameters with their annotated types.

    What is wired in and marked `configured_with_owner` (the learner of an algorithm) takes its values from the same
    sheet, so its parameters belong to it. Raises ConfigError for one without a type.
    """
    hints = get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    found = {}
    for name in own_parameters(cls):
        if name not in hints:
            cause, remedy = f"parameter {name} of {cls.__name__} has no type", f"write {name}: PositiveInt, or another"
            raise ConfigError(Problem("plugin", cls.__module__.rpartition(".")[2], cause, remedy))
        found[name] = hints[name]
    for wired in hints.values():
        if getattr(wired, "configured_with_owner", False):
            found |= parameters(wired)
    return found


def own_parameters(cls: type) -> list[str]:
    """The names of the keyword-only parameters of `cls` itself."""
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]


def check(
    title: str, key: str, types: Mapping[str, Any], values: Mapping[str, Any], refused: Mapping[str, str] | None = None
) -> list[Problem]:
    """All that is wrong with `values` for a plugin called `title`, whose section is `key` ("" for the root).

    `refused` gives the reason for names that others of its kind have and this one cannot have.
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
            problems.setdefault(name, _problem(title, key, name, fault, types, refused or {}))
        return list(problems.values())
    return []


def describe_type(annotation: Any) -> str:
    """A type as a person reads it: `float > 0`, `int ≥ 1 or null`, `one of minibatch, off`."""
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
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(map(describe_type, arguments))
    return (
        annotation.__name__
        if isinstance(annotation, type) and not arguments
        else str(annotation).replace("typing.", "")
    )


def _problem(
    title: str, key: str, name: str, fault: Mapping[str, Any], types: Mapping[str, Any], refused: Mapping[str, str]
) -> Problem:
    dotted = f"{key}.{name}" if key else name
    if fault["type"] == "extra_forbidden":
        if name in refused:
            return Problem(dotted, fault["input"], f"{title} cannot use it", refused[name])
        return Problem(dotted, ..., f"{title} has no such parameter", nearest(name, sorted(types)))
    if fault["type"] == "missing":
        return Problem(dotted, ..., "has no value", f"give {describe_type(types[name])}")
    return Problem(
        dotted, fault["input"], fault["msg"].replace("Input should be", "must be"), f"give {describe_type(types[name])}"
    )


def files_of(group: str, name: str) -> list[Path]:
    """The files of a plugin; more than one is an error that `find` tells. None for what is no name of a plugin."""
    if not re.fullmatch(NAME, name):
        return []
    return [file for folder in folders(group) if (file := folder / f"{name}.py").is_file()]


def check_one_file_each(choices: Mapping[str, object]) -> None:
    """Raise ConfigError where a group's chosen sheet lies in two folders; `choices` as Hydra has them."""
    problems = []
    for key, choice in choices.items():
        group = key.partition("@")[0]
        for option in choice if isinstance(choice, list) else [choice]:
            places = [f for folder in conf_folders() if (f := folder / group / f"{option}.yaml").is_file()]
            if len(places) > 1:
                cause = f"there are two: {places[0]} and {places[1]}"
                problems.append(Problem(group, option, cause, "rename or remove one"))
    if problems:
        raise ConfigError(problems)


def folders(group: str) -> list[Path]:
    """Where the plugins of a group may lie."""
    return [folder for root in plexp.__path__ if (folder := Path(root) / "plugins" / group).is_dir()]
