"""Ahead-of-time compilation of functions of tensors, with a cache on disk for later runs.

Tracing records the operations of one call (`make_fx`), with any number of rows; AOTInductor turns them into C++ and a shared
library that is called without Python. Loading a library takes milliseconds, compiling one 10 to 20 s.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from plexp.errors import one_line
from plexp.files import lock_file

log = logging.getLogger("plexp")
TensorFunction: TypeAlias = Callable[..., tuple[Tensor, ...]]
Library: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
"""Compiled code: takes and returns lists of contiguous tensors."""
OPTIONS = {"cpp.use_decompose_tanh": True}
"""Options of the compiler. tanh by exp is within 2e-7 of torch's, and five times as fast."""
ROWS = (67, 71, 73, 79, 89, 97, 101, 103)
"""Numbers of rows to trace with: primes that no other dimension is likely to have."""
TOLERANCE = 1e-3
"""Largest relative difference to the plain function, in the L2 norm: far above rounding, far below a mistake."""


class Untraceable(Exception):
    """A function that cannot be compiled, and why."""


class Compiled:
    """A function of tensors that is compiled when it is first called, and runs as it is where that is not possible.

    The first result is compared with the plain function's. Whatever goes wrong (no compiler, operations that cannot be
    traced, random numbers, another result) is logged in one line, once; then the plain function runs: slower, and right.

    Args:
        function: tensors -> tensors. It may change its `fixed` inputs in place, and must be pure otherwise.
        name: what log messages call it.
        fixed: number of leading inputs whose shapes never change; the others share their number of rows, dim 0.
        reads: attributes that the function reads and that are compiled in as constants; it runs as the plain function
            once one of them changes.
        on_compile: called with the seconds that compiling took.
    """

    def __init__(
        self,
        function: TensorFunction,
        name: str,
        *,
        fixed: int = 0,
        reads: AttributeReads | None = None,
        on_compile: Callable[[float], object] | None = None,
    ) -> None:
        self.function, self.name, self.fixed, self.reads = function, name, fixed, reads
        self.on_compile, self.enabled = on_compile, True
        self.libraries: dict[bool, Library] = {}
        """Compiled code for a single row (True) and for any other number of rows (False)."""

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        if not self.enabled:
            return self.function(*inputs)
        single = len(inputs[-1]) == 1  # a dimension of one broadcasts, so that is another function
        if single not in self.libraries:
            start = time.perf_counter()
            try:
                self.libraries[single] = self._compile(inputs)
            except Exception as error:
                return self.disable(_reason(error))(*inputs)
            finally:
                if self.on_compile is not None:
                    self.on_compile(time.perf_counter() - start)
        return self.libraries[single]([x if x.is_contiguous() else x.contiguous() for x in inputs])

    def disable(self, reason: str) -> TensorFunction:
        """Run the plain function from now on, and return it."""
        if self.enabled:
            self.enabled = False
            log.warning("%s is not compiled (%s); training continues without, slower", self.name, reason)
        return self.function

    def check_reads(self) -> None:
        """Disable the compiled code if a number that was compiled in has changed."""
        if self.enabled and self.reads is not None and (changed := self.reads.changed()):
            self.disable(f"{changed} changes, and it is not an argument of the loss")

    def _compile(self, inputs: Sequence[Tensor]) -> Library:
        with torch.inference_mode(False), torch.no_grad():
            graph, lifted = _trace(self.function, inputs, self.fixed)
        path = _library(graph, [*inputs, *lifted], self.fixed, len(inputs), self.name)
        library = _load(path)

        def call(arguments: list[Tensor]) -> list[Tensor]:
            return library(arguments + lifted)

        self._compare(call, inputs)
        return call

    def _compare(self, call: Library, inputs: Sequence[Tensor]) -> None:
        """Raise Untraceable if compiled and plain function differ, in their results or in what they do to their inputs."""
        ours, theirs = ([x.clone() for x in inputs] for _ in range(2))
        results = [*call(list(ours)), *ours], [*self.function(*theirs), *theirs]
        for compiled, plain in zip(*results, strict=True):
            difference, size = (compiled.double() - plain.double()).norm(), plain.double().norm()
            if not difference <= TOLERANCE * size + 1e-6 and bool(size.isfinite()):
                raise Untraceable(
                    f"its result differs from the plain function's by {difference / size:.1e} of its norm"
                )


class AttributeReads:
    """The plain attributes (numbers, strings, None) that a function reads from some objects, with their values.

    Tracing turns such values into constants. `watch` returns the function with its object replaced by a stand-in that
    records what is read through it, also in the methods that it calls and in other watched objects.

    Args:
        owners: the objects to watch.
    """

    def __init__(self, owners: Sequence[object]) -> None:
        self.values: dict[tuple[int, str], tuple[object, str, object]] = {}
        self.stand_ins = {id(owner): _StandIn(owner, self) for owner in owners}

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of a watched object as one of its stand-in; any other function as it is."""
        stand_in = self.stand_ins.get(id(getattr(function, "__self__", None)))
        return function if stand_in is None else MethodType(function.__func__, stand_in)  # type: ignore[attr-defined]

    def changed(self) -> str | None:
        """Return the name of an attribute whose value has changed since it was read; None if there is none."""
        for owner, name, value in self.values.values():
            if getattr(owner, name) != value:
                return f"{type(owner).__name__}.{name}"
        return None


class _StandIn:
    """Stands for an object, and records which plain attributes are read from it."""

    def __init__(self, owner: object, reads: AttributeReads) -> None:
        vars(self).update(_owner=owner, _reads=reads)

    def __getattr__(self, name: str) -> Any:
        owner, reads = self._owner, self._reads
        value = getattr(owner, name)
        if isinstance(value, bool | int | float | str | None):
            reads.values[id(owner), name] = (owner, name, value)
        elif isinstance(value, MethodType) and value.__self__ is owner:
            return MethodType(value.__func__, self)
        return reads.stand_ins.get(id(value), value)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._owner, name, value)


def _trace(function: TensorFunction, inputs: Sequence[Tensor], fixed: int) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """Return the operations of one call, and the outside tensors that they use (parameters, buffers), lifted to inputs.

    Lifted tensors are those objects themselves, so that later calls see what happens to them in place.
    """
    graph = _make_graph(function, _examples(inputs, fixed))
    lifted: dict[str, Tensor] = {}
    placeholders: dict[str, torch.fx.Node] = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise Untraceable(f"it draws random numbers ({node.target})")
        if node.op != "get_attr":
            continue
        if node.target not in placeholders:
            lifted[node.target] = getattr(graph, node.target)
            with graph.graph.inserting_after(last):
                last = placeholders[node.target] = graph.graph.placeholder(f"lifted_{node.target}")
        node.replace_all_uses_with(placeholders[node.target])
        graph.graph.erase_node(node)
    graph.recompile()
    return graph, list(lifted.values())


def _examples(inputs: Sequence[Tensor], fixed: int) -> list[Tensor]:
    """Return the inputs with a number of rows that no other dimension has; a single row stays single."""
    rows = len(inputs[-1])
    if rows > 1:
        taken = {size for x in inputs for size in x.shape}
        rows = next(number for number in ROWS if number not in taken)
    return [*inputs[:fixed], *(x[torch.arange(rows, device=x.device) % len(x)] for x in inputs[fixed:])]


def _library(graph: torch.fx.GraphModule, inputs: Sequence[Tensor], fixed: int, given: int, name: str = "it") -> Path:
    """Return the file of the compiled graph, and compile it if there is none: one process does, others wait for it."""
    folder = Path(os.environ.get("PLEXP_CACHE") or Path.home() / ".cache" / "plexp")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    single = len(inputs[given - 1]) == 1
    kinds = [
        (str(x.dtype), x.dim() if fixed <= i < given and not single else tuple(x.shape)) for i, x in enumerate(inputs)
    ]
    described = [graph.code, kinds, OPTIONS, torch.__version__, torch.get_num_threads(), _processor()]
    path = folder / f"{hashlib.sha256(repr(described).encode()).hexdigest()[:32]}.pt2"
    if path.exists():
        return path
    with lock_file(path.with_suffix(".lock")):
        if not path.exists():
            log.info("compiling %s, once for this and later runs", name)
            rows = {0: torch.export.Dim.DYNAMIC}
            shapes = [rows if fixed <= i < given and not single else None for i in range(len(inputs))]
            unfinished = path.with_suffix(f".{os.getpid()}.pt2")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    graph, (*_examples(inputs[:given], fixed), *inputs[given:]), dynamic_shapes=shapes
                )
                _compile_ahead(program, unfinished)
            unfinished.replace(path)
    return path


def _processor() -> str:
    """Return what identifies the processor, since compiled code uses all of its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return " ".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))


def _make_graph(function: TensorFunction, inputs: list[Tensor]) -> torch.fx.GraphModule:
    """Trace a function with `make_fx`, which torch calls experimental; tried with torch 2.6 to 2.13."""
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(lambda *inputs: function(*inputs), tracing_mode="symbolic", _allow_non_fake_inputs=True)
    graph: torch.fx.GraphModule = trace(*inputs)
    return graph


def _compile_ahead(program: torch.export.ExportedProgram, path: Path) -> None:
    """Compile with AOTInductor, whose entry point is in a private module; tried with torch 2.6 to 2.13."""
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs={**OPTIONS})


def _load(path: Path) -> Library:
    """Load what `_compile_ahead` wrote, without Python between calls: a private class, tried with torch 2.13."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)
    run: Library = loader.boxed_run
    return run


def _reason(error: Exception) -> str:
    """Return why a function cannot be compiled, in one line."""
    if isinstance(error, Untraceable):
        return str(error)
    if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
        return "it asks for the value of a tensor, which is not known while it is traced"
    return f"{type(error).__name__}: {one_line(error)[:200]}"
