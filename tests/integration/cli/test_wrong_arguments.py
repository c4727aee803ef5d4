"""Tests of wrong command lines: one line on standard error that says what is wrong and what to type, and exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

import plexp
from plexp.cli import main as cli
from plexp.sweeps.signals import Terminated
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
    "check ddpg": "check=ddpg: this is a config of td3; give algo/td3",
    "check nothing": "check=nothing: there is no such plugin; there are a2c, ",
    "check bogus/ppo": "check=bogus/ppo: there is no such plugin; did you mean ppo?",
    "check ppo --bogus": "--bogus: there is no such option; ",
    "plugins a b": "b: this is one argument too many; ",
    "plugins --bogus": "--bogus: there is no such option; ",
    "new": "plexp new: plugin, name are missing; see python -m plexp new --help",
    "new bogus x": "plugin=bogus: there is no such choice; choose one of algo, advantage, net, env, replay, callback",
    "new algo a --kind bogus": "--kind=bogus: there is no such choice; choose one of on_policy, off_policy",
    "new net a --kind off_policy": "--kind=off_policy: only algorithms have a kind; leave it out",
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
    "repair --uri sqlite:///x.db": "--uri: there is no such option; ",
    "ui extra": "extra: this is one argument too many; ",
    "compare --uri postgres://user:secret@host/plexp": "--uri=postgres://***@host/plexp: this is no address of a store; did "
    "you mean postgresql?",
    **{
        f"{command} --uri {uri}": f"--uri={uri}: {NO_STORE}"
        for command in ("status", "sync", "compare", "export last", "film last", "evaluate last", "ui")
        for uri in ("bogus://x", "nothing")
    },
}


@pytest.mark.parametrize("line", ARGUMENTS)
def test_a_wrong_argument_of_a_command_is_refused_in_one_line(line: str, main: Main) -> None:
    status, lines = main(*line.split())
    assert status == 2 and len(lines) == 1 and lines[0].startswith(ARGUMENTS[line]), lines


FLAGS = {
    "-V": "-V: there is no such option; see python -m plexp --help",
    "--bogus=3 seed=1": "--bogus: there is no such option; see python -m plexp --help",
    "--confg job": "--confg: there is no such option; did you mean --cfg? see python -m plexp --help",
    "--cfg wrong": "--cfg=wrong: there is no such choice; choose one of job, hydra, all",
    "--cfg": "--cfg: it has no value; give --cfg=VALUE",
    "--info bogus": "--info=bogus: there is no such choice; choose one of all, config, ",
    "--config-name nothing": "--config-name=nothing: there is no such config; leave it out: configs of your own are in conf/",
    "--config-path nothing": "--config-path: there is no such folder of configs; leave it out: ",
    "--config-dir nothing": "--config-dir: there is no such folder of configs; leave it out: ",
    "--experimental-rerun nothing": "--experimental-rerun=nothing: plexp has no such runs; ",
    "--package algo": "--package=algo: it shows a part of --cfg; ",
    "seed=1 --cfg job algo=a2c": "algo=a2c: it is separated from other arguments by a flag; give all key=value behind ",
    "-m status": "status: a command comes first; give python -m plexp status …",
    "Status": "Status: there is no such command, and it is not key=value; did you mean status?",
    "ü": "ü: there is no such command, and it is not key=value; there are check, ",
    "=": "=: this is not key=value; give key=value",
    "==": "==: this is not key=value; give key=value",
    "": "'': this is not key=value; give key=value",
}


@pytest.mark.parametrize("line", FLAGS)
def test_a_wrong_flag_or_word_is_refused_in_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(line.split(" "))
    printed = capsys.readouterr()
    assert status == 2 and not printed.out
    assert len(printed.err.splitlines()) == 1 and printed.err.startswith(FLAGS[line]), printed.err


@pytest.mark.parametrize("line", ["--version extra", "seed=1 --version", "status --version", "--vers"])
def test_the_version_is_that_of_plexp_wherever_it_is_asked_for(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 0
    assert capsys.readouterr().out == f"plexp {plexp.__version__}\n"


CHECKS = {
    "check ppo bogus": "bogus: this is not key=value; ",
    "check ppo algo.nothing=7": "algo.nothing: there is no such key; ",
    "check ppo a=": "a: there is no such key; ",
    "check ppo =": "=: this is not key=value; ",
    "check ppo env=nowhere": "env=nowhere: there is no such option; ",
    "check ppo algo.clip_eps=-1": "algo.clip_eps=-1: must be greater than 0; ",
    "check ppo total_timesteps=x": "total_timesteps=x: must be a valid integer; ",
    "check returns algo.num_steps=x": "algo.num_steps=x: must be a valid integer; ",
    "check patience callbacks.patience.x=1": "callbacks.patience.x: there is no such key; ",
    "check gymnasium bogus=1": "bogus: there is no such key; ",
}


@pytest.mark.parametrize("line", CHECKS)
def test_a_wrong_value_for_a_check_is_no_fault_of_the_plugin(line: str, main: Main) -> None:
    status, lines = main(*line.split())
    assert status == 2 and len(lines) == 1 and lines[0].startswith(CHECKS[line]), lines


@pytest.mark.parametrize("text", ["[" * 100_000, '{"env": {}, "seed": 1e999, "actions": []}', "{}", "[]", "\0"])
def test_a_file_that_is_no_fault_is_refused_in_one_line(text: str, main: Main, tmp_path: Path) -> None:
    (tmp_path / "fault.json").write_text(text)
    status, lines = main("replay", str(tmp_path / "fault.json"))
    assert status == 2 and len(lines) == 1, lines
    assert "it cannot be read as a recorded episode (" in lines[0] and "give a fault.json that plexp wrote" in lines[0]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, Terminated])
def test_a_command_that_is_interrupted_ends_with_one_line(
    interrupt: type[KeyboardInterrupt], main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise interrupt

    monkeypatch.setattr("plexp.sweeps.status.status", interrupted)
    assert main("status") == (143 if interrupt is Terminated else 130, ["interrupted"])


@pytest.mark.parametrize("command", ["status", "plugins ppo", "replay file", "new algo x"])
def test_an_empty_argument_too_many_is_refused_in_one_line(command: str, main: Main) -> None:
    status, lines = main(*command.split(), "")
    assert status == 2 and lines == [
        f"'': this is one argument too many; see python -m plexp {command.split()[0]} --help"
    ]
