"""Tests of the architecture, on the sources: which module imports which, and what every file must satisfy."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plexp
from plexp import testing
from plexp.config import registry
from tests.support.docstrings import docstrings, flaw

CHECKOUT = Path(__file__).parents[1]
PACKAGE = sorted(file for file in (CHECKOUT / "plexp").glob("**/*.py") if "templates" not in file.parts)
PLUGINS = sorted((CHECKOUT / "plugins").glob("**/*.py"))
TESTS = sorted((CHECKOUT / "tests").glob("**/*.py"))
TEMPLATES = sorted((CHECKOUT / "plexp" / "templates").glob("**/*.py"))
FILES = [pytest.param(file, id=str(file.relative_to(CHECKOUT))) for file in PACKAGE + PLUGINS]
NAMES = {(group, name) for group in registry.GROUPS for name in registry.names(group)}
PURE = ("training/types", "training/losses", "nn/distributions")
"""Modules that a reader can copy and use without plexp."""
MAX_MODULES = 14


def imports(file: Path) -> dict[str, bool]:
    """Return the modules a file imports, and whether it does so when it is imported itself.

    It does not if the import is in a function or for type checkers only. Names are dotted, as far as they are written.
    """
    found: dict[str, bool] = {}

    def walk(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: imports are absolute"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
            for name in names:
                found[name] = found.get(name, False) or at_import
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            lazy |= isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            walk(child, at_import and not lazy)

    walk(ast.parse(file.read_text()), True)
    return found


def packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(file)}


def test_the_check_sees_every_kind_of_import(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text("import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ndef f():\n    from g.h import i\n")
    assert imports(file) == {"a.b": True, "c.d": True, "e": False, "g.h.i": False}


@pytest.mark.parametrize("file", FILES)
def test_no_module_imports_a_plugin_or_the_tests(file: Path) -> None:
    refused = ("plugins.",) if file in PLUGINS else ("plugins.", "plexp.plugins.")  # a plugin may build on another
    assert not [name for name in imports(file) if f"{name}.".startswith(refused)]
    assert "tests" not in packages(file)


@pytest.mark.parametrize("file", PLUGINS + TEMPLATES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_plugins_use_only_public_names_of_plexp(file: Path) -> None:
    public = {f"plexp.{name}" for name in plexp.__all__} | {f"plexp.testing.{name}" for name in testing.__all__}
    used = {name for name in imports(file) if name.startswith("plexp.") and not name.startswith("plexp.plugins.")}
    assert used <= public


def test_every_public_name_exists_and_is_declared_to_type_checkers() -> None:
    declared = {name.rpartition(".")[2] for name, now in imports(CHECKOUT / "plexp" / "__init__.py").items() if not now}
    assert declared == set(plexp.__all__) - {"__version__"}
    for name in plexp.__all__:
        assert getattr(plexp, name) is not None


def test_tests_and_benchmarks_import_only_what_plexp_has() -> None:
    """Check imports inside functions too: a benchmark that only a person starts would fail unnoticed."""
    names = {(name, file.name) for file in TESTS for name in imports(file) if name.startswith("plexp.")}
    assert len(names) > 500
    assert not [each for each in sorted(names) if not _exists(each[0]) and "plexp.plugins" not in each[0]]


def _exists(name: str) -> bool:
    """Return whether `plexp.module.name` is a name of the module, or a module itself."""
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("file", [file for file in PACKAGE if file.name != "__init__.py"], ids=lambda file: file.stem)
def test_the_package_refers_to_no_plugin_by_name(file: Path) -> None:
    """Check that no identifier or string constant, docstrings aside, names an algorithm, estimator or network."""
    tree = ast.parse(file.read_text())
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    names = {name for group, name in NAMES if group in ("algo", "advantage", "net")} - {
        "q",
        "returns",
        "baseline",
        "none",
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            assert node.value not in names, f"line {node.lineno}: {node.value}"
        assert getattr(node, "id", None) not in names


@pytest.mark.parametrize("name", PURE)
def test_equations_need_only_torch_and_numpy(name: str) -> None:
    file = CHECKOUT / "plexp" / f"{name}.py"
    foreign = packages(file) - {"torch", "numpy", "plexp"} - set(sys.stdlib_module_names)
    assert not foreign
    assert {module for module in imports(file) if module.startswith("plexp")} <= {
        *("plexp.training.types.Rollout", "plexp.training.types.Targets", "plexp.training.types.Minibatch"),
        "plexp.nn.recurrent.Inputs",
    }


@pytest.mark.parametrize(
    "start",
    ["plexp.cli.main", "plexp.config.hydra_errors", "plexp.config.catalogue", "plexp.config.registry", "plexp.errors"],
)
def test_composing_imports_neither_torch_nor_mlflow_nor_gymnasium(start: str) -> None:
    """Follow all modules that are imported at import time."""
    seen, rest = set(), [start]
    while rest:
        module = rest.pop()
        file = CHECKOUT / (module.replace(".", "/") + ".py")
        if module in seen or not file.is_file():
            continue
        seen.add(module)
        now = [name for name, at_import in imports(file).items() if at_import]
        assert not {name.partition(".")[0] for name in now} & {"torch", "mlflow", "gymnasium", "matplotlib"}, module
        rest += [part for name in now if name.startswith("plexp.") for part in (name, name.rpartition(".")[0])]
    assert seen


@pytest.mark.parametrize("file", FILES)
def test_every_module_and_public_definition_has_a_docstring(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the file"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_docstrings_begin_with_a_complete_sentence() -> None:
    checked = [docstring for file in PACKAGE + PLUGINS + TESTS for docstring in docstrings(file)]
    assert len(checked) > 1500
    assert not [f"{d.file}:{d.line}: {d.name} {reason}" for d in checked if (reason := flaw(d))]


def test_a_docstring_that_begins_with_a_fragment_is_detected(tmp_path: Path) -> None:
    texts = {
        "Return the discounted return of each step.": None,
        "If set, the loss is clipped.": None,
        "r = π(a|s) / π_old(a|s), the ratio.": None,
        "Vector environment that steps its environments in this process.\n\nMore.": None,
        "Of now.": "has fewer than 3 words",
        "Of those that are there.": "begins with “of”",
        "The same from a resolved configuration.": "begins with “the same”",
        "Why it cannot.": "begins with “why”",
        "where its files are": "does not end",
        "made of two parts.": "begins in lower case",
    }
    lines = [f"x{number} = 0\n{text!r}\n" for number, text in enumerate(texts)]
    (tmp_path / "sample.py").write_text("".join(lines))
    assert [flaw(each) for each in docstrings(tmp_path / "sample.py")] == list(texts.values())


@pytest.mark.parametrize("folder", sorted({file.parent for file in PACKAGE}), ids=lambda folder: folder.name)
def test_a_package_has_few_enough_modules_to_be_read_at_a_glance(folder: Path) -> None:
    modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES


def test_the_import_contracts_hold() -> None:
    """Run import-linter with the contracts of pyproject.toml: layers, and who may import MLflow, Hydra and Optuna."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
