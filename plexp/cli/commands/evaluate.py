"""The command `plexp evaluate`."""

from __future__ import annotations

from plexp.cli import commands
from plexp.cli.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Evaluate a trained agent on episodes it has never seen, with confidence intervals; recorded with its run."""
    parser = commands.run_parser("evaluate", str(main.__doc__))
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="env=NAME", help="another environment, as in training"
    )
    parser.add_argument("--episodes", type=commands.whole("--episodes", 1), default=100)
    commands.add_episode_options(parser)
    options = parser.parse_intermixed_args(arguments)
    settled(options.uri, options.outputs, quiet=True)
    from plexp.cli.waiting import LateBar
    from plexp.recorded.evaluate import evaluate_run, record
    from plexp.tracking.format import ui_command
    from plexp.tracking.lookup import open_run

    with open_run(options.run, outputs=options.outputs, uri=options.uri, env=options.env) as run:
        bar = LateBar(run.name)
        try:
            evaluation = evaluate_run(
                run,
                episodes=options.episodes,
                sampled=options.sampled,
                seed=options.seed,
                overrides=options.overrides,
                show=bar.show,
            )
        finally:
            bar.close()
        print(evaluation, flush=True)
        record(run, evaluation, options.overrides)
        print(f"recorded with run {run.run_id}; browse it with: {ui_command(options.uri, options.outputs)}")
    return 0
