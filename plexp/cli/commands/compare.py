"""The command `plexp compare`."""

from __future__ import annotations

from plexp.cli import commands
from plexp.cli.commands.sync import settled
from plexp.errors import ConfigError, Problem


def main(arguments: list[str]) -> int:
    """Compare recorded runs: which learns faster, which is more stable, and is it more than luck?"""
    parser = commands.parser("compare", str(main.__doc__))
    parser.add_argument("--env", help="the environment, such as cartpole, or an MLflow experiment")
    parser.add_argument(
        "--by", type=_names, help="params or groups that make the groups: algo,net.layers; all that differ"
    )
    parser.add_argument("--where", action="append", default=[], type=_condition, metavar="KEY=VALUE[,VALUE]")
    parser.add_argument("--sweep", help="only runs of this sweep (their tag sweep)")
    parser.add_argument(
        "--baseline",
        type=commands.text("--baseline"),
        metavar="GROUP",
        help="compare with this group alone, such as net.layers=2",
    )
    parser.add_argument(
        "--threshold", type=commands.number("--threshold"), help="mean return that counts as learnt; env.solved_return"
    )
    parser.add_argument(
        "--to",
        type=commands.folder("--to"),
        metavar="FOLDER",
        help="folder for the report; <outputs>/reports/<time>-<title>",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    from plexp.analysis.request import Request, run_comparison
    from plexp.execution.provenance import provenance

    settled(options.uri, options.outputs, quiet=True)
    run_comparison(Request(**{**vars(options), "where": dict(options.where)}), Console(), provenance())
    return 0


def _names(text: str) -> list[str]:
    names = [name for name in text.replace(" ", "").split(",") if name]
    if not names:
        raise ConfigError(Problem("--by", text, "this names nothing", "give a param or group, such as algo,net.layers"))
    return names


def _condition(text: str) -> tuple[str, list[str]]:
    key, sign, values = text.partition("=")
    if not key or not sign:
        raise ConfigError(Problem("--where", text, "this is not KEY=VALUE", "give a param or group, such as algo=ppo"))
    return key, values.split(",")
