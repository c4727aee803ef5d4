"""Translates errors of Hydra and OmegaConf, and of the outputs folder, into problems with key, value, cause and remedy.

Most of Hydra's errors say what is wrong in their text alone, so that this module reads texts, and attributes of their
causes. Tried with Hydra 1.3.8 and OmegaConf 2.3.1; a text that it does not know becomes the cause of the problem as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plexp.config import config_files, registry
from plexp.config.compose import compose, hydra_configuration, resolve
from plexp.config.paths import conf_folders
from plexp.config.schema import flattened
from plexp.errors import ConfigError, Problem, nearest

OPTIONAL = {
    "critic_net": "give net@critic_net=mlp, or another network",
    "replay": "algorithms with a replay buffer have it, such as algo=dqn",
    "policy": "it is for algorithms that learn from their own rollouts, such as algo=ppo",
}
"""Section that is null unless it is chosen → remedy for a key of it."""


def compose_values(*overrides: str) -> dict[str, Any]:
    """Return the resolved values of a command line.

    Raises ConfigError for overrides that do not compose, values that are missing or do not resolve.
    """
    return compose_with_choices(*overrides)[0]


def compose_with_choices(*overrides: str) -> tuple[dict[str, Any], dict[str, object]]:
    """Return the resolved values of a command line, and the config chosen in each group.

    Raises ConfigError; see `compose_values`.
    """
    config_files.check_chosen(overrides)
    try:
        config = compose(*overrides, with_hydra=True)
        choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
        with open_dict(config):
            del config.hydra
        values = resolve(config)
    except Exception as error:
        problem = explain(error, list(overrides))
        if problem is None:
            raise
        raise ConfigError(problem) from error
    return values, choices


def explain(
    error: Exception, arguments: list[str], *, commands: Sequence[str] = (), sweeper_keys: Sequence[str] = ()
) -> Problem | None:
    """Return what is wrong with the command line; None if the error is of another kind.

    `commands` are the names of plexp's commands and `sweeper_keys` the settings of its own sweeper, for suggestions.
    """
    text = " ".join(str(error).split())
    match error:
        case HydraException() if match := re.match(
            r"Cannot find primary config '(.*?)'\.|Primary config|Additional", text
        ):
            return _hydra_folder(match[1], text)
        case MissingConfigException():
            return _missing_option(text)
        case OverrideParseException():
            return _unreadable_override(str(error.override), commands)
        case HydraException() if text.startswith("Could not override ''"):
            wrong = [argument for argument in arguments if argument.lstrip("+~").startswith(("=", "@", ":"))]
            return _unreadable_override(" ".join(wrong), commands)
        case HydraException() if match := re.match(r"Could not override '([^']+)'", text):
            missing_key = str(getattr(error.__cause__, "full_key", ""))
            return _unknown_key(match[1], missing_key, arguments, sweeper_keys)
        case HydraException() if match := re.match(r"Error merging override ([^=]+)=(.*)", text):
            cause = str(error.__cause__).partition("\n")[0]
            return Problem(match[1], match[2], cause, "see python -m plexp --cfg hydra")
        case HydraException() if match := re.match(r"Ambiguous value for argument '([^=]+)=(.*?)'", text):
            return Problem(match[1], match[2], "several values make a sweep", "add -m for a sweep, or [a,b] for a list")
        case HydraException() if "does not support sweep type" in text:
            interval = next((argument for argument in arguments if "interval(" in argument), "configuration")
            cause, remedy = "an interval is searched, not swept", "give hydra/sweeper=optuna, or choice(a, b, …)"
            return Problem(interval, ..., cause, remedy)
        case HydraException():
            return _wrong_choice(arguments) or Problem("configuration", ..., text, "see python -m plexp --help")
        case OmegaConfBaseException():
            key = str(error.full_key or error.key or "configuration")
            return Problem(key, ..., str(error).splitlines()[0], "see python -m plexp --cfg job")
        case ValueError() if text.startswith("Config group override must be"):
            return _wrong_choice(arguments) or Problem("configuration", ..., text, "see python -m plexp --help")
        case YAMLError():
            return config_files.not_yaml(error)
        case UnicodeDecodeError() if place := _undecodable_config():
            return Problem(place, ..., f"this is not UTF-8 ({error.reason})", "save the file as UTF-8")
        case OSError():
            outputs = [argument.partition("=")[2] for argument in arguments if argument.startswith("outputs=")]
            folder = outputs[-1] if outputs else "outputs"
            cause = f"cannot be written ({error.strerror}: {error.filename})"
            return Problem("outputs", folder, cause, "give outputs=FOLDER")
    if _package_of(error) in ("hydra", "omegaconf", "antlr4"):
        cause = f"Hydra cannot compose this ({type(error).__name__}{': ' * bool(text)}{text[:240]})"
        return Problem(" ".join(arguments), ..., cause, "see python -m plexp --help")
    return None


def _undecodable_config() -> str:
    """Return file and line of the first config that is not UTF-8; empty if there is none."""
    for file in (file for folder in conf_folders() for file in sorted(folder.rglob("*.yaml"))):
        for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{file}:{number}"
    return ""


def _package_of(error: BaseException) -> str:
    """Return the package whose code raised an error."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _hydra_folder(name: str | None, text: str) -> Problem:
    """Return the problem of Hydra's options --config-name, --config-path and --config-dir, which plexp needs none of."""
    remedy = "leave it out: configs of your own are in conf/ of the current folder, such as conf/experiment/NAME.yaml "
    remedy += "for +experiment=NAME"
    if name is not None:
        return Problem("--config-name", name, "there is no such config", remedy)
    key = "--config-dir" if text.startswith("Additional") else "--config-path"
    return Problem(key, ..., "there is no such folder of configs", remedy)


def _unreadable_override(override: str, commands: Sequence[str]) -> Problem:
    if override in commands:
        return Problem(override, ..., "a command comes first", f"give python -m plexp {override} …, see its --help")
    if commands and re.fullmatch(r"\w+", override):
        cause = "there is no such command, and it is not key=value"
        return Problem(override, ..., cause, nearest(override.lower(), list(commands)))
    remedy = "give key=value"
    if re.search(r"\w", override):
        remedy = "quote values with brackets, commas, spaces or letters beyond ASCII: 'key=\"value\"'"
    return Problem(override or "''", ..., "this is not key=value", remedy)


def _wrong_choice(arguments: list[str]) -> Problem | None:
    """Return the problem of a group that is given no name of an option; None if there is no such group.

    Hydra's own text does not name the group.
    """
    for argument in arguments:
        match = re.fullmatch(r"([+~]*)([a-z][\w/]*)(@[\w.]+)?(?:=(.*))?", argument, re.S)
        if match is None or not (options := config_files.options(match[2])):
            continue
        sign, group, key, value = match[1], match[2], f"{match[2]}{match[3] or ''}", match[4] or ""
        if sign == "~" and group in registry.REQUIRED_GROUPS:
            return Problem(
                argument, ..., "a run needs an option of this group", f"give {group}=OPTION, or leave it out"
            )
        if value in ("null", "~"):
            remedy = "give tuned=none" if group == "tuned" else nearest("", options)
            return Problem(key, value, "a group needs an option", remedy)
        if value.startswith(("[", "{")) and group in registry.REQUIRED_GROUPS:
            return Problem(key, value, "this group takes one option", nearest(value.strip("[]{}"), options))
        if re.fullmatch(r"[-+]?[\d._]+(e[-+]?\d+)?|true|false|nan|[-+]?inf", value, re.I):
            return Problem(key, value, "there is no such option", nearest(value, options))
    return None


def _missing_option(text: str) -> Problem:
    """Return the problem of a config that does not exist, named on the command line or in another config's defaults."""
    missing = re.search(r"Could not (?:find|load) '([^']+)'", text)
    parent = re.search(r"In '([^']+/[^']+)'", text)
    if parent and not parent[1].startswith("hydra/") and missing and config_files.files(*_split(parent[1])):
        group, option = _split(parent[1])
        cause = f"its defaults list names {missing[1]}, which does not exist"
        return Problem(group, option, cause, f"edit {config_files.files(group, option)[-1]}")
    name = missing if parent is None or parent[1].startswith("hydra/") else parent
    if not name:
        return Problem("configuration", ..., text, "see python -m plexp --help")
    group, option = _split(name[1])
    options = set(config_files.options(group))
    if group.startswith("hydra/"):  # options of Hydra's own, such as the launcher basic
        listed = re.search(r"Available options in '[^']+': (.*?)(?: Config search path|$)", text)
        options |= set(listed[1].split() if listed else [])
    if group in registry.GROUPS and (plugins := registry.files_of(group, option)):
        config = plugins[0].parents[2] / "conf" / group / f"{option}.yaml"
        return Problem(group, option, f"{plugins[0]} has no config", f"write {config}, as python -m plexp new does")
    return Problem(group, option, "there is no such option", nearest(option, sorted(options)))


def _split(path: str) -> tuple[str, str]:
    """Return the group and the option of a config's path; an option may have slashes, but for Hydra's own groups."""
    group, _, option = path.rpartition("/") if path.startswith("hydra/") else path.partition("/")
    return group, option


def _unknown_key(typed: str, missing: str, arguments: list[str], sweeper_keys: Sequence[str]) -> Problem:
    """Return the problem of a key that the configuration does not have, with a suggestion.

    The rest is composed without it, to know which keys there are. `typed` is the key as given, `missing` the one that does
    not exist, for example inside a dictionary that was given.
    """
    key = max(typed, missing, key=len)
    cause = "there is no such key"
    overrides = [
        a for a in arguments if "=" in a and not a.startswith("-") and a.lstrip("+~").partition("=")[0] != typed
    ]
    first_job = [re.sub(r"=(choice\()?([^,\[\]{}()]+),.*$", r"=\2", override) for override in overrides]
    try:
        config = compose(*first_job)
    except Exception:  # the other overrides have errors too, which are reported once this one is corrected
        return Problem(key, ..., cause, "see python -m plexp --cfg job")
    section, _, name = key.rpartition(".")
    if section == "hydra.sweeper":
        return Problem(key, ..., cause, f"{nearest(name, list(sweeper_keys))}; they need hydra/sweeper=optuna")
    if section in OPTIONAL and OmegaConf.select(config, section) is None:
        return Problem(key, ..., cause, OPTIONAL[section])
    if section in (*registry.REQUIRED_GROUPS, "replay") and (others := _options_with(section, name)):
        plugin = str(OmegaConf.select(config, f"{section}.plugin"))
        try:
            remedies = registry.refused(registry.find(section, plugin))
        except ConfigError as error:  # of a plugin that cannot be imported, which comes first
            return error.problems[0]
        remedy = remedies.get(name, f"it is a parameter of {', '.join(others)}")
        return Problem(key, ..., f"{section}={plugin} has no such parameter", remedy)
    values = OmegaConf.select(config, section) if section.count(".") else None
    if isinstance(values, DictConfig) and "plugin" in values:
        return Problem(key, ..., cause, nearest(name, sorted(map(str, values))))
    if isinstance(values, DictConfig):
        return Problem(key, ..., f"{section} does not have it yet", f"give +{key}=… to add it")
    if section.startswith("hydra"):
        settings: Any = OmegaConf.to_container(hydra_configuration(*first_job), resolve=False)
        keys = [
            candidate
            for candidate, _ in flattened(settings, "hydra.", with_sections=True)
            if candidate.startswith(section)
        ]
        return Problem(key, ..., cause, nearest(key, keys))
    everything: Any = OmegaConf.to_container(config, resolve=False)
    keys = [candidate for candidate, _ in flattened(everything, with_sections=True)]
    groups = sorted({folder.name for root in conf_folders() for folder in root.iterdir() if folder.is_dir()})
    if key in groups:
        remedy = "give algo.KEY=VALUE" if key == "learner" else f"give +{key}=OPTION"
        return Problem(key, ..., "the defaults list has no such group", remedy)
    remedy = nearest(key, [*keys, *groups])
    if not remedy.startswith("did you mean"):
        siblings = [candidate.rpartition(".")[2] for candidate in keys if candidate.rpartition(".")[0] == section]
        remedy = nearest(name, siblings or groups)
    return Problem(key, ..., cause, remedy)


def _options_with(group: str, parameter: str) -> list[str]:
    """Return the configs of the group that have this parameter."""
    return [option for option in config_files.options(group) if parameter in config_files.values(group, option)]
