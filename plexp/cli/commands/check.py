"""The command `plexp check`."""

from __future__ import annotations

import sys

from plexp.cli import commands
from plexp.config import config_files, registry
from plexp.errors import ConfigError, Problem, nearest


def main(arguments: list[str]) -> int:
    """Check that a plugin satisfies the contract of its group; a line for each fault."""
    parser = commands.Parser("check", main.__doc__)
    parser.add_argument("name", help="a plugin, such as ppo, or a group and a plugin, such as algo/ppo")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="further values to check it with")
    options = parser.parse_args(arguments)
    group, _, name = options.name.rpartition("/")
    groups = [known for known in registry.GROUPS if name in registry.names(known) and group in ("", known)]
    if not groups:
        for known in registry.GROUPS if not group else [group]:
            if plugin := config_files.values(known, name).get("plugin"):
                raise ConfigError(
                    Problem("check", options.name, f"this is a config of {plugin}", f"give {known}/{plugin}")
                )
        names = sorted(name for known in registry.GROUPS for name in registry.names(known))
        raise ConfigError(Problem("check", options.name, "there is no such plugin", nearest(name, names)))
    from plexp.testing.contract import DOCUMENTATION, check, problems_of

    if problems := [problem for each in groups for problem in problems_of(each, name, options.overrides)]:
        raise ConfigError(problems)
    faults = undocumented = 0
    for group in groups:
        print(f"{group}/{name}  ({registry.files_of(group, name)[0]})")
        for result in check(group, name, options.overrides):
            print(f"  {'FAILS ' if result.faults else 'passes'}  {result.title}", flush=True)
            for fault in result.faults:
                print(f"          {fault}", flush=True)
            if result.title == DOCUMENTATION:
                undocumented += len(result.faults)
            else:
                faults += len(result.faults)
    if faults or undocumented:
        counts = [f"{faults} fault{'s' * (faults > 1)}"] * (faults > 0)
        counts += [f"{undocumented} of the documentation"] * (undocumented > 0)
        print(", ".join(counts), file=sys.stderr)
        return 1
    print("it satisfies its contract")
    return 0
