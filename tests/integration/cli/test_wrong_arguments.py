"""Tests of wrong command lines: one line on standard error that says what is wrong and what to type, and exit status 2."""

from __future__ import annotations

import pytest

from tests.integration.cli.test_cli import Main, main

__all__ = ["main"]
NO_STORE = "this is no address of a store; give one that begins with http://, https://, sqlite://, "
ARGUMENTS = {
    "status --bogus": "--bogus: there is no such option; ",
    "status --sweeep=x": "--sweeep: there is no such option; did you mean --sweep? see python -m plexp status --help",
    "status -x": "-x: there is no such option; see python -m plexp status --help",
    "status --outputs": "--outputs: it has no value; give --outputs=VALUE",
    "status --outputs=": "--outputs=: this is empty; give a value",
    "status extra": "extra: this is one argument too many; see python -m plexp status --help",
    "status a=": "a=: this is one argument too many; ",
    "status ü": "ü: this is one argument",
    "check": "plexp check: name is missing; see python -m plexp check --help",
    "check ppo --bogus": "--bogus: there is no such option; ",
    "plugins a b": "b: this is one argument too many; ",
    "plugins --bogus": "--bogus: there is no such option; ",
    "new": "plexp new: kind, name are missing; see python -m plexp new --help",
    "new bogus x": "kind=bogus: there is no such choice; choose one of algo, advantage, net, env, callback",
    "new algo a b": "b: this is one argument too many; ",
    "replay": "plexp replay: file is missing; ",
    "replay two three": "three: this is one argument too many; ",
    "export last --format bogus": "--format=bogus: there is no such choice; choose one of pt2, onnx, all",
    "film": "plexp film: RUN is missing; ",
    "film last --episodes": "--episodes: it has no value; give --episodes=VALUE",
    "film last --s 1": "--s: several options begin so; give one of --seed, --sampled, --speed",
    "evaluate": "plexp evaluate: RUN is missing; ",
    "evaluate last --bogus": "--bogus: there is no such option; ",
    "evaluate last --sampled=x": "--sampled=x: it takes no value; give --sampled alone",
    "reproduce last --to-the-ned": "--to-the-ned: there is no such option; did you mean --to-the-end? see ",
    "compare --where algo": "--where=algo: this is not KEY=VALUE; ",
    "compare --threshold high": "--threshold=high: this is not such a number; give a finite number, such as 475",
    "compare --threshold nan": "--threshold=nan: this is not such a number; ",
    "compare --threshold=-inf": "--threshold=-inf: this is not such a number; ",
    "compare --by ,": "--by=,: this names nothing; ",
    "compare --baseline=": "--baseline=: this is empty; ",
    "ui --host=": "--host=: this is empty; ",
    "ui extra": "extra: this is one argument too many; ",
    "compare --uri postgres://user:secret@host/plexp": "--uri=postgres://***@host/plexp: this is no address of a store; did "
    "you mean postgresql?",
    **{
        f"{command} --uri {uri}": f"--uri={uri}: {NO_STORE}"
        for command in ("status", "sync", "repair", "compare", "export last", "film last", "evaluate last", "ui")
        for uri in ("bogus://x", "nothing")
    },
}


@pytest.mark.parametrize("line", ARGUMENTS)
def test_a_wrong_argument_of_a_command_is_refused_in_one_line(line: str, main: Main) -> None:
    status, lines = main(*line.split())
    assert status == 2 and len(lines) == 1 and lines[0].startswith(ARGUMENTS[line]), lines


@pytest.mark.parametrize("command", ["status", "plugins ppo", "replay file", "new algo x"])
def test_an_empty_argument_too_many_is_refused_in_one_line(command: str, main: Main) -> None:
    status, lines = main(*command.split(), "")
    assert status == 2 and lines == [
        f"'': this is one argument too many; see python -m plexp {command.split()[0]} --help"
    ]
