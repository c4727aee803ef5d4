"""Checks of the launcher of a sweep: that it is installed, and that its hosts can share the store."""

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
"""Launchers whose processes run one job after another; with the others, an interrupt ends one job alone."""


def problem_of(launcher: Mapping[str, Any], choice: str, uri: str | None) -> Problem | None:
    """Return why a launcher cannot run jobs from here; None if it can.

    Args:
        launcher: its configuration.
        choice: name of its config.
        uri: `tracker.uri`.
    """
    match = re.match(r"hydra_plugins\.(hydra_\w+_launcher)\.", str(launcher["_target_"]))
    if match is None:
        return None
    extra, packages = _extra_of(match[1].replace("_", "-"))
    if missing := [package for package in packages if not _is_installed(package)]:
        command = f'pip install "plexp[{extra}]"' if extra else f"pip install {' '.join(missing)}"
        names = f"package {missing[0]} is" if len(missing) == 1 else f"packages {' and '.join(missing)} are"
        cause = f"the {names} missing"
        return Problem("hydra/launcher", choice, cause, command)
    if match[1] == "hydra_submitit_launcher" and uri is not None and _has_password(uri):
        cause = "submitit writes the jobs' command line to disk, and a password is written nowhere"
        return Problem(
            "tracker.uri", "***", cause, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.pgpass"
        )
    return None


def problem_of_host(sweep: Mapping[str, Any], outputs: str, uri: str | None) -> Problem | None:
    """Return why this host cannot run a job that is recorded in this store; None if it can.

    `sweep` is the record in the sweep's folder, empty if this host does not share that folder.
    """
    here, there = platform.node(), sweep.get("host", platform.node())
    remedy = "start mlflow server and give tracker.uri=http://…"
    if uri is None and not sweep:
        return Problem("outputs", outputs, f"{here} does not share this folder with the sweep's host", remedy)
    if (uri is None or uri.startswith("sqlite")) and here != there:
        return Problem("tracker.uri", uri, f"the file of {there} cannot be written from {here} as well", remedy)
    return None


def begin(launcher: Mapping[str, Any]) -> None:
    """Start Ray, or join its cluster, if that is the launcher, which then finds it running.

    Ray installs its own handler of SIGTERM when it starts, so install others after this. Raises ConfigError if it cannot
    be started or reached.
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


def launcher_message(error: BaseException) -> str | None:
    """Return a launcher's exception in one line; None if it is not one of a launcher."""
    engine = type(error).__module__.partition(".")[0]
    if engine not in ("joblib", "ray", "submitit"):
        return None
    if type(error).__name__ == "TerminatedWorkerError":  # of joblib
        return "a worker of the sweep was killed (out of memory?), and the others with it"
    text = one_line(error).partition(" Traceback")[0]
    return f"{engine} ended the sweep: {type(error).__name__}: {text[:240]}"


def _extra_of(package: str) -> tuple[str, list[str]]:
    """Return plexp's extra that has a package, and all packages of that extra; no extra if none has it."""
    extras: dict[str, list[str]] = {}
    with suppress(PackageNotFoundError):
        for line in requires("plexp") or []:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            extras.setdefault(extra[1] if extra else "", []).append(re.split(r"[^\w.-]", line)[0])
    for extra_name, packages in extras.items():
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
