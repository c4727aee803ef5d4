"""Composes configurations with Hydra, from the configs of plexp, of installed packages and of the current folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, read_write

from plexp.config.paths import CONF, conf_folders
from plexp.config.schema import with_counts
from plexp.errors import ConfigError, Problem, one_line


def escaped(text: str) -> str:
    """Return a text as a value of a configuration, where `${` would be an interpolation."""
    return re.sub(r"(?<!\\)\$\{", r"\\${", text)


def _allow_any_folder_name() -> None:
    """Patch Hydra so that the current folder and that of a run may be called `${HOME}`.

    It writes both into the configuration as they are, and their `${` would be interpolations. The place is where each job
    hands its configuration to Hydra's singleton; tried with Hydra 1.3.8.
    """
    set_config = HydraConfig.set_config

    def set_escaped(self: HydraConfig, cfg: DictConfig) -> None:
        folders: Any = OmegaConf.to_container(cfg.hydra.runtime, resolve=False)
        with read_write(cfg.hydra.runtime):
            for key in ("cwd", "output_dir"):
                cfg.hydra.runtime[key] = escaped(folders[key])
        set_config(self, cfg)

    HydraConfig.set_config = set_escaped  # type: ignore[method-assign]


_allow_any_folder_name()


class UserConf(SearchPathPlugin):
    """Adds the `conf/` of packages with plugins, and of the current folder, to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[1:]:
            search_path.append("plexp-user", f"file://{folder}")  # no URI: Hydra takes the path as it is


def register_search_path() -> None:
    """Let Hydra find the configs of plexp, of packages with plugins and of the current folder.

    `/open@KEY` in a defaults list makes a section take any key without `+`: a flag that YAML cannot give.
    """
    Plugins.instance().register(UserConf)
    ConfigStore.instance().store("open", OmegaConf.create({}, flags={"struct": False}))
    _rename_packaged_launchers()


def _rename_packaged_launchers() -> None:
    """Move the configs of launcher packages to the group `hydra/launcher_schema`, which plexp's configs of them include.

    A package stores its config under the name that plexp's has; Hydra would merge the two, with a warning that it will
    not do so in future. The attribute `repo` of the store is private; tried with Hydra 1.3.8.
    """
    store = ConfigStore.instance().repo["hydra"]
    for file in (CONF / "hydra" / "launcher").glob("*.yaml"):
        if (packaged := store["launcher"].pop(file.name, None)) is not None:
            store.setdefault("launcher_schema", {})[file.name] = packaged


@contextmanager
def _fresh_hydra() -> Iterator[None]:
    """Put a running Hydra application aside, and restore it in the end.

    Hydra has one global instance and no documented way to nest it; tried with Hydra 1.3.8.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def compose(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """Return the configuration of a command line, with the section `hydra` if asked for.

    A Hydra application may call this. Raises what Hydra raises for what it cannot compose.
    """
    register_search_path()
    with _fresh_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides), return_hydra_config=with_hydra)


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the values of a composed configuration, interpolations resolved and counts such as 1e5 and 100k read.

    Raises ConfigError for values that are missing.
    """
    missing = [Problem(key, ..., "has no value", f"give {key}=…") for key in sorted(OmegaConf.missing_keys(cfg))]
    if missing:
        raise ConfigError(missing)
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    return with_counts({str(key): value for key, value in values.items()})


def apply_changes(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return resolved values after `key=value` changes.

    Raises ConfigError for a change of another form.
    """
    try:
        changes = OmegaConf.from_dotlist([override.lstrip("+") for override in overrides if "=" in override])
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(values), changes))
    except Exception as error:
        problem = Problem(" ".join(overrides), ..., f"cannot be read ({one_line(error)})", "give key=value")
        raise ConfigError(problem) from error
    if wrong := [override for override in overrides if "=" not in override]:
        raise ConfigError(Problem(wrong[0], ..., "this is not key=value", "give env=NAME or env.KEY=VALUE"))
    assert isinstance(merged, dict)
    return with_counts({str(key): value for key, value in merged.items()})


def hydra_configuration(*overrides: str) -> DictConfig:
    """Return the section `hydra` of a command line's configuration."""
    section: DictConfig = compose(*overrides, with_hydra=True).hydra
    return section
