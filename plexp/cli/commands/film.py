"""The command `plexp film`."""

from __future__ import annotations

from plexp.cli import commands
from plexp.cli.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Film an agent: the best, the median and the worst of some episodes, or one episode of its training."""
    parser = commands.run_parser("film", str(main.__doc__))
    parser.add_argument(
        "--episodes",
        type=commands.whole("--episodes", 1),
        default=20,
        help="number of episodes, of which three are filmed; 20",
    )
    parser.add_argument(
        "--episode",
        type=commands.whole("--episode", 1),
        metavar="NUMBER",
        help="a training episode: a row of episodes.csv",
    )
    commands.add_episode_options(parser)
    parser.add_argument(
        "--to", type=commands.folder("--to"), metavar="FOLDER", help="folder for the files; <outputs>/films/<run>"
    )
    parser.add_argument(
        "--speed",
        type=commands.number("--speed", 0.01, 100),
        default=1.0,
        help="2 is twice as fast as the environment; 1",
    )
    options = parser.parse_args(arguments)
    from plexp.cli.waiting import LateBar
    from plexp.envs.film import FOLDER
    from plexp.recorded.film import Request, default_folder, film_run
    from plexp.tracking.format import ui_command
    from plexp.tracking.lookup import open_run

    settled(options.uri, options.outputs, quiet=True)
    with open_run(options.run, outputs=options.outputs, uri=options.uri, env=options.env) as run:
        folder = options.to or default_folder(run, options.outputs)
        what = {name: getattr(options, name) for name in ("episode", "episodes", "sampled", "seed", "speed")}
        bar = LateBar(run.name)
        try:
            for film in film_run(run, Request(folder, **what), bar.show):
                bar.close()
                print(film, flush=True)
        finally:
            bar.close()
        browse = ui_command(options.uri, options.outputs)
        print(f"recorded with run {run.run_id} in {FOLDER}/; browse it with: {browse}")
    return 0
