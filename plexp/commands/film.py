"""`plexp film`"""

from __future__ import annotations

import argparse
import math

from plexp import commands
from plexp.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Film what an agent does: the best, the median and the worst of some episodes, or one of its training."""
    parser = commands.parser("film", str(main.__doc__))
    parser.add_argument("run", help="its id or name in MLflow; best, last; or models:/NAME/VERSION")
    parser.add_argument("--episodes", type=_count, default=20, help="to play, of which three are filmed; 20")
    parser.add_argument("--episode", type=_count, metavar="NUMBER", help="a training episode: a row of episodes.csv")
    parser.add_argument("--sampled", action="store_true", help="draw actions from the policy; otherwise its mode")
    parser.add_argument("--to", type=commands.folder, metavar="FOLDER", help="for the files; <outputs>/films/<run>")
    parser.add_argument("--speed", type=_speed, default=1.0, help="2 is twice as fast as it was; 1")
    options = parser.parse_args(arguments)
    from plexp.filming import Request, film_run

    settled(options.uri, options.outputs, quiet=True)
    for line in film_run(Request(**vars(options))):
        print(line, flush=True)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0.01 <= speed <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0.01 to 100")
    return speed
