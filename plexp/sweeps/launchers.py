"""What a sweep needs of the engine that runs its jobs: that it is installed, and that its hosts can share what runs keep."""

from __future__ import annotations

import platform
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, requires
from typing import Any
from urllib.parse import urlsplit

from plexp.errors import ConfigError, Problem, one_line

IN_TURN = ("BasicLauncher", "JoblibLauncher")
"""Launchers whose processes do one job after another; in those of the others, an interrupt is the end of one job alone."""


def problem_of(launcher: Mapping[str, Any], choice: str, uri: str | None) -> Problem | None:
    """Why this launcher (its sheet, and the sheet's name) cannot run jobs from here; None: it can."""
    found = re.match(r"hydra_plugins\.(hydra_\w+_launcher)\.", str(launcher["_target_"]))
    if found is None:
        return None
    extra, packages = _extra_of(found[1].replace("_", "-"))
    if missing := [package for package in packages if not _is_installed(package)]:
        command = f'pip install "plexp[{extra}]"' if extra else f"pip install {' '.join(missing)}"
        named = f"package {missing[0]} is" if len(missing) == 1 else f"packages {' and '.join(missing)} are"
        cause = f"the {named} missing"
        return Problem("hydra/launcher", choice, cause, command)
    if found[1] == "hydra_submitit_launcher" and uri is not None and _has_password(uri):
        cause = "submitit writes the jobs' command line to disk, and a password is written nowhere"
        return Problem(
            "tracker.uri", "***", cause, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.pgpass"
        )
    return None


def problem_of_host(sweep: Mapping[str, Any], outputs: str, uri: str | None) -> Problem | None:
    """Why this host cannot run a job that keeps its run in this store; None: it can.

    `sweep` is what the folder of the sweep says of it, empty where this host does not share that folder.
    """
    here, there = platform.node(), sweep.get("host", platform.node())
    remedy = "start mlflow server and give tracker.uri=http://…"
    if uri is None and not sweep:
        return Problem("outputs", outputs, f"{here} does not share this folder with the sweep's host", remedy)
    if (uri is None or uri.startswith("sqlite:")) and here != there:
        return Problem("tracker.uri", uri, f"the file of {there} cannot be written from {here} as well", remedy)
    return None


def begin(launcher: Mapping[str, Any]) -> None:
    """Start Ray, or join its cluster, where that is the launcher, which then finds it running.

    Ray takes SIGTERM for itself when it begins, so whoever wants to hear it listens after this. Raises ConfigError.
    """
    if ".ray_launcher." not in str(launcher["_target_"]):
        return
    options = launcher["ray"]["init"]
    try:
        if head := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", str(options.get("address"))):
            socket.create_connection((head[1], int(head[2])), 4).close()  # Ray itself tries for minutes
        import ray

        ray.init(**options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        key, remedy = "hydra.launcher.ray.init.address", "see ray status there; where it wants a token: RAY_AUTH_TOKEN"
        raise ConfigError(Problem(key, options.get("address"), one_line(error)[:240], remedy)) from None


def of_launcher(error: BaseException) -> str | None:
    """What a launcher's exception says: that a job's process died, and with it the sweep; None: it is not a launcher's."""
    engine = type(error).__module__.partition(".")[0]
    if engine not in ("joblib", "ray", "submitit"):
        return None
    if type(error).__name__ == "TerminatedWorkerError":  # of joblib
        return "a worker of the sweep was killed (out of memory?), and the others with it"
    said = one_line(error).partition(" Traceback")[0]
    return f"{engine} ended the sweep: {type(error).__name__}: {said[:240]}"


def _extra_of(package: str) -> tuple[str, list[str]]:
    """plexp's extra that has this package, and all packages of that extra; no extra for what plexp always needs, or never."""
    asked: dict[str, list[str]] = {}
    with suppress(PackageNotFoundError):
        for line in requires("plexp") or []:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            asked.setdefault(extra[1] if extra else "", []).append(re.split(r"[^\w.-]", line)[0])
    for extra_name, packages in asked.items():
        if package in packages and extra_name:
            return extra_name, packages
    return "", [package]


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _has_password(uri: str) -> bool:
    parts = urlsplit(uri)
    return parts.password is not None or "password=" in parts.query
