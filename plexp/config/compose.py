"""Composing a configuration with Hydra, from plexp's sheets, those of installed packages and those of the current folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from plexp.config.paths import CONF, conf_folders
from plexp.errors import ConfigError, Problem, one_line


class UserConf(SearchPathPlugin):
    """Finds the `conf/` of others: of packages with plugins, and of the current folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[1:]:
            search_path.append("plexp-user", f"file://{folder}")


def register_search_path() -> None:
    """From now on Hydra does; and of the launchers it takes plexp's sheets, which begin with the plugin's own.

    Two sheets of one name Hydra would merge by itself, with a warning that it will not go on doing so.
    """
    Plugins.instance().register(UserConf)
    known = ConfigStore.instance().repo["hydra"]
    for sheet in (CONF / "hydra" / "launcher").glob("*.yaml"):
        if (of_plugin := known["launcher"].pop(sheet.name, None)) is not None:
            known.setdefault("launcher_schema", {})[sheet.name] = of_plugin


def compose(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """Return the configuration of a command line with these overrides.

    A Hydra application that calls this stays as it is. Raises what Hydra raises for what it cannot compose.
    """
    register_search_path()
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = outer


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the values of a composed configuration, interpolations resolved.

    Raises ConfigError for values that are missing.
    """
    missing = [Problem(key, ..., "has no value", f"give {key}=…") for key in sorted(OmegaConf.missing_keys(cfg))]
    if missing:
        raise ConfigError(missing)
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def changed(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Resolved values with `key=value` changes. Raises ConfigError for what is not key=value."""
    try:
        given = OmegaConf.from_dotlist([override.lstrip("+") for override in overrides if "=" in override])
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(values), given))
    except Exception as error:
        problem = Problem(" ".join(overrides), ..., f"cannot be read ({one_line(error)})", "give key=value")
        raise ConfigError(problem) from error
    if wrong := [override for override in overrides if "=" not in override]:
        raise ConfigError(Problem(wrong[0], ..., "this is not key=value", "give env=NAME or env.KEY=VALUE"))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def hydra_configuration(*overrides: str) -> DictConfig:
    """Hydra's own part of it: the section `hydra`."""
    found: DictConfig = compose(*overrides, with_hydra=True).hydra
    return found
