"""Keeps the credentials of a store's address out of what others write."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from plexp.tracking_views import masked


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
