"""Folders of configurations and plugins."""

from __future__ import annotations

from functools import cache
from importlib import util
from importlib.metadata import entry_points
from pathlib import Path

import plexp

PACKAGE = Path(plexp.__file__).resolve().parent
"""Folder of the package plexp."""
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "conf" / "config.yaml").is_file() else None
"""Checkout that plexp runs from; None: it is installed from a wheel."""
CONF = CHECKOUT / "conf" if CHECKOUT else PACKAGE / "conf"
"""Folder of plexp's configs."""


def plugin_folders() -> list[Path]:
    """Return the folders that may have `plugins/` and `conf/`: plexp, packages with the entry point, the current one."""
    here = Path.cwd()
    is_other_checkout = (here / "conf" / "config.yaml").is_file() and (here / "plexp").is_dir()
    folders = [CHECKOUT or PACKAGE, *_packages(), *([] if is_other_checkout else [here])]
    return [folder for i, folder in enumerate(folders) if folder not in folders[:i]]


def conf_folders() -> list[Path]:
    """Return the `conf/` of each plugin folder, plexp's first."""
    return [CONF, *(folder / "conf" for folder in plugin_folders()[1:] if (folder / "conf").is_dir())]


@cache  # it reads the metadata of every installed package, and no package comes while a process runs
def _packages() -> list[Path]:
    """Return the folders of installed packages with an entry point `plexp.plugins`, without importing them."""
    names = sorted({point.module.partition(".")[0] for point in entry_points(group="plexp.plugins")})
    specs = [spec for name in names if (spec := util.find_spec(name)) is not None]
    return [Path(folder) for spec in specs for folder in spec.submodule_search_locations or ()]


def find_plugins() -> None:
    """Merge the `plugins/` of all plugin folders into the namespace package `plexp.plugins`.

    So a plugin has one importable name in a checkout, an editable install, a wheel and every worker process. A job that
    changes to the folder of its command calls this again.
    """
    for folder in plugin_folders():
        if (folder / "plugins").is_dir() and str(folder) not in plexp.__path__:
            plexp.__path__.append(str(folder))
