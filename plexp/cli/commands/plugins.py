"""The command `plexp plugins`."""

from __future__ import annotations

from plexp.cli import commands


def main(arguments: list[str]) -> int:
    """List every plugin, or describe one."""
    parser = commands.Parser("plugins", main.__doc__)
    parser.add_argument("name", nargs="?", help="a plugin, such as ppo, or a group and a plugin, such as algo/ppo")
    name = parser.parse_args(arguments).name
    from plexp.config.catalogue import describe, overview

    return overview() if name is None else describe(name)
