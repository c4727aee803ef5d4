"""Tests of the commands: the exit status, and one line for each thing that is wrong."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

import plexp
import plexp.execution.run
from plexp.cli import job
from plexp.cli import main as cli
from plexp.cli.commands import NAMES
from plexp.errors import TrainingError
from plexp.execution.outcome import METRICS
from plexp.tracking.format import sqlite_uri
from plexp.tracking.history import open_history
from tests.support import forks
from tests.support.environments import QUIET

CHECKOUT = Path(__file__).parents[3]
QUICK = (
    *("total_timesteps=64", "env.num_envs=2", "algo.num_steps=16", "algo.num_minibatches=2", "algo.update_epochs=1"),
    *("evaluation.every=32", "evaluation.episodes=2", "evaluation.final_episodes=3", "env.max_episode_steps=20"),
    *("tracker.every=32", "tracker.log_model=false", "net.width=8"),
)
Main = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def main(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Main]:
    """Yield a function that runs a command line in this process and returns its exit status and lines."""
    root = logging.getLogger()  # Hydra adds handlers that write to the output of this test, which later tests lack
    level = root.level
    monkeypatch.setattr(sys, "argv", sys.argv)  # the command sets them
    for name in ("HYDRA_FULL_ERROR", "PLEXP_SWEEP", "PLEXP_ARGUMENTS"):
        monkeypatch.setenv(name, "")

    def run(*arguments: str) -> tuple[int, list[str]]:
        given = arguments[0] in NAMES
        given |= any(argument.startswith("outputs=") for argument in arguments)
        capsys.readouterr()
        status = cli.main([*arguments, *([] if given else [f"outputs={tmp_path}"])])
        output = capsys.readouterr()
        lines = (output.out + output.err).splitlines()
        assert not any("Traceback" in line for line in lines)
        return status, [line.partition("[ERROR] - ")[2] or line for line in lines]

    yield run
    for handler in [
        handler for handler in root.handlers if type(handler) in (logging.StreamHandler, logging.FileHandler)
    ]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def shell(*arguments: str, code: str = "", cwd: Path = CHECKOUT) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command in a process of its own; return it, and its CPU seconds, which a busy machine hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = ["-c", code] if code else ["-m", "plexp"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


COMMAND_LINE = {
    ("algo.clip_ep=0.1",): "algo.clip_ep: there is no such key; did you mean algo.clip_eps?",
    ("sede=1",): "sede: there is no such key; did you mean seed?",
    ("experiment=ppo_cartpole",): "experiment: the defaults list has no such group; give +experiment=OPTION",
    ("learner=default",): "learner: the defaults list has no such group; give algo.KEY=VALUE",
    ("alog=ppo",): "alog: there is no such key; did you mean algo?",
    ("algo=ppoo",): "algo=ppoo: there is no such option; did you mean ppo?",
    ("algo=null", "evaluation.every=null"): "algo=null: a group needs an option; there are a2c, actor_critic, ",
    ("algo=1", "evaluation.every=null"): "algo=1: there is no such option; there are a2c, actor_critic, ",
    ("net@critic_net=2",): "net@critic_net=2: there is no such option; there are cnn, gru",
    ("env=[cartpole]",): "env=[cartpole]: this group takes one option; did you mean cartpole?",
    ("net=[a]",): "net=a: there is no such option; there are cnn, gru",
    ("~algo",): "~algo: a run needs an option of this group; give algo=OPTION, or leave it out",
    ("env=cartpol",): "env=cartpol: there is no such option; did you mean cartpole?",
    ("advantage=../algo/ppo",): "advantage=../algo/ppo: there is no such option",
    ("algo=../../secret",): "algo=../../secret: there is no such option",
    ("tuned=ppo_landers",): "tuned=ppo_landers: there is no such option; there are ",
    ("tuned=null",): "tuned=null: a group needs an option; give tuned=none",
    ("algo=a2c", "algo.num_envs=2"): "algo.num_envs: there is no such key; ",
    (
        "algo=a2c",
        "algo.clip_eps=0.1",
    ): "algo.clip_eps: algo=a2c has no such parameter; it has no ratio to clip; use algo=ppo",
    ("critic_net.width=9",): "critic_net.width: there is no such key; ",
    ("algo._target_=os.system",): "algo._target_: there is no such key; ",
    ("algo.clip_eps",): "algo.clip_eps: this is not key=value; quote values with",
    ("env.id=[a",): "env.id=[a: this is not key=value; quote values with",
    ("algo=a2c,ppo",): "algo=a2c,ppo: several values make a sweep; add -m for a sweep, or [a,b] for a list",
    ("-m", "seed=1,2", "sede=3"): "sede: there is no such key; did you mean seed?",
    ("+seed=1",): "configuration: ",
    ("~sede",): "configuration: ",
    ("+=x",): "+=x",
}


@pytest.mark.parametrize("arguments", COMMAND_LINE, ids=" ".join)
def test_a_command_line_that_does_not_compose_is_refused_with_one_line(arguments: tuple[str, ...], main: Main) -> None:
    status, lines = main(*arguments)
    assert status == 2
    assert len(lines) == 1 and lines[0].startswith(COMMAND_LINE[arguments]), lines


def test_a_key_of_a_plugin_that_does_not_import_is_refused_for_the_plugin(
    tmp_path: Path,
) -> None:
    for name, text in {"plugins/net/bad.py": "def broken(:\n", "conf/net/bad.yaml": "plugin: bad\nsize: 3\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    done, _ = shell("net=bad", "net.width=8", cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("net.plugin=bad: plugins/net/bad.py does not import (SyntaxError: ")


KWARGS = {
    "env.kwargs.gravity=-5": {"gravity": -5},
    "+env.kwargs.gravity=-5": {"gravity": -5},
    "++env.kwargs.gravity=-5": {"gravity": -5},
    "env.kwargs={gravity: -5}": {"gravity": -5},
    "env.kwargs.deep.er=[1,{2: x}]": {"deep": {"er": [1, {2: "x"}]}},
}


@pytest.mark.parametrize("argument", KWARGS)
def test_an_argument_of_the_environment_needs_no_plus(argument: str, main: Main) -> None:
    status, lines = main("--cfg", "job", "env=lunarlander", argument)
    assert status == 0
    assert yaml.safe_load("\n".join(lines))["env"]["kwargs"] == KWARGS[argument]


def test_an_argument_that_no_environment_takes_is_refused_with_the_signature(main: Main) -> None:
    status, lines = main("env=cartpole", "env.kwargs.gravty=-5")
    assert status == 2 and len(lines) == 1
    unknown = "TypeError: CartPoleEnv.__init__() got an unexpected keyword argument 'gravty'"
    assert lines[0].startswith(f"env.id=CartPole-v1: cannot be made: {unknown}; it takes (sutton_barto_reward"), lines


def test_keys_that_are_no_texts_reach_the_environment_when_its_fault_is_replayed(main: Main, tmp_path: Path) -> None:
    problem = ("env=gymnasium", "env.id=tests.support.odd_returns:plexp-tests/Odd-v0", "env.kwargs.table={0: a, b: 1}")
    status, lines = main(*problem, "env.kwargs.fault=raise key", *QUICK)
    assert status == 1 and lines[-1].startswith("environment 0 raised KeyError in step: 'x' (odd_returns.py:")
    (fault,) = tmp_path.glob("runs/*/*/fault.json")
    (recorded,) = tmp_path.glob("artifacts/**/fault.json")
    for file in (fault, recorded):
        status, lines = main("replay", str(file))
        assert status == 0 and "the last step raised environment 0 raised KeyError in step: 'x'" in lines[-1]
    config = yaml.safe_load(recorded.with_name("config.yaml").read_text())
    assert config["env"]["kwargs"]["table"] == {0: "a", "b": 1}


def test_a_sweep_over_an_argument_of_the_environment_needs_no_plus(main: Main) -> None:
    status, _ = main("-m", "env.kwargs.sutton_barto_reward=true,false", "hydra.launcher.n_jobs=1", *QUICK)
    assert status == 0


WRONG = {
    ("gamma=1.5", "algo.clip_eps=0", "net.layers=x", "+env.colour=red"): (
        *("gamma=1.5: ", "algo.clip_eps=0: ", "net.layers=x: ", "env.colour: "),
    ),
    ("~seed",): ("seed: has no value",),
    ("~gamma",): ("advantage.gamma: Interpolation key 'gamma' not found",),
    ("env=gymnasium",): ("env.id: has no value; give env.id=…",),
    ("algo.plugin=../x",): ("algo.plugin=../x: there is no such plugin",),
    ("evaluation=5",): ("evaluation=5: ",),
    ("env.id=a:b:c",): ("env.id=a:b:c: ",),
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_an_invalid_configuration_is_refused_with_a_line_for_each_fault(
    arguments: tuple[str, ...], main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plexp.execution.run, "run", lambda *_: pytest.fail("a run was started"))
    status, lines = main(*arguments)
    assert status == 2
    assert len(lines) == len(WRONG[arguments])
    for begin in WRONG[arguments]:
        assert any(line.startswith(begin) and "; " in line for line in lines), lines
    assert not (tmp_path / "mlflow.db").exists()
    (result,) = tmp_path.glob("runs/*/*/result.json")
    assert json.loads(result.read_text())["status"] == "REFUSED"


def test_outputs_that_cannot_be_written_are_refused(main: Main, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    status, lines = main(f"outputs={file}")
    assert status == 2 and len(lines) == 1
    assert lines[0] == f"outputs={file}: it is a file, not a folder; give a folder that you can write: outputs=FOLDER"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            TrainingError("the environment raised ValueError in step: broken"),
            1,
            "the environment raised ValueError in step: broken",
        ),
        (RuntimeError("a bug"), 1, "RuntimeError: a bug"),
        (RuntimeError("a bug\nof two lines"), 1, "RuntimeError: a bug of two lines"),
    ],
)
def test_a_failed_run_is_reported_in_one_line_with_its_traceback_in_a_file(
    error: Exception, status: int, message: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(plexp.execution.run, "run", fail)
    (answer, (line,)) = main(*QUICK)
    (folder,) = tmp_path.glob("runs/*/*/")
    assert (answer, line) == (status, f"{message} (traceback in {folder / 'traceback.txt'})")
    assert "Traceback" in (folder / "traceback.txt").read_text()
    assert json.loads((folder / "result.json").read_text())["status"] == "FAILED"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_has_the_exit_status_of_its_signal(
    number: signal.Signals, status: int, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plexp.execution.run, "run", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    assert main(*QUICK)[0] == status
    (result,) = tmp_path.glob("runs/*/*/result.json")
    assert json.loads(result.read_text())["status"] == "KILLED"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_raises_ends_the_run_with_status_1(vectorization: str, main: Main) -> None:
    problem = (
        "env.id=tests.support.environments:plexp-tests/Faulty-v0",
        "+env.kwargs.fault=step",
        "evaluation.every=null",
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status, lines = main(*QUICK, *problem, *QUIET, f"env.vectorization={vectorization}")
    assert status == 1
    (line,) = [line for line in lines if line]
    pattern = (
        r"environment [01] raised ValueError in step: the physics broke second line \(environments.py:\d+\) "
        r"\(traceback in \S+; see it again: (.+)\)"
    )
    found = re.fullmatch(pattern, line)
    assert found is not None, line
    assert main(*found[1].removeprefix("python -m plexp ").split())[0] == 0
    assert not [each for each in caught if "Traceback" in str(each.message)], "what gymnasium would write to stderr"


def test_a_sweep_continues_after_a_refused_job_and_reports_it_in_the_end(main: Main, tmp_path: Path) -> None:
    status, lines = main("-m", "algo.clip_eps=0.1,7,0.3", "hydra.launcher.n_jobs=1", *QUICK)
    assert status == 1
    results = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("sweeps/*/*/result.json"))]
    assert [result["status"] for result in results] == ["FINISHED", "REFUSED", "FINISHED"]
    assert [result["overrides"][0] for result in results] == [
        "algo.clip_eps=0.1",
        "algo.clip_eps=7",
        "algo.clip_eps=0.3",
    ]
    (reported,) = [line for line in lines if line.startswith("job 1: ")]
    assert reported.startswith("job 1: algo.clip_eps=7: must be less than 1; give float > 0 and < 1 or null (log in ")
    assert main("-m", "seed=1,2", "hydra.launcher.n_jobs=1", *QUICK)[0] == 0


def test_a_run_ends_with_its_verdict_and_its_result(main: Main, tmp_path: Path) -> None:
    status, lines = main(*QUICK)
    assert status == 0
    text = "\n".join(lines)
    assert "ppo-mlp2x8-gae-cartpole-s0" in text and "64 steps in" in text and "not solved (≥ 475)" in text
    (result,) = tmp_path.glob("runs/*/*/result.json")
    values = json.loads(result.read_text())
    assert values["status"] == "FINISHED" and values["steps"] == 64 and 0 < values["final_return"] <= 20
    assert values["run_id"] in text


COMPOSING = {
    *("plexp", "hydra", "hydra_plugins", "omegaconf", "antlr4", "yaml", "attr", "packaging", "cython_runtime"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "filelock"),
}
"""Packages that composing may import: Hydra, pydantic, filelock and what these import."""


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job"), ("algo.clip_ep=1",)], ids=" ".join)
def test_commands_without_training_import_only_what_composing_needs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); from plexp.cli.main import main; main(sys.argv[1:]);"
        "print('IMPORTED', *{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done, _ = shell(*arguments, f"outputs={tmp_path}", code=code)
    first, *imported = done.stdout.splitlines()[-1].split()
    assert first == "IMPORTED" and not {name for name in imported if name[0] != "_"} - COMPOSING


def test_composing_takes_little_longer_than_starting_hydra(tmp_path: Path) -> None:
    """Compare CPU times, which a busy machine changes less, and in turn, as the speed of the machine varies."""
    hydra_alone = "import hydra; hydra.main(version_base='1.3', config_path=None)(lambda cfg: None)()"
    ratios = (shell("--cfg", "job", f"outputs={tmp_path}")[1] / shell("--help", code=hydra_alone)[1] for _ in range(3))
    assert any(ratio < 4 for ratio in ratios)  # 2 with all extras, most of it for Hydra's list of groups


@pytest.mark.slow
def test_a_run_that_is_not_compiled_imports_no_compiler(tmp_path: Path) -> None:
    """Check that torch._dynamo is not imported, which takes more than a second."""
    code = "import sys; from plexp.cli.main import main; print(main(sys.argv[1:]), 'torch._dynamo' in sys.modules)"
    done, _ = shell(*QUICK, "compile=false", f"outputs={tmp_path}", code=code)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_python_m_plexp_exits_with_the_status_and_a_line_on_stderr(tmp_path: Path) -> None:
    done, _ = shell("sede=1", f"outputs={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sede: there is no such key; did you mean seed?\n"
    done, _ = shell("--help")
    assert done.returncode == 0 and not done.stderr
    for group in ("algo", "advantage", "net", "env"):
        assert f"{group}: " in done.stdout or f"{group}=" in done.stdout


def test_a_job_returns_its_objective_or_infinity_if_a_threshold_is_not_reached(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = []
    task = job.task

    def spy(cfg: Any) -> float | None:
        returned.append(task(cfg))
        return returned[-1]

    monkeypatch.setattr(job, "task", spy)
    for change in ((), ("objective=eval/length",), ("objective=speed/steps_to_threshold",), ("env.solved_return=1",)):
        assert main(*QUICK, *change)[0] == 0
    assert main(*QUICK, "objective=speed/steps_to_threshold", "env.solved_return=1")[0] == 0
    final, length, unreached, same, first = returned
    assert final == same and 1 <= final <= 20 and 1 <= length <= 20 and unreached == math.inf and first == 32


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_an_objective_that_no_run_can_log_is_refused_before_it(sweep: list[str], main: Main, tmp_path: Path) -> None:
    status, lines = main(*sweep, *QUICK, "objective=eval/final_retrun")
    cause = "no run of this configuration logs such a metric; did you mean eval/final_return?"
    assert status == (1 if sweep else 2) and any(f"eval/final_retrun: {cause}" in line for line in lines)
    assert not (tmp_path / "mlflow.db").exists() or not open_history(None, tmp_path).runs()


def test_every_metric_that_plexp_itself_logs_may_be_an_objective(main: Main, tmp_path: Path) -> None:
    assert main(*QUICK, "evaluation.max_steps=2", "env.solved_return=1")[0] == 0
    (run,) = open_history(None, tmp_path).runs()
    logged = {name for name in run.metrics if name.partition("/")[0] in ("eval", "time", "speed", "stability")}
    assert {"eval/cut_off", "eval/final_cut_off"} < logged <= set(METRICS)


def test_an_objective_that_was_not_logged_fails_the_job_but_not_the_run(main: Main, tmp_path: Path) -> None:
    status, lines = main(*QUICK, "objective=train/approx_lk")
    assert status == 2
    assert lines[-1] == "objective=train/approx_lk: this run logged no such metric; did you mean train/approx_kl?"
    (file,) = tmp_path.glob("runs/*/*/result.json")
    result = json.loads(file.read_text())
    assert result["status"] == "FAILED" and result["final_return"] > 0 and "speed/auc_return" in result["logged"]
    (run,) = open_history(None, tmp_path).runs()
    assert run.status == "FINISHED"


def test_runs_record_their_metrics_and_choices_and_are_compared(main: Main, tmp_path: Path) -> None:
    assert main("-m", "net.layers=1,2", "seed=0,1", "hydra.launcher.n_jobs=1", *QUICK)[0] == 0
    status, lines = main("compare", f"--outputs={tmp_path}", "--by=net.layers", "--threshold=5")
    assert status == 0
    assert any("net.layers=1 and net.layers=2: exploratory: no verdict" in line for line in lines)
    (page,) = tmp_path.glob("reports/*-cartpole-by-net-layers/report.html")
    assert "net.layers=2" in page.read_text() and (page.parent / "learning_curves.png").is_file()
    client = MlflowClient(sqlite_uri(tmp_path / "mlflow.db"))
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    (comparison,) = [run for run in runs if run.data.tags["kind"] == "comparison"]
    assert comparison.info.status == "FINISHED" and comparison.data.params["by"] == "net.layers"
    assert "exploratory" in comparison.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(comparison.info.run_id)}
    assert {"report.html", "learning_curves.png"} <= files
    training = [run for run in runs if run.data.tags["kind"] == "training"]
    for run in training:
        assert run.data.tags["choice.algo"] == "ppo" and run.data.tags["choice.env"] == "cartpole"
        assert {
            "speed/auc_return",
            "stability/max_drawdown",
            "eval/normalised_score",
            "eval/seconds",
        } <= run.data.metrics.keys()
        assert "speed/steps_to_threshold" not in run.data.metrics


def test_a_report_that_cannot_be_written_is_a_warning_unless_its_folder_was_given(main: Main, tmp_path: Path) -> None:
    assert main(*QUICK)[0] == 0
    (tmp_path / "reports").write_text("a file")
    status, lines = main("compare", f"--outputs={tmp_path}")
    assert status == 0 and "- there is one group only, of 1 run: nothing to compare it with" in lines
    status, lines = main("compare", f"--outputs={tmp_path}", f"--to={tmp_path}/reports")
    assert status == 2 and lines[-1].startswith(f"--to={tmp_path}/reports: it is a file, not a folder; ")
    assert main("compare", f"--outputs={tmp_path}", f"--to={tmp_path}/mine")[0] == 0
    assert {"report.html", "learning_curves.png"} <= {file.name for file in (tmp_path / "mine").iterdir()}


def test_a_comparison_without_a_store_fails_with_one_line(main: Main, tmp_path: Path) -> None:
    status, lines = main("compare", f"--outputs={tmp_path}")
    assert status == 2
    assert lines == [f"outputs={tmp_path}: no run has been kept there yet; start one with: python -m plexp"]


def test_a_tuned_config_that_applies_is_logged_and_can_be_left_out(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "tuned").mkdir(parents=True)
    (tmp_path / "conf" / "tuned" / "ppo_cartpole.yaml").write_text(
        "# @package _global_\nalgo: {learning_rate: 0.002}\n"
    )
    line = "tuned=ppo_cartpole applies: its values override those of algo and env; tuned=none switches it off"
    for overrides, applies in (((), True), (("tuned=none",), False)):
        status, lines = main(*QUICK, *overrides)
        assert status == 0 and any(text.endswith(line) for text in lines) is applies
    rates = {run.params["algo.learning_rate"] for run in open_history(None, tmp_path).runs()}
    assert rates == {"0.002", "0.001"}


def test_the_version_is_that_of_plexp(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"plexp {plexp.__version__}\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            b"plugin: mlp\n\tlayers: 2\n",
            "2: this is no YAML (found character '\\t' that cannot start any token); indent with",
        ),
        (b"plugin: [mlp\n", "2: this is no YAML (expected ',' or ']', but got '<stream end>'); close what is open"),
        (
            b"label: 1\nplugin: mlp  # \xe4\n",
            "2: this is not UTF-8 (invalid continuation byte); save the file as UTF-8",
        ),
        (b"", ": this config is empty; give plugin: NAME and a value for each of its parameters"),
        (b"# layers: 2\n", ": this config is empty; give plugin: NAME"),
        (b"layers: 2\n", ": this config names no plugin; give plugin: NAME"),
        (
            b"plugin: mlp\nlayers: 1\nlayers: 2\n",
            "3: this is no YAML (found duplicate key layers); keep one of the two",
        ),
        (b"- plugin: mlp\n- layers: 2\n", ": this is a list, not names with values; write NAME: VALUE on each line"),
        (b"mlp\n", ": this is a single value, not names with values; write NAME: VALUE on each line"),
        (b"plugin: mlp\n1: 2\n", ": the key 1 is no text; write NAME: VALUE on each line"),
        (b"plugin: mlp\n\0\n", ": this is no YAML (unacceptable character #x0000: "),
        (b"plugin: *mlp\n", "1: this is no YAML (found undefined alias 'mlp'); quote what begins with a *"),
        (b"defaults: mlp\n", ": its defaults are no list; write defaults: [OTHER]"),
    ],
    ids=[
        *(
            "tab",
            "bracket",
            "Latin-1",
            "empty",
            "comment",
            "no plugin",
            "duplicate key",
            "list",
            "scalar",
            "number as key",
        ),
        *("zero byte", "alias", "defaults"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_by_file_and_line(content: bytes, line: str, tmp_path: Path) -> None:
    file = tmp_path / "conf" / "net" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    sweep = ["-m", "seed=0,1"] if line[0].isdigit() else []
    done = forks.run([*sweep, "net=mine"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"{file}{line}" if line.startswith(":") else f"{file}:{line}")


def test_configs_beside_the_chosen_one_may_be_broken(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "net"
    (folder / "folder.yaml").mkdir(parents=True)
    (folder / "dangling.yaml").symlink_to(folder / "nowhere")
    (folder / "ending.yml").write_text("defaults: [mlp]\n")
    (folder / "broken.yaml").write_text("plugin: [mlp\n")
    (folder / "mark.yaml").write_bytes(b"\xef\xbb\xbfdefaults: [mlp]\nlayers: 1\n")
    messages = {
        "folder": f"{folder}/folder.yaml: this is a folder, not a file; ",
        "dangling": f"{folder}/dangling.yaml: this is a link to a file that does not exist; ",
        "ending": f"{folder}/ending.yml: configs end in .yaml; rename it to ending.yaml",
        "brokn": "net=brokn: there is no such option; did you mean broken?",
    }
    for option, message in messages.items():
        done = forks.run([f"net={option}"], cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(message), done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = forks.run(["net=mark", "--cfg", "job", "--package", "net"], cwd=tmp_path)
    assert done.returncode == 0 and "layers: 1" in done.stdout
    done = forks.run(["plugins"], cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_the_console_script_sees_modules_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise OSError('mine.py was imported')")
    script = "import sys; sys.path[:] = [p for p in sys.path if p]; from plexp.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "env=gymnasium", "env.id=mine:Mine-v0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "mine.py was imported" in done.stderr
