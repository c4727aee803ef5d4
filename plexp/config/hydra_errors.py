"""Errors of Hydra and OmegaConf, and of the outputs folder, as plexp's own: key, value, cause, remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from plexp.config import registry
from plexp.config.compose import compose, hydra_configuration, resolve
from plexp.config.paths import conf_folders
from plexp.errors import ConfigError, Problem, nearest


def compose_values(*overrides: str) -> dict[str, Any]:
    """Return the resolved values of a command line.

    Raises ConfigError for overrides that do not compose, values that are missing or do not resolve.
    """
    return compose_with_choices(*overrides)[0]


def compose_with_choices(*overrides: str) -> tuple[dict[str, Any], dict[str, object]]:
    """Return the resolved values of a command line, and the config chosen in each group.

    Raises ConfigError; see `compose_values`.
    """
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
        case MissingConfigException():
            return _missing_option(text)
        case OverrideParseException() if re.fullmatch(r"[a-z]+", str(error.override)):
            remedy = nearest(str(error.override), list(commands))
            return Problem(str(error.override), ..., "there is no such command, and it is not key=value", remedy)
        case OverrideParseException():
            return Problem(
                error.override,
                ...,
                "this is not key=value",
                "quote values with brackets, commas or spaces: 'key=\"value\"'",
            )
        case HydraException() if found := re.match(r"Could not override '([^']+)'", text):
            return _unknown_key(found[1], str(getattr(error.__cause__, "full_key", "")), arguments, sweeper_keys)
        case HydraException() if found := re.match(r"Error merging override ([^=]+)=(.*)", text):
            said = str(error.__cause__).partition("\n")[0]
            return Problem(found[1], found[2], said, "see python -m plexp --cfg hydra")
        case HydraException() if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*?)'", text):
            return Problem(found[1], found[2], "several values make a sweep", "add -m for a sweep, or [a,b] for a list")
        case HydraException() if "does not support sweep type" in text:
            given = next((a for a in arguments if "interval(" in a), "configuration")
            cause, remedy = "an interval is searched, not swept", "give hydra/sweeper=optuna, or choice(a, b, …)"
            return Problem(given, ..., cause, remedy)
        case HydraException():
            return Problem("configuration", ..., text, "see python -m plexp --help")
        case OmegaConfBaseException():
            key = str(error.full_key or error.key or "configuration")
            cause = str(error).splitlines()[0]
            return Problem(key, ..., cause, "see python -m plexp --cfg job")
        case ValueError() if text.startswith("Config group override must be"):
            groups = [a for a in arguments if a.partition("=")[2] in ("null", "~")] or arguments
            return Problem(" ".join(groups), ..., "a group needs an option", "see python -m plexp --help")
        case OSError():
            folder = next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("outputs=")), "outputs")
            return Problem(
                "outputs", folder, f"cannot be written ({error.strerror}: {error.filename})", "give outputs=FOLDER"
            )
    if _raised_in(error) in ("hydra", "omegaconf", "antlr4"):
        said = f"Hydra cannot compose this ({type(error).__name__}{': ' * bool(text)}{text})"
        return Problem(" ".join(arguments), ..., said, "see python -m plexp --help")
    return None


def _raised_in(error: BaseException) -> str:
    """Return the package whose code raised an error."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _missing_option(text: str) -> Problem:
    missing, inside = re.search(r"Could not (?:find|load) '([^']+)'", text), re.search(r"In '([^']+/[^']+)'", text)
    found = missing if inside is None or inside[1].startswith("hydra/") else inside
    if not found:
        return Problem("configuration", ..., text, "see python -m plexp --help")
    of_hydra = found[1].startswith("hydra/")
    group, _, option = found[1].rpartition("/") if of_hydra else found[1].partition("/")
    sheets = {file.stem for root in conf_folders() for file in (root / group).glob("*.yaml")}
    known = re.search(
        r"Available options in '[^']+': (.*?)(?: Config search path|$)", text
    )  # Hydra's own, such as the launcher basic
    options = sorted(sheets | set(known[1].split() if known and group.startswith("hydra/") else []))
    if group in registry.GROUPS and (files := registry.files_of(group, option)):
        sheet = files[0].parents[2] / "conf" / group / f"{option}.yaml"
        return Problem(group, option, f"{files[0]} has no config", f"write {sheet}, as python -m plexp new does")
    return Problem(group, option, "there is no such option", nearest(option, options))


def _unknown_key(typed: str, missing: str, arguments: list[str], sweeper_keys: Sequence[str]) -> Problem:
    """Return the problem of a key that the configuration does not have, with a suggestion.

    The rest is composed without it, to know which keys there are. `typed` is the key as given, `missing` the one that does
    not exist, for example inside a dictionary that was given.
    """
    key = max(typed, missing, key=len)
    rest = [a for a in arguments if "=" in a and not a.startswith("-") and a.lstrip("+~").partition("=")[0] != typed]
    single = [re.sub(r"=(choice\()?([^,\[\]{}()]+),.*$", r"=\2", a) for a in rest]
    try:
        cfg = compose(*single)
    except Exception:  # the rest has faults of its own, which will be told when this one is mended
        return Problem(key, ..., "there is no such key", "see python -m plexp --cfg job")
    values = OmegaConf.to_container(cfg, resolve=False)
    section, _, name = key.rpartition(".")
    if section == "hydra.sweeper":
        close = nearest(name, list(sweeper_keys))
        return Problem(key, ..., "there is no such key", f"{close}; they need hydra/sweeper=optuna")
    if section in ("algo", "advantage", "net", "env") and _known_elsewhere(section, name):
        plugin = OmegaConf.select(cfg, f"{section}.plugin")
        reason = _reason(section, str(plugin), name)
        return Problem(
            key, ..., f"{section}={plugin} has no such parameter", reason or "another plugin of this group has it"
        )
    found = OmegaConf.select(cfg, section) if section.count(".") else None
    if isinstance(found, DictConfig) and "plugin" in found:
        return Problem(key, ..., "there is no such key", nearest(name, sorted(map(str, found))))
    if isinstance(found, DictConfig):
        return Problem(key, ..., f"{section} does not have it yet", f"give +{key}=… to add it")
    if section.startswith("hydra"):
        of_hydra = OmegaConf.to_container(hydra_configuration(*single), resolve=False)
        near = [each for each in _dotted(of_hydra, "hydra.") if each.startswith(section)]
        return Problem(key, ..., "there is no such key", nearest(key, near))
    keys = list(_dotted(values))
    groups = sorted({folder.name for root in conf_folders() for folder in root.iterdir() if folder.is_dir()})
    close = nearest(key, [*keys, *groups])
    if not close.startswith("did you mean"):
        siblings = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == section]
        close = nearest(name, siblings or groups)
    return Problem(key, ..., "there is no such key", close)


def _known_elsewhere(section: str, name: str) -> bool:
    return any(
        re.search(rf"^\s*{re.escape(name)}:", f.read_text(), re.M)
        for r in conf_folders()
        for f in (r / section).glob("*.yaml")
    )


def _reason(section: str, plugin: str, name: str) -> str | None:
    refused: dict[str, str] = getattr(registry.find(section, plugin), "refused", {})
    return refused.get(name)


def _dotted(values: Any, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
