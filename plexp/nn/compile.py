"""Functions of tensors, traced once and compiled ahead of time; the compiled code is kept on disk for every later run.

Tracing records the operations of one call (`make_fx`), with any number of rows; AOTInductor turns them into C++ and a shared
library that is called without Python. Loading one takes milliseconds, making one 10 to 20 s.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from plexp.errors import one_line

log = logging.getLogger("plexp")
TensorFunction: TypeAlias = Callable[..., tuple[Tensor, ...]]
OPTIONS = {"cpp.use_decompose_tanh": True}  # tanh by exp: within 2e-7 of torch's, and five times as fast
ROWS = (67, 71, 73, 79, 89, 97, 101, 103)  # to trace with: such as no other dimension is likely to have
TOLERANCE = 1e-3  # relative, in the L2 norm: far above rounding, far below a mistake


class Untraceable(Exception):
    """A function that cannot be compiled, and why."""


class Compiled:
    """A function that is compiled when it is first called; where that cannot be, the function itself.

    The first result is compared with the plain function's. Whatever goes wrong (no compiler, operations that do not trace,
    random numbers, another result) is said in one line, once, and the plain function goes on: slower, and right.

    Args:
        function: tensors -> tensors. It may change its `fixed` inputs in place, and must be pure otherwise.
        name: what the line calls it.
        fixed: so many leading inputs always have one shape; the others share their number of rows, dim 0.
        watched: objects that the function reads numbers from; it is compiled with the values that they have then, and
            goes back to the plain function when one changes.
        on_compile: called with the seconds that compiling took.
    """

    def __init__(
        self,
        function: TensorFunction,
        name: str,
        *,
        fixed: int = 0,
        watched: Sequence[object] = (),
        on_compile: Callable[[float], object] | None = None,
    ) -> None:
        self.function, self.name, self.fixed, self.watched = function, name, fixed, watched
        self.on_compile, self.enabled = on_compile, True
        self.loaded: dict[bool, Callable[[list[Tensor]], list[Tensor]]] = {}
        self.read: list[tuple[object, str, object]] = []

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        if not self.enabled:
            return self.function(*inputs)
        single = len(inputs[-1]) == 1  # a dimension of one broadcasts, so it is another function
        if single not in self.loaded:
            began = time.perf_counter()
            try:
                self.loaded[single] = self._compile(inputs)
            except Exception as error:
                return self.give_up(_reason(error))(*inputs)
            finally:
                if self.on_compile is not None:
                    self.on_compile(time.perf_counter() - began)
        return self.loaded[single]([x if x.is_contiguous() else x.contiguous() for x in inputs])

    def give_up(self, why: str) -> TensorFunction:
        """From now on the plain function."""
        if not self.enabled:
            return self.function
        self.enabled = False
        log.warning("%s is not compiled (%s); training goes on without, slower", self.name, why)
        return self.function

    def check_watched(self) -> None:
        """Give up if a number that was compiled in has changed."""
        for owner, attribute, value in self.read if self.enabled else ():
            if getattr(owner, attribute) != value:
                self.give_up(f"{type(owner).__name__}.{attribute} changes, and it is not an argument of the loss")

    def _compile(self, inputs: Sequence[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
        with torch.inference_mode(False), torch.no_grad(), _recorded_reads(self.watched) as reads:
            graph, lifted = _trace(self.function, inputs, self.fixed)
        self.read += reads
        path = _library(graph, [*inputs, *lifted], self.fixed, len(inputs), self.name)
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1)

        def call(arguments: list[Tensor]) -> list[Tensor]:
            result: list[Tensor] = loader.boxed_run(arguments + lifted)
            return result

        self._compare(call, inputs)
        return call

    def _compare(self, call: Callable[[list[Tensor]], list[Tensor]], inputs: Sequence[Tensor]) -> None:
        """Raise Untraceable if compiled and plain function differ, in their results or in what they do to their inputs."""
        ours, theirs = ([x.clone() for x in inputs] for _ in range(2))
        results = [*call(list(ours)), *ours], [*self.function(*theirs), *theirs]
        for compiled, plain in zip(*results, strict=True):
            difference, size = (compiled.double() - plain.double()).norm(), plain.double().norm()
            if not difference <= TOLERANCE * size + 1e-6 and bool(size.isfinite()):
                raise Untraceable(
                    f"its result differs from the plain function's by {difference / size:.1e} of its norm"
                )


def _trace(function: TensorFunction, inputs: Sequence[Tensor], fixed: int) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The operations of one call, and the tensors from outside that they use (parameters, buffers), lifted to inputs.

    Lifted tensors are those objects themselves, so that what happens to them in place is seen by later calls.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(lambda *inputs: function(*inputs), tracing_mode="symbolic", _allow_non_fake_inputs=True)
    graph: torch.fx.GraphModule = trace(*_examples(inputs, fixed))
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
    """The inputs, with a number of rows that says nothing; one row stays one."""
    rows = len(inputs[-1])
    if rows > 1:
        taken = {size for x in inputs for size in x.shape}
        rows = next(number for number in ROWS if number not in taken)
    return [*inputs[:fixed], *(x[torch.arange(rows, device=x.device) % len(x)] for x in inputs[fixed:])]


def _library(graph: torch.fx.GraphModule, inputs: Sequence[Tensor], fixed: int, given: int, name: str = "it") -> Path:
    """The file of the compiled graph, made if there is none; one process makes it, others wait for it."""
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
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(unfinished), inductor_configs={**OPTIONS}
                )
            unfinished.replace(path)
    return path


def _processor() -> str:
    """What the code was made for: it uses all that the processor of this machine can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return " ".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))


@contextmanager
def _recorded_reads(owners: Sequence[object]) -> Iterator[list[tuple[object, str, object]]]:
    """The plain values among the attributes that are read from the owners meanwhile."""
    reads: dict[tuple[int, str], tuple[object, str, object]] = {}

    def recording(cls: type) -> type:
        def get(self: object, name: str) -> object:
            value = cls.__getattribute__(self, name)  # type: ignore[call-arg, arg-type]
            if isinstance(value, bool | int | float | str | None):
                reads[id(self), name] = (self, name, value)
            return value

        return type(cls.__name__, (cls,), {"__getattribute__": get})

    classes = [type(owner) for owner in owners]
    result: list[tuple[object, str, object]] = []
    try:
        for owner, cls in zip(owners, classes, strict=True):
            owner.__class__ = recording(cls)
        yield result
    finally:
        for owner, cls in zip(owners, classes, strict=True):
            owner.__class__ = cls
        result += reads.values()


def _reason(error: Exception) -> str:
    if isinstance(error, Untraceable):
        return str(error)
    if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
        return "it asks for the value of a tensor, which is not known while it is traced"
    return f"{type(error).__name__}: {one_line(error)[:200]}"
