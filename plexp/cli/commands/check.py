"""`plexp check`"""

from __future__ import annotations

import argparse
import sys

from plexp.config import registry
from plexp.errors import ConfigError, Problem, nearest


def main(arguments: list[str]) -> int:
    """Whether a plugin holds what every plugin of its kind must hold; a line for each thing that is wrong."""
    parser = argparse.ArgumentParser("plexp check", description=main.__doc__)
    parser.add_argument("name", help="a plugin, such as ppo, or a group and a plugin, such as algo/ppo")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further values that it is checked with")
    options = parser.parse_args(arguments)
    given = options.name
    group, _, name = given.rpartition("/")
    groups = [each for each in registry.GROUPS if name in registry.names(each) and group in ("", each)]
    if not groups:
        every = sorted(each for group in registry.GROUPS for each in registry.names(group))
        raise ConfigError(Problem("check", given, "there is no such plugin", nearest(name, every)))
    from plexp.testing.contract import check

    wrong = 0
    for each in groups:
        print(f"{each}/{name}  ({registry.files_of(each, name)[0]})")
        for result in check(each, name, options.overrides):
            print(f"  {'wrong' if result.faults else 'holds'}  {result.title}", flush=True)
            for fault in result.faults:
                print(f"         {fault}", flush=True)
            wrong += len(result.faults)
    print(
        f"{wrong} fault{'s' * (wrong > 1)}" if wrong else "it holds its contract",
        file=sys.stderr if wrong else sys.stdout,
    )
    return 1 if wrong else 0
