"""Tests of films and recorded episodes of whole runs, from the command line."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from plexp.cli import main as cli
from tests.integration.cli.test_cli import QUICK, Main, main
from tests.integration.resume.test_resume import LONG, stop_at
from tests.support import forks
from tests.support.processes import EPISODES, differences, runs
from tests.unit.envs.test_film import Screen

__all__ = ["main", "stop_at"]
SCREEN = "env.id=tests.unit.envs.test_film:plexp-tests/Screen-v0"


def films(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("films/*"))


def test_filming_changes_nothing_but_the_films(main: Main, tmp_path: Path) -> None:
    found = []
    for film in ("true", "false"):
        outputs = tmp_path / film
        assert main(*QUICK, "compile=false", f"evaluation.film={film}", f"outputs={outputs}")[0] == 0
        found += runs(outputs)
    assert differences(*found) == []
    assert found[0]["tags"]["group"] == found[1]["tags"]["group"], "they are averaged in one chart"
    names = ("step-000000000", "step-000000032", "step-000000064", "final-best", "final-median", "final-worst")
    assert found[0]["params"]["evaluation.episodes"] == "2"
    assert films(found[0]["folder"]) == sorted(f"{name}.{kind}" for name in names for kind in ("mp4", "gif"))
    assert films(found[1]["folder"]) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "env.id=tests.support.environments:plexp-tests/Counter-v0",
            "it cannot be filmed: its render modes are none; ",
        ),
        (f"{SCREEN} +env.kwargs.fault=package", "it cannot be filmed (DependencyNotInstalled: pygame is not installed"),
        (f"{SCREEN} +env.kwargs.fault=nothing", "it cannot be filmed: it renders object"),
    ],
)
def test_an_environment_that_cannot_be_filmed_is_refused_before_training(
    override: str, line: str, main: Main, tmp_path: Path
) -> None:
    id, *others = override.split()
    status, lines = main(*QUICK, "env=gymnasium", id, *others, "evaluation.film=true")
    assert status == 2 and len(lines) == 1 and lines[0].startswith(f"{id}: {line}")
    assert not (tmp_path / "mlflow.db").exists() and not list(tmp_path.glob("state/*"))
    assert main(*QUICK, "env=gymnasium", id, *(o for o in others if "package" not in o))[0] == 0


def test_an_interrupted_run_has_its_episodes_and_once_resumed_each_of_them_once(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    assert main(*LONG, f"outputs={tmp_path / 'never'}")[0] == 0
    (uninterrupted,) = runs(tmp_path / "never")
    expected = load_file(uninterrupted["folder"] / EPISODES)
    stop_at(6, KeyboardInterrupt())
    assert main(*LONG)[0] == 130
    (killed,) = runs(tmp_path)
    early = load_file(killed["folder"] / EPISODES)
    number, steps = len(early["seed"]), int(early["length"].sum())
    assert 0 < number < len(expected["seed"])
    for name, tensor in early.items():
        np.testing.assert_array_equal(tensor, expected[name][: steps if name == "actions" else number])
    assert len((killed["folder"] / "episodes.csv").read_text().splitlines()) == number + 1
    assert main(*LONG)[0] == 0
    assert differences(runs(tmp_path)[0], uninterrupted) == []
    assert not list(tmp_path.glob("state/*/episodes"))


@pytest.mark.parametrize(("first", "then"), [("false", "true"), ("true", "false")])
def test_the_recording_of_actions_can_be_switched_when_a_run_is_resumed(
    first: str, then: str, main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(6, KeyboardInterrupt())
    assert main(*LONG, f"tracker.log_actions={first}")[0] == 130
    (run,) = runs(tmp_path)
    assert (run["folder"] / EPISODES).exists() == (first == "true")
    assert main(*LONG, f"tracker.log_actions={then}")[0] == 0
    (run,) = runs(tmp_path)
    assert run["status"] == "FINISHED" and "resume.steps" in run["tags"]
    assert len((run["folder"] / "episodes.csv").read_text().splitlines()) > 10


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the outputs of a finished run whose episodes have seven steps."""
    outputs = tmp_path_factory.mktemp("finished")
    done = forks.run([*QUICK, "compile=false", "env=gymnasium", SCREEN, f"outputs={outputs}"])
    assert done.returncode == 0, done.stderr
    return outputs


def test_the_best_the_median_and_the_worst_episode_of_an_agent_are_filmed(
    finished: Path, main: Main, tmp_path: Path
) -> None:
    command = ("film", "last", "--outputs", str(finished), "--episodes", "7", "--to", str(tmp_path / "a" / "b"))
    status, lines = main(*command)
    (run,) = runs(finished)
    names = [f"{which}-of-7" for which in ("best", "median", "worst")]
    assert status == 0 and len(lines) == 4
    returns = [float(re.findall(r": return (-?[0-9.]+) in 7 steps; ", line)[0]) for line in lines[:3]]
    assert returns == sorted(returns, reverse=True)
    for name in names:
        for kind in ("mp4", "gif"):
            data = (tmp_path / "a" / "b" / f"{name}.{kind}").read_bytes()
            assert (run["folder"] / "films" / f"{name}.{kind}").read_bytes() == data
    assert lines[3].startswith(f"recorded with run {run['id']} in films/")
    assert main(*command)[1] == lines, "the same episodes again"
    status, sampled = main(*command, "--sampled", "--speed", "2", "--seed", "1")
    assert status == 0 and (tmp_path / "a" / "b" / "sampled-worst-of-7.gif").exists() and sampled[0] != lines[0]
    assert main("film", run["id"][:8], "--outputs", str(finished), "--episodes", "1")[0] == 0
    assert films(finished / "films" / f"{run['name']}-{run['id'][:8]}") == []
    found = sorted(file.name for file in (finished / "films" / f"{run['name']}-{run['id'][:8]}").iterdir())
    assert found == ["best-of-1.gif", "best-of-1.mp4"]


def test_a_training_episode_is_filmed_by_its_row_in_episodes_csv(finished: Path, main: Main, tmp_path: Path) -> None:
    (run,) = runs(finished)
    rows = (run["folder"] / "episodes.csv").read_text().splitlines()[1:]
    assert len(rows) > 2
    for number in (1, len(rows)):
        status, lines = main(
            "film", "last", "--outputs", str(finished), "--episode", str(number), "--to", str(tmp_path)
        )
        assert status == 0 and len(lines) == 2, "a third line would report that the episode differs"
        total = float(rows[number - 1].split(",")[1])
        assert f": return {total:.1f} in 7 steps; " in lines[0]
        assert (tmp_path / f"episode-{number:06d}.mp4").exists()
        assert f"episode-{number:06d}.gif" in films(run["folder"])


@pytest.mark.parametrize(
    ("command", "last_words"), [("film", "film 3 of 3"), ("evaluate", "5 of 5 episodes played, step 7")]
)
def test_a_slow_command_says_on_a_terminal_how_far_it_is(
    command: str,
    last_words: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [command, "last", "--outputs", str(finished), "--episodes", "5"]
    arguments += ["--to", str(tmp_path)] if command == "film" else []
    printed = []
    for patience, is_terminal, has_bar in ((0.0, True, True), (0.0, False, False), (600.0, True, False)):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=is_terminal, width=200)
        monkeypatch.setattr("plexp.cli.waiting.PATIENCE", patience)
        monkeypatch.setattr("plexp.cli.waiting.Console", lambda stderr, console=console: console)
        assert cli.main(arguments) == 0
        printed.append(capsys.readouterr().out)
        text = screen.getvalue()
        assert bool(text) == (last_words in text) == has_bar
    assert printed[0] == printed[1] == printed[2] and "return" in printed[0], "on standard output"


REFUSED = {
    ("nosuchrun",): "run=nosuchrun: there is no such run; ",
    ("last", "--episodes", "0"): "--episodes=0: this is not such a number; give a whole number from 1 on",
    ("last", "--episodes", "1.5"): "--episodes=1.5: this is not such a number; ",
    ("last", "--episode", "-1"): "--episode=-1: this is not such a number; give a whole number from 1 on",
    ("last", "--episode", "x"): "--episode=x: this is not such a number; ",
    ("last", "--episode", "0"): "--episode=0: this is not such a number; ",
    ("last", "--episode", "99999"): "--episode=99999: the run has ",
    ("last", "--seed", "-1"): "--seed=-1: this is not such a number; give a whole number from 0 to 9223372036854775807",
    ("last", "--speed", "0"): "--speed=0: this is not such a number; give one from 0.01 to 100",
    ("last", "--speed", "nan"): "--speed=nan: this is not such a number; ",
    ("last", "--speed", "fast"): "--speed=fast: this is not such a number; ",
    (
        "last",
        "--to",
        "/dev/null",
    ): "--to=/dev/null: it is a file, not a folder; give a folder that you can write: --to FOLDER",
    ("last", "--outputs", "/nowhere"): "outputs=/nowhere: no run has been kept there yet; ",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_an_invalid_film_command_is_refused_in_one_line(arguments: tuple[str, ...], finished: Path, main: Main) -> None:
    outputs = () if "--outputs" in arguments else ("--outputs", str(finished))
    status, lines = main("film", *arguments, *outputs)
    assert status == 2 and len(lines) == 1 and lines[0].startswith(REFUSED[arguments])


NO_ACTIONS = "--episode=1: the run keeps no actions of its training episodes: "


def test_without_actions_the_error_says_why_and_the_agent_can_still_be_filmed(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    shown = ("env=gymnasium", SCREEN)
    films_of = ("film", "last", "--outputs", str(tmp_path), "--episodes", "2")
    assert main(*QUICK, *shown, "tracker.log_actions=false")[0] == 0
    line = f"{NO_ACTIONS}it was run with tracker.log_actions=false; leave it out to film the agent"
    assert main(*films_of, "--episode", "1") == (2, [line])
    assert main(*films_of)[0] == 0

    (run,) = runs(tmp_path)
    text = (run["folder"] / "config.yaml").read_text()
    older = "\n".join(line for line in text.splitlines() if "log_actions" not in line and "  film:" not in line)
    assert older != text
    (run["folder"] / "config.yaml").write_text(older)
    line = f"{NO_ACTIONS}an older plexp has run it; leave it out to film the agent"
    assert main(*films_of, "--episode", "1") == (2, [line])
    assert main(*films_of)[0] == 0

    stop_at(6, KeyboardInterrupt())
    assert main(*LONG, *shown, "env.num_envs=2")[0] == 130
    status, lines = main(*films_of)
    assert status == 2 and len(lines) == 1 and "is KILLED and has no agent.safetensors" in lines[0]
    assert main(*films_of, "--episode", "1")[0] == 0, "the episodes that it played are recorded"


def test_a_film_says_so_if_the_episode_is_not_reproduced(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(*QUICK, "env=gymnasium", SCREEN)[0] == 0
    step = Screen.step

    def generous(self: Screen, action: Any) -> Any:
        observation, reward, *others = step(self, action)
        return observation, reward + 1.0, *others

    monkeypatch.setattr(Screen, "step", generous)
    status, lines = main("film", "last", "--outputs", str(tmp_path), "--episode", "1")
    assert (
        status == 0 and len(lines) == 3 and re.search(r": not the recorded episode: return .*, recorded .*", lines[1])
    )
