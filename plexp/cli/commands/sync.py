"""`plexp sync`, which other commands do beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

from plexp.cli import commands
from plexp.errors import ConfigError, Problem, StoreError
from plexp.execution.state import list_runs, state_folder, unsettled_runs


def main(arguments: list[str]) -> int:
    """Bring to MLflow what waits on disk because its store did not answer, and mark runs that died."""
    options = commands.parser("sync", str(main.__doc__)).parse_args(arguments)
    if not list_runs(state_folder(options.outputs)):
        cause = "no run has been started there yet"
        raise ConfigError(Problem("outputs", options.outputs, cause, "start one with: python -m plexp"))
    return settled(options.uri, options.outputs, quiet=False)


def settled(uri: str | None, outputs: Path, *, quiet: bool) -> int:
    """Settle runs whose process was killed, and return the exit status, 0 for a command that does it in passing (`quiet`)."""
    status, count = 0, 0
    stores = {record.store for _, record in unsettled_runs(state_folder(outputs))} if uri is None else {uri}
    for store in sorted(stores, key=str):
        from plexp.execution.recovery import can_settle, settle_outputs

        try:
            for line in settle_outputs(outputs, store):
                print(line, file=sys.stderr if quiet else sys.stdout)
                count += 1
        except StoreError as error:
            if not quiet or can_settle(outputs, store):  # else its owner does it, and reading goes on without a word
                print(error, file=sys.stderr)
            status = 1
    if not quiet and status == 0 and not count:
        print("nothing waits")
    return 0 if quiet else status
