"""Provenance of a run: code, versions and machine, as tags of its record."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from plexp._version import __version__
from plexp.config.paths import CHECKOUT

PACKAGES = ("torch", "numpy", "gymnasium", "mlflow", "hydra-core")
GIT_SECONDS = 3.0
"""Seconds that git may take; larger: works on slower disks, but delays the start of a run there."""


def provenance() -> dict[str, str]:
    """Return the tags `git.*`, `version.*` and `host.*`, without those that cannot be determined. Never raises."""
    tags = _git(CHECKOUT if CHECKOUT and (CHECKOUT / ".git").exists() else Path("."))
    facts: dict[str, Callable[[], str]] = {
        "version.plexp": lambda: __version__,
        "version.python": platform.python_version,
        **{f"version.{package}": partial(metadata.version, package) for package in PACKAGES},
        "host.name": platform.node,
        "host.cpu": _cpu,
        "host.cores": _cores,
        "host.memory_gb": _memory,
        "host.platform": platform.platform,
    }
    for key, determine in facts.items():
        try:
            tags[key] = determine()
        except Exception:  # a missing tag is no reason to lose the run
            continue
    return {key: value for key, value in tags.items() if value}


def _git(folder: Path) -> dict[str, str]:
    """Return `git.commit` and `git.dirty` of a checkout; empty if there is no git or no commit.

    Dirty means that a file is changed, staged, or new and not ignored.
    """
    # In a git hook these variables name another checkout. A repository's fsmonitor setting could start any program.
    excluded = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in excluded} | {"GIT_OPTIONAL_LOCKS": "0"}
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=normal"]
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *status]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.decode(errors="replace").splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    dirty = any(not line.startswith("#") for line in lines)
    return {} if commit == "(initial)" else {"git.commit": commit, "git.dirty": str(dirty).lower()}


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []:
        key, _, model = line.partition(":")
        if key.strip() == "model name":
            return model.strip()
    return platform.processor() or platform.machine()


def _cores() -> str:
    """Return the number of cores that this process may use; under `taskset` fewer than the machine has."""
    return str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or "")


def _memory() -> str:
    """Return the memory of the machine, in GiB."""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}"
