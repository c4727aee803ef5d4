"""Tests of compilation: compiled functions match the plain ones; others run uncompiled, with a one-line warning."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plexp.nn import compile as compilation
from plexp.nn.compile import AttributeReads, Compiled


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PLEXP_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the compiler, for tests that do not depend on it: a traced graph is called as it is."""

    class Loader:
        def __init__(self, path: str, *_: Any) -> None:
            self.graph = graphs[path]

        def boxed_run(self, inputs: list[Tensor]) -> list[Tensor]:
            return list(self.graph(*inputs))

    def library(graph: Any, *_: Any) -> Path:
        graphs[str(len(graphs))] = graph
        return Path(str(len(graphs) - 1))

    graphs: dict[str, Any] = {}
    monkeypatch.setattr(compilation, "_library", library)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", Loader)


def logged_warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "plexp" and record.levelno >= logging.WARNING]


@pytest.mark.compiler
def test_a_compiled_function_matches_the_plain_one_for_any_number_of_rows(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Change a parameter in place between calls, and let a second `Compiled` find the code on disk."""
    layer, total = nn.Linear(3, 2), torch.zeros(2)

    def function(total: Tensor, rows: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        result = torch.tanh(layer(rows)) + more
        total.add_(result.mean(0))
        return result, (result - result.mean()) / result.std()

    first = Compiled(function, "it", fixed=1)
    for attempt in (first, Compiled(function, "it", fixed=1)):
        for rows in (5, 2, 64, 1):
            with torch.no_grad():
                layer.weight.mul_(1.1)
            x, y = torch.randn(rows, 3), torch.randn(rows, 2)
            plain, ours = total.clone(), total.clone()
            expected, given = function(plain, x, y), attempt(ours, x, y)
            for a, b in zip((*expected, plain), (*given, ours), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert attempt.enabled and len(attempt.libraries) == 2, "one of any number of rows, and one of a single row"
        monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, **__: pytest.fail("compiled again"))
    assert len(list(cache.glob("*.pt2"))) == 2 and not logged_warnings(caplog)
    strided = torch.randn(3, 7).T
    torch.testing.assert_close(
        first(total, strided, torch.zeros(7, 2))[0], torch.tanh(layer(strided)), rtol=1e-4, atol=1e-5
    )


def test_another_function_or_processor_makes_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def package(program: Any, package_path: str, **_: Any) -> None:
        names.append(Path(package_path).name[:32])
        Path(package_path).touch()

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
    inputs = [torch.randn(5, 2)]
    for function in (lambda x: (x + 1,), lambda x: (x + 2,), lambda x: (x + 1,)):
        graph, lifted = compilation._trace(function, inputs, 0)
        compilation._library(graph, [*inputs, *lifted], 0, 1)
    assert len(names) == 2
    monkeypatch.setattr(compilation, "_processor", lambda: "another")
    compilation._library(graph, [*inputs, *lifted], 0, 1)
    compilation._library(graph, [torch.randn(9, 2)], 0, 1)
    assert len(set(names)) == len(names) == 3, "another processor is other code; another number of rows is not"


class Scaled:
    def __init__(self) -> None:
        self.scale, self.other = 2.0, 5

    def __call__(self, x: Tensor) -> tuple[Tensor]:
        return (self.scale * x,)


def branches(x: Tensor) -> tuple[Tensor]:
    return (x * 2 if float(x.sum()) > 0 else x,)


def draws(x: Tensor) -> tuple[Tensor]:
    return (x + torch.rand_like(x),)


def draws_with_numpy(x: Tensor) -> tuple[Tensor]:
    return (x + torch.from_numpy(np.random.default_rng().normal(size=x.shape[1:])),)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (branches, "it asks for the value of a tensor"),
        (draws, "it draws random numbers"),
        (draws_with_numpy, "its result differs from the plain"),
    ],
)
@pytest.mark.usefixtures("uncompiled")
def test_a_function_that_cannot_be_compiled_runs_as_it_is_with_a_warning(
    function: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    compiled, x = Compiled(function, "the gradient step"), torch.ones(5, 2)
    for _ in range(3):
        assert compiled(x)[0].shape == x.shape
    (record,) = logged_warnings(caplog)
    assert record.levelno == logging.WARNING and why in record.message and "\n" not in record.message
    assert record.message.startswith("the gradient step is not compiled (") and "training continues" in record.message


def test_without_a_compiler_a_function_runs_as_it_is_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from torch._inductor import config

    x = torch.randn(5, 3)
    with config.patch({"cpp.cxx": ("/nowhere/compiler",)}):
        assert torch.equal(Compiled(lambda x: (x.sin() * 1.2345,), "it")(x)[0], x.sin() * 1.2345)
    (record,) = logged_warnings(caplog)
    assert "it is not compiled" in record.message and "ompiler" in record.message and "\n" not in record.message


@pytest.mark.usefixtures("uncompiled")
def test_compiled_code_is_dropped_when_a_number_in_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    function, x = Scaled(), torch.ones(2, 2)
    reads = AttributeReads([function])
    compiled = Compiled(reads.watch(function.__call__), "it", reads=reads)
    assert compiled(x)[0].tolist() == [[2.0, 2.0]] * 2
    function.other = 6  # not read
    compiled.check_reads()
    assert compiled.enabled
    function.scale = 3.0
    compiled.check_reads()
    compiled.check_reads()
    assert compiled(x)[0].tolist() == [[3.0, 3.0]] * 2
    (record,) = logged_warnings(caplog)
    assert "Scaled.scale changes, and it is not an argument of the loss" in record.message
