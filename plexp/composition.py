"""Composing a configuration with Hydra, from plexp's sheets, those of installed packages and those of the current folder."""

from __future__ import annotations

from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from plexp import CONF, conf_folders
from plexp.errors import ConfigError


class UserConf(SearchPathPlugin):
    """Finds the `conf/` of others: of packages with plugins, and of the current folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[1:]:
            search_path.append("plexp-user", f"file://{folder}")


def find_sheets_of_others() -> None:
    """From now on Hydra does."""
    Plugins.instance().register(UserConf)


def compose(*overrides: str) -> DictConfig:
    """What a command line with these overrides runs. Raises what Hydra raises for what it cannot compose."""
    find_sheets_of_others()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides))


def composed(*overrides: str) -> dict[str, Any]:
    """The same, resolved. Raises ConfigError for what cannot be composed, has no value, or does not resolve."""
    from plexp.explain import explain

    try:
        values = OmegaConf.to_container(compose(*overrides), resolve=True, throw_on_missing=True)
    except Exception as error:
        problem = explain(error, list(overrides))
        if problem is None:
            raise
        raise ConfigError(problem) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
