"""Films and kept episodes of whole runs, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.faults.common import EPISODES, differences, runs
from tests.plexp.test_cli import QUICK, Main, main
from tests.plexp.test_cli_resume import LONG, stop_at

__all__ = ["main", "stop_at"]
SCREEN = "env.id=tests.plexp.test_film:plexp-tests/Screen-v0"


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
        ("env.id=tests.environments:plexp-tests/Counter-v0", "it cannot be filmed: its render modes are none; "),
        (f"{SCREEN} +env.kwargs.fault=package", "it cannot be filmed (DependencyNotInstalled: pygame is not installed"),
        (f"{SCREEN} +env.kwargs.fault=nothing", "it cannot be filmed: what it renders is object"),
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


def test_a_run_that_was_interrupted_has_its_episodes_too_and_in_the_end_all_of_them_once(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    assert main(*LONG, f"outputs={tmp_path / 'never'}")[0] == 0
    (never,) = runs(tmp_path / "never")
    expected = load_file(never["folder"] / EPISODES)
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
    assert differences(runs(tmp_path)[0], never) == []
    assert not list(tmp_path.glob("state/*/episodes"))


@pytest.mark.parametrize(("first", "then"), [("false", "true"), ("true", "false")])
def test_actions_can_be_left_out_also_when_a_run_is_taken_up(
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
