"""Where configurations and plugins lie."""

from __future__ import annotations

from functools import cache
from importlib import util
from importlib.metadata import entry_points
from pathlib import Path

import plexp

PACKAGE = Path(plexp.__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "conf" / "config.yaml").is_file() else None
CONF = CHECKOUT / "conf" if CHECKOUT else PACKAGE / "conf"


def plugin_folders() -> list[Path]:
    """Where `plugins/` and `conf/` may lie: plexp itself, packages that say so, and the user's current folder."""
    here = Path.cwd()
    mine = [] if (here / "conf" / "config.yaml").is_file() and (here / "plexp").is_dir() else [here]  # another checkout
    folders = [CHECKOUT or PACKAGE, *_packages(), *mine]
    return [folder for i, folder in enumerate(folders) if folder not in folders[:i]]


def conf_folders() -> list[Path]:
    """The `conf/` of each of them, plexp's first."""
    return [CONF, *(folder / "conf" for folder in plugin_folders()[1:] if (folder / "conf").is_dir())]


@cache  # it reads the metadata of every installed package, and no package comes while a process runs
def _packages() -> list[Path]:
    """The folders of installed packages with an entry point in the group `plexp.plugins`; imports none of them."""
    names = sorted({point.module.partition(".")[0] for point in entry_points(group="plexp.plugins")})
    found = [spec for name in names if (spec := util.find_spec(name)) is not None]
    return [Path(folder) for spec in found for folder in spec.submodule_search_locations or ()]


def find_plugins() -> None:
    """Merge the `plugins/` of these folders into the namespace package `plexp.plugins`.

    So a plugin has one importable name in a checkout, an editable install, a wheel and every worker process. Called again
    where a job comes to the folder of its command.
    """
    for folder in plugin_folders():
        if (folder / "plugins").is_dir() and str(folder) not in plexp.__path__:
            plexp.__path__.append(str(folder))
