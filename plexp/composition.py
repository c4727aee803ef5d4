"""Composing a configuration with Hydra, from plexp's sheets, those of installed packages and those of the current folder."""

from __future__ import annotations

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig

from plexp import CONF, conf_folders
from plexp.optuna_sweeper import OptunaSweeper


class UserConf(SearchPathPlugin):
    """Finds the `conf/` of others: of packages with plugins, and of the current folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[1:]:
            search_path.append("plexp-user", f"file://{folder}")


def find_sheets_of_others() -> None:
    """From now on Hydra does."""
    Plugins.instance().register(UserConf)
    Plugins.instance().register(OptunaSweeper)


def compose(*overrides: str) -> DictConfig:
    """What a command line with these overrides runs. Raises what Hydra raises for what it cannot compose."""
    find_sheets_of_others()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides))
