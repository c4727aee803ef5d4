"""MLflow from outside: the names and texts that it takes, the addresses of its stores, its errors in one line.

Imports no mlflow, so that a command line is answered quickly.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from pathlib import Path
from typing import Any


def sqlite_uri(path: Path) -> str:
    """A database file as MLflow names it."""
    return f"sqlite:///{os.path.abspath(path)}"


def name_for_mlflow(name: str) -> str:
    """As MLflow takes it for metrics, params and tags: other characters become `_`, empty parts of the path vanish."""
    parts = [part if part.strip(".") else "_" for part in re.sub(r"[^\w/.\- :]", "_", name).split("/") if part]
    return "/".join(parts)[:250].rstrip("/") or "_"


def text_for_mlflow(value: object) -> str:
    """As it is typed on the command line: null, true, 0.5, [64,64]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(text_for_mlflow, value))}]"
    return str(value)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters: beginning and end of a longer text, and how long it was."""
    if len(text) <= limit:
        return text
    note = f" … [{len(text)} characters] … "
    head = (limit - len(note)) * 2 // 3
    return text[:head] + note + text[head + len(note) - limit :]


def masked(text: str) -> str:
    """Without the credentials in its addresses."""
    return re.sub(r"([?&][^=&\s]+=)[^&\s]+", r"\1***", re.sub(r"://\S*@", "://***@", text))


def ui_command(uri: str | None, outputs: Path) -> str:
    """What to type to browse a store: at `uri` (its credentials left out), or the file in `outputs`."""
    if uri:
        return f"python -m plexp ui --uri {shlex.quote(masked(uri))}"
    usual = outputs.absolute() == Path("outputs").absolute()
    return "python -m plexp ui" if usual else f"python -m plexp ui --outputs {shlex.quote(str(outputs))}"


def cause(error: Exception) -> str:
    """One line: the innermost reason in an exception's text, or its beginning."""
    if isinstance(error, FileExistsError):
        return "is a file, not a folder"
    text = masked(" ".join(str(error).split())) or type(error).__name__
    reason = re.search(r"(?<=\[Errno )-?\d+\] [^'\")]+|Connection to \S+ timed out|Read timed out", text)
    if reason:
        return reason[0].partition("] ")[2].strip(": ") or reason[0]
    text = re.split(r" \[SQL: | \(Background on", text)[0]
    return text if len(text) <= 240 else f"{text[:240]}…"


def mask_logs() -> None:
    """Take credentials out of whatever is logged in this process, by whomever."""
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
    """Take the credentials out of what Hydra has written of the command line."""
    for file in [*(folder / ".hydra").glob("*.yaml"), *folder.glob("multirun.yaml")]:
        text = file.read_text()
        if (clean := masked(text)) != text:
            file.write_text(clean)
