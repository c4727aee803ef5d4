"""Processes that start at once, forked from a server that has already imported the libraries, but not plexp.

A fresh process would spend 3-6 s on importing torch, MLflow, Gymnasium and Hydra. Each forked process imports plexp
itself, from the files as they are. The server starts with the first command of a test session and ends with it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
PRELOADED = [
    "alembic.command",
    "gymnasium",
    "hydra",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "onnxruntime",
    "PIL.Image",
    "pydantic",
    "rich.console",
    "scipy.stats",
    "torch",
    "torch._dynamo",
    "torch.export",
]
"""Modules that start no threads when they are imported; those that are not installed are left out."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def run(
    arguments: Sequence[str],
    *,
    code: str | None = None,
    text: str = "",
    cwd: Path | str = CHECKOUT,
    env: Mapping[str, str] | None = None,
    seconds: float = 600.0,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m plexp ARGUMENTS`, or `python -c CODE ARGUMENTS`, to its end.

    Args:
        code: Python code; None: the command line of plexp.
        text: text that the process reads from stdin.
        env: environment variables in addition to those of this process.
        seconds: the process is killed after them, and subprocess.TimeoutExpired is raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(text)
        variables = {**os.environ, **(env or {})}
        process: Any = _context.Process(target=_main, args=(list(arguments), code, str(cwd), variables, files))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        outputs = [file.read_text() for file in files[1:]]
    return subprocess.CompletedProcess(list(arguments), process.exitcode, *outputs)


def _main(arguments: list[str], code: str | None, cwd: str, variables: dict[str, str], files: list[Path]) -> None:
    """Set up the standard streams, environment variables and folder of the forked process, then run the command."""
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing has replaced it
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.path[:] = [str(CHECKOUT), *(path for path in sys.path if path not in ("", str(CHECKOUT)))]
    try:
        if code is None:
            sys.argv = ["plexp", *arguments]
            runpy.run_module("plexp", run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *arguments]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its processes without them
