"""Tests of `plexp new`, whose plugins satisfy their contract, and of `plexp check`, which detects what breaks it."""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import plexp
from plexp.cli.commands.new import KINDS, written
from plexp.cli.main import main
from plexp.config import registry
from plexp.errors import ConfigError

numbers = itertools.count()
Written = Callable[..., str]


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Return a function that writes a plugin, code and config changed by regular expressions; it returns the name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plexp, "__path__", [*plexp.__path__, str(tmp_path)])

    def write(group: str, *changes: tuple[str, str], family: str = "") -> str:
        name = f"stranger{os.getpid()}x{next(numbers)}"  # a module is imported once
        for file, text in written(group, name, tmp_path, family).items():
            for old, replacement in changes:
                text = re.sub(old, replacement, text)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        return name

    return write


@pytest.mark.parametrize(("group", "family"), [*((group, "") for group in registry.GROUPS), ("algo", "_off_policy")])
def test_a_new_plugin_passes_its_own_tests(
    group: str, family: str, new: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the tests in this process, without the check on another device, which needs a process of its own."""
    monkeypatch.setattr("plexp.testing.checks.on_another_device", lambda _: iter(()))
    name = new(group, family=family)
    tests = [
        test for key, test in runpy.run_path(str(tmp_path / "tests" / f"test_{name}.py")).items() if "test_" in key
    ]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.slow
def test_new_plugins_pass_ruff_and_pytest_finds_their_tests(tmp_path: Path) -> None:
    """Run the commands as users do, with all kinds of plugins in one folder."""

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    files: list[str] = []
    new = [*((kind,) for kind in KINDS), ("algo", "--kind", "off_policy")]
    for kind, *options in new:
        printed = run("plexp", "new", kind, f"my_{kind}{len(options)}", *options).splitlines()
        assert all((tmp_path / line).is_file() for line in printed[:3]) and "python -m plexp" in printed[3]
        files += printed[:3]
    assert f"{2 * len(new)} passed" in run("pytest", "-q", "-p", "no:cacheprovider", "tests")
    configuration = str(Path(__file__).parents[3] / "pyproject.toml")
    sources = [file for file in files if file.endswith(".py")]
    run("ruff", "check", "--ignore", "I001", "--config", configuration, *sources)
    run("ruff", "format", "--check", "--config", configuration, *sources)


LEAKS = (r"targets = rollout.rewards", "targets = rollout.rewards + rollout.rewards.flip(0).cumsum(0).flip(0)")
BROKEN: list[tuple[str, str, list[tuple[str, str]], str]] = [
    ("algo", "signature", [(r": PositiveInt\)", ")")], "parameter num_steps has no type"),
    ("algo", "signature", [(r"num_steps: PositiveInt\)", "num_steps: PositiveInt = 4)")], "has a default"),
    ("algo", "signature", [(r"learner: Learner, \*", "learner: Learner, memory: int, *")], "memory is positional"),
    ("algo", "documentation", [(r'    """The plainest(.|\n)*?"""\n', "")], "has no docstring"),
    ("algo", "config", [(r"(?m)^  num_steps: .*$", "")], "no value for num_steps"),
    ("algo", "config", [(r"(?m)^  num_steps: ", "  num_stepz: 3  # more\n  num_steps: ")], "has num_stepz"),
    ("algo", "documentation", [(r"  +# steps of each.*", "")], "does not say in a comment what num_steps does"),
    ("algo", "config", [(r"plugin: \w+", "plugin: ppo")], "does not say plugin"),
    ("algo", "trains", [(r"-> Metrics:\n.*", "-> Metrics:\n        return {}\n")], "changed no weight"),
    (
        "algo",
        "updates",
        [(r"-> Metrics:\n", "-> Metrics:\n        trajectory.rewards.zero_()\n")],
        "changes the rollout",
    ),
    ("algo", "updates", [(r"-> Metrics:\n.*", "-> Metrics:\n        return {'x': 'y'}\n")], "as no number"),
    ("algo", "updates", [(r"complete_episodes = False", "complete_episodes = None")], "complete_episodes"),
    (
        "algo",
        "trains",
        [(r"total_loss\(policy_losses", "total_loss(float('nan') * policy_losses")],
        "raised TrainingError: the loss's policy_loss is not finite",
    ),
    (
        "algo",
        "determinism",
        [
            (r"total_loss\(policy_losses", "total_loss(policy_losses * __import__('random').SystemRandom().random()"),
        ],
        "the same seed gives other weights",
    ),
    (
        "algo",
        "resuming",
        [
            (r"(self.agent, self.learner, self.num_steps = .*)", r"\1\n        self.calls = 0"),
            (r"(-> Metrics:\n)", r"\1        self.calls += 1\n"),
            (r"total_loss\(policy_losses", "total_loss(policy_losses * self.calls"),
        ],
        "a resumed run differs",
    ),
    ("algo", "device", [(r"losses = ", "losses = __import__('torch').ones(16) * ")], "on another device"),
    ("advantage", "shapes", [(r"targets - rollout.values", "(targets - rollout.values)[0]")], "has the shape"),
    ("advantage", "shapes", [(r"value_targets=targets", "value_targets=None")], "value_targets is None"),
    ("advantage", "shapes", [(r"targets - rollout.values", "(targets - rollout.values) / 0")], "is not finite"),
    ("advantage", "shapes", [(r"(targets = )", r"rollout.rewards.mul_(2)\n        \1")], "changes the rollout"),
    (
        "advantage",
        "termination and truncation",
        [(r"~rollout.terminated \* ", "")],
        "a terminated step looks at next_values",
    ),
    (
        "advantage",
        "termination and truncation",
        [(r"~rollout.terminated", "~(rollout.terminated | rollout.truncated)")],
        "a truncated step does not look at next_values",
    ),
    ("advantage", "termination and truncation", [LEAKS], "the next episode leaks"),
    ("net", "builds", [(r"math.prod\(shape\), self.width\)", "math.prod(shape), 3)")], "do not fit observations"),
    ("net", "shapes", [(r"(    def head.*\n)", r"\1        outputs += outputs == 3\n")], "not \\[B, 3\\]"),
    ("net", "shapes", [(r"nn.Tanh\(\)", "nn.BatchNorm1d(self.width)")], "depends on the others|raised ValueError"),
    ("net", "shapes", [(r"nn.Tanh\(\)", "nn.Dropout()")], "or on chance"),
    ("net", "builds", [(r"self.label = .*", "pass")], "label"),
    (
        "env",
        "steps, termination and truncation",
        [(r"TimeLimit\((.*), self.max_episode_steps\)", r"\1"), (r"(max\(.*\))", r"min(1, \1)")],
        "no episode ended",
    ),
    (
        "env",
        "steps, termination and truncation",
        [(r"self.cell / \(", "9 + self.cell / (")],
        "an observation is outside its space",
    ),
    (
        "env",
        "steps, termination and truncation",
        [(r"1.0 if arrived", "float('inf') if arrived")],
        "is not finite",
    ),
    (
        "env",
        "steps, termination and truncation",
        [(r"self.np_random.integers\(", "__import__('random').SystemRandom().randrange(")],
        "the same seeds and actions give other episodes",
    ),
    (
        "env",
        "resuming",
        [
            (r"self.length = length", "self.length, self.ever = length, 0"),
            (r"(        self.cell = max)", r"        self.ever += 1\n\1"),
            (r"\[self.cell / \(self.length - 1\)\]", "[min(1.0, self.ever / 1e4)]"),
        ],
        "a reset must forget everything",
    ),
    ("callbacks", "leaves the training alone", [(r"on_end", "at_end")], "it needs on_end"),
    ("callbacks", "leaves the training alone", [(r"self.best\}\)", "float('nan')})")], "which is no finite number"),
    (
        "callbacks",
        "leaves the training alone",
        [(r"progress.log\(", "__import__('torch').rand(1); progress.log(")],
        "torch's own stream",
    ),
    (
        "callbacks",
        "leaves the training alone",
        [(r"progress.finished", "progress.trainer")],
        "raised TrainingError: callbacks",
    ),
]


@pytest.mark.parametrize(("group", "title", "changes", "message"), BROKEN, ids=lambda each: str(each)[:40])
def test_check_detects_each_fault(
    group: str, title: str, changes: list[tuple[str, str]], message: str, new: Written
) -> None:
    from plexp.testing.contract import faults

    name = new(group, *changes)
    found = faults(group, name, only=[title])
    assert any(re.search(f"^{title}: .*{message}", fault) for fault in found), found
    assert all("\n" not in fault for fault in found)


def test_a_plugin_that_does_not_import_is_reported_in_one_line(
    new: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    name = new("algo", (r"from plexp import", "import nothing_of_that_name\nfrom plexp import"))
    assert main(["check", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"plugins/algo/{name}.py does not import (ModuleNotFoundError" in line and "fix the file" in line


def test_check_prints_a_line_for_each_check_and_exits_with_1(new: Written, capsys: pytest.CaptureFixture[str]) -> None:
    name = new("callbacks", (r"on_end", "at_end"))
    assert main(["check", f"callbacks/{name}"]) == 1
    printed = capsys.readouterr()
    assert (
        "  passes  signature" in printed.out.splitlines()
        and "  FAILS   leaves the training alone" in printed.out.splitlines()
    )
    assert printed.err.strip().endswith("1 fault")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "pppo"], "check=pppo: there is no such plugin; did you mean ppo?"),
        (["check", "net/ppo"], "check=net/ppo: there is no such plugin"),
        (["new", "algo", "ppo"], "there is one already"),
        (["new", "algo", "Mine"], "this is no name for a plugin"),
        (["new", "env", "Größe 2-d"], "such as groe_2_d"),
        (["new", "env", "class"], "new=class: this is a word of Python; choose another, such as my_class"),
        (["new", "net", "null"], "new=null: this is a word of YAML; choose another, such as my_null"),
        (["new", "env", "gymnasium"], "there is one already"),
        (["new", "env", "cartpole"], "there is one already"),
        (["new", "algo", "../mine"], "this is no name for a plugin"),
        (["new", "net", "mine", "--to", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        written("algo", "mine", tmp_path)


@pytest.mark.parametrize(
    ("group", "name"),
    [("env", "corridor"), ("env", "any"), ("algo", "learner"), ("net", "positive_int"), ("callbacks", "recorded")],
)
def test_a_new_plugin_may_have_a_name_that_its_template_uses(group: str, name: str, tmp_path: Path) -> None:
    for file, text in written(group, name, tmp_path).items():
        if file.suffix == ".py":
            tree = ast.parse(text)
            imported = [
                alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
            ]
            defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
            assert len({*imported, *defined}) == len([*imported, *defined])


def test_check_reports_faults_before_missing_documentation(new: Written, capsys: pytest.CaptureFixture[str]) -> None:
    name = new("callbacks", (r"on_end", "at_end"), (r"  +# .*", ""), (r'    """Logs(.|\n)*?"""\n', ""))
    assert main(["check", f"callbacks/{name}"]) == 1
    printed = capsys.readouterr()
    fails = [line.strip() for line in printed.out.splitlines() if "FAILS" in line]
    assert fails == ["FAILS   leaves the training alone", "FAILS   documentation"]
    assert printed.err.strip().endswith("1 fault, 2 of the documentation")


def test_a_network_that_keeps_a_mask_of_its_last_observations_passes(new: Written) -> None:
    """A `state_dict` with an inference tensor, which cannot be copied, is not left behind by acting greedily."""
    keeps = "self.register_buffer('mask', torch.zeros(1))\n\n    def forward(self, x: Tensor) -> Tensor:\n"
    keeps += "        self.mask = (x[:1] > 0).float()\n        return x * (self.mask >= 0)\n\n\n"
    module = f"class Masked(nn.Module):\n    def __init__(self) -> None:\n        super().__init__()\n        {keeps}"
    changes = [(r"from torch import nn", "import torch\nfrom torch import Tensor, nn")]
    name = new("net", *changes, (r"@register", f"{module}@register"), (r"nn.Flatten\(\)", "Masked(), nn.Flatten()"))
    from plexp.testing.contract import _built

    with _built(f"net={name}", "env=cartpole") as experiment:
        experiment.agent.act_greedily(torch.rand(2, 4), torch.zeros(2, 0))
        assert torch.equal(experiment.agent.state_dict()["trunk.0.mask"], torch.ones(1, 4))


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_kind_has_a_template(group: str) -> None:
    assert group in KINDS.values()
