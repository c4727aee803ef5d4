"""plexp: a bench for reinforcement-learning experiments, whose every part is a plugin."""

from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "conf" / "config.yaml").is_file() else None
CONF = CHECKOUT / "conf" if CHECKOUT else PACKAGE / "conf"


def plugin_folders() -> list[Path]:
    """Where `plugins/` and `conf/` may lie: the wheel or the checkout, and the user's current folder."""
    folders = [CHECKOUT or PACKAGE, Path.cwd()]
    return [folder for i, folder in enumerate(folders) if folder not in folders[:i]]


def conf_folders() -> list[Path]:
    """The `conf/` of plexp, and that of the user's current folder."""
    return [CONF, *(folder / "conf" for folder in plugin_folders()[1:] if (folder / "conf").is_dir())]


# `plexp.plugins` is a namespace package that merges the `plugins/` of these folders, so that a plugin has one importable
# name in a checkout, an editable install, a wheel and every worker process.
for _folder in plugin_folders():
    if (_folder / "plugins").is_dir() and str(_folder) not in __path__:
        __path__.append(str(_folder))
