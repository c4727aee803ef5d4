"""Names, texts and addresses as MLflow takes them, credentials masked, and errors in one line.

Imports no MLflow, so that a command line is answered quickly.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from pathlib import Path
from typing import Any

from plexp.errors import Problem
from plexp.tracking.permissions import problem_of_reading


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database file, whatever characters its path has.

    Where some of them are quoted, it names the driver too: of a URI without one MLflow 3.17 makes the folder, unquoted, and
    so a second one.
    """
    from sqlalchemy import URL  # which takes a third of a second

    url, plain = URL.create("sqlite", database=os.path.abspath(path)), f"sqlite:///{os.path.abspath(path)}"
    return plain if str(url) == plain else str(url.set(drivername="sqlite+pysqlite"))


def no_store(uri: str | None, outputs: Path) -> str:
    """Return the line that says that the database at `uri` (None: that in `outputs`) does not exist, or not any more."""
    if uri is not None:
        from sqlalchemy import make_url

        key, place, file = "--uri", masked(uri), Path(make_url(uri).database or "")
    else:
        key, place, file = "outputs", str(outputs), outputs / "mlflow.db"
    if (problem := problem_of_reading(key, place, file)) is not None:
        return str(problem)
    if uri is None and any((outputs / "state").glob("*/run.json")):
        remedy = (
            "put it back, give --uri if the runs are kept elsewhere, or train again: the same commands do what is gone"
        )
        return str(Problem("outputs", outputs, "there is no mlflow.db any more", remedy))
    return str(Problem(key, place, "no run has been kept there yet", "start one with: python -m plexp"))


def name_for_mlflow(name: str) -> str:
    """Return a name that MLflow accepts for metrics, params and tags.

    Other characters become `_`, and empty parts of the path are left out.
    """
    parts = [part if part.strip(".") else "_" for part in re.sub(r"[^\w/.\- :]", "_", name).split("/") if part]
    return "/".join(parts)[:250].rstrip("/") or "_"


def text_for_mlflow(value: object) -> str:
    """Return a value as it is typed on the command line: null, true, 0.5, [64,64]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text_for_mlflow, value))}]"
    return str(value)


def cut(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: beginning and end of a longer one, and its length."""
    if len(text) <= limit:
        return text
    note = f" … [{len(text)} characters] … "
    head = (limit - len(note)) * 2 // 3
    return text[:head] + note + text[head + len(note) - limit :]


def masked(text: str) -> str:
    """Return a text without the credentials in its addresses: users, passwords, and values of queries.

    It works on any text, such as an error with several addresses. The form is part of the records of runs, by which a
    command finds the runs of its store, so it must not change.
    """
    return re.sub(r"([?&][^=&\s]+=)[^&\s]+", r"\1***", re.sub(r"://\S*@", "://***@", text))


def ui_command(uri: str | None, outputs: Path) -> str:
    """Return the command that browses a store: the one at `uri`, masked, or the file in `outputs`."""
    if uri:
        return f"python -m plexp ui --uri {shlex.quote(masked(uri))}"
    if outputs.absolute() == Path("outputs").absolute():
        return "python -m plexp ui"
    folder = f"./{outputs}" if str(outputs).startswith("-") else str(outputs)
    return f"python -m plexp ui --outputs {shlex.quote(folder)}"


def cause(error: Exception) -> str:
    """Return an exception in one line: the innermost reason in its text, or the beginning."""
    if isinstance(error, FileExistsError):
        return "is a file, not a folder"
    text = masked(" ".join(str(error).split())) or type(error).__name__
    reason = re.search(r"(?<=\[Errno )-?\d+\] [^'\")]+|Connection to \S+ timed out|Read timed out", text)
    if reason:
        return reason[0].partition("] ")[2].strip(": ") or reason[0]
    text = re.split(r" \[SQL: | \(Background on", text)[0]
    return text if len(text) <= 240 else f"{text[:240]}…"


def mask_logs() -> None:
    """Mask credentials in everything that is logged in this process."""
    factory = logging.getLogRecordFactory()
    if getattr(factory, "masks", False):
        return

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = factory(*arguments, **options)
        if "://" in (text := record.getMessage()):
            record.msg, record.args = masked(text), ()
        return record

    make.masks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def mask_written(folder: Path) -> None:
    """Mask credentials in the files that Hydra has written of the command line."""
    for file in [*(folder / ".hydra").glob("*.yaml"), *folder.glob("multirun.yaml")]:
        text = file.read_text()
        if (clean := masked(text)) != text:
            file.write_text(clean)
