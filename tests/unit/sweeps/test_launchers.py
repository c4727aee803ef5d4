"""Tests of launchers: their extras, hosts that can share a store, and errors in one line."""

from __future__ import annotations

import fcntl
import json
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from plexp.config.compose import compose, hydra_configuration
from plexp.config.identity import sweep_identity
from plexp.config.paths import CONF
from plexp.errors import ConfigError
from plexp.sweeps import launchers
from plexp.sweeps.status import FILE
from tests.integration.cli.test_cli import Main, main

__all__ = ["main"]
CONFIGS = sorted(file.stem for file in (CONF / "hydra" / "launcher").glob("*.yaml"))
TARGETS = {name: OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml") for name in CONFIGS}
EXTRAS = [
    "gymnasium",
    'hydra-ray-launcher<2; extra == "ray"',
    "ray>=2 ; extra == 'ray'",
    "hydra-submitit-launcher; extra == 'slurm'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function after which only the named packages are installed."""

    def only(*names: str) -> None:
        def distribution(name: str) -> object:
            if name not in names:
                raise PackageNotFoundError(name)
            return object()

        monkeypatch.setattr(launchers, "distribution", distribution)
        monkeypatch.setattr(launchers, "requires", lambda name: EXTRAS)

    return only


def problem(name: str, uri: str | None = None) -> str:
    return str(launchers.problem_of(TARGETS[name], name, uri) or "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packages", "name", "message"),
    [
        ((), "ray", 'the packages hydra-ray-launcher and ray are missing; pip install "plexp[ray]"'),
        (("ray",), "ray", 'the package hydra-ray-launcher is missing; pip install "plexp[ray]"'),
        (("hydra-ray-launcher",), "ray", 'the package ray is missing; pip install "plexp[ray]"'),
        (("hydra-ray-launcher", "ray"), "ray", ""),
        ((), "submitit_slurm", 'the package hydra-submitit-launcher is missing; pip install "plexp[slurm]"'),
        ((), "submitit_local", 'the package hydra-submitit-launcher is missing; pip install "plexp[slurm]"'),
        ((), "joblib", "the package hydra-joblib-launcher is missing; pip install hydra-joblib-launcher"),
    ],
)
def test_a_launcher_without_its_extra_is_refused_in_one_line(
    packages: tuple[str, ...], name: str, message: str, installed: Callable[..., None]
) -> None:
    installed(*packages)
    assert problem(name) == (f"hydra/launcher={name}: {message}" if message else "")


def test_without_its_extra_a_launcher_makes_no_job_and_no_folder(
    installed: Callable[..., None], main: Main, tmp_path: Path
) -> None:
    installed("hydra-joblib-launcher")
    status, lines = main("-m", "seed=0,1", "hydra/launcher=ray")
    assert status == 2 and lines == [
        f'hydra/launcher=ray: the packages hydra-ray-launcher and ray are missing; {"pip install"} "plexp[ray]"'
    ]
    assert not list(tmp_path.glob("**/sweeps/*"))


@pytest.mark.parametrize("uri", ["http://me:word@there", "postgresql://me@there/db?password=word"])
def test_submitit_takes_no_password_from_the_command_line(uri: str, installed: Callable[..., None]) -> None:
    installed("hydra-submitit-launcher", "hydra-joblib-launcher")
    message = problem("submitit_slurm", uri)
    assert message.startswith("tracker.uri=***: submitit writes") and "word@" not in message and "\n" not in message
    assert problem("joblib", uri) == "" == problem("submitit_slurm", "http://me@there")


def test_a_sweep_that_is_running_already_is_refused_in_one_line(main: Main, tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "now"
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps({"identity": sweep_identity(["-m", "seed=0,1", f"outputs={tmp_path}"])}))
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, (line,) = main("-m", "seed=0,1")
    assert status == 2 and line.startswith("sweep=now: another process runs this very sweep now; wait for it")
    assert not (tmp_path / "state").exists()


HERE, THERE = {"host": platform.node()}, {"host": "elsewhere"}


@pytest.mark.parametrize(
    ("sweep", "uri", "key"),
    [
        (HERE, None, ""),
        (HERE, "sqlite:////f.db", ""),
        (THERE, None, "tracker.uri=null: the file of elsewhere cannot be written from"),
        (THERE, "sqlite:////f.db", "tracker.uri=sqlite:////f.db: the file of elsewhere"),
        (THERE, "http://there", ""),
        ({}, None, "outputs=outputs: "),
        ({}, "http://there", ""),
    ],
)
def test_the_file_of_a_store_is_written_from_one_host_only(sweep: dict[str, Any], uri: str | None, key: str) -> None:
    found = launchers.problem_of_host(sweep, "outputs", uri)
    assert str(found or "").startswith(key) and (found is None) == (not key)
    assert found is None or "mlflow server" in found.remedy


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_of_a_launchers_config_has_a_comment(name: str) -> None:
    lines = (CONF / "hydra" / "launcher" / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if ": " in line and not line.startswith(("#", "_target_"))]
    assert lines[0].startswith("# ") and values and all(" # " in line for line in values)


def test_the_config_is_plexps_and_its_types_are_the_launchers() -> None:
    assert hydra_configuration().launcher.batch_size == "1" and hydra_configuration().launcher.n_jobs == -1
    assert hydra_configuration("hydra.launcher.n_jobs=4").launcher.n_jobs == 4
    with pytest.raises(Exception, match="n_jobs"):
        compose("hydra.launcher.n_jobs=many")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "hydra.launcher.n_jobs=many",
            "hydra.launcher.n_jobs=many: Value 'many' of type 'str' could not be converted to Integer",
        ),
        ("hydra.launcher.n_job=2", "hydra.launcher.n_job: there is no such key; did you mean hydra.launcher.n_jobs?"),
        ("hydra/launcher=joblub", "hydra/launcher=joblub: there is no such option; did you mean joblib?"),
    ],
)
def test_a_wrong_value_of_a_launcher_is_refused_in_one_line(given: str, message: str, main: Main) -> None:
    status, (line,) = main("-m", "seed=0,1", given)
    assert status == 2 and line.startswith(message)


def test_a_ray_address_where_nobody_listens_is_refused_at_once() -> None:
    launcher = {**OmegaConf.to_container(TARGETS["ray"]), "ray": {"init": {"address": "127.0.0.1:9"}}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"^hydra.launcher.ray.init.address=127.0.0.1:9: .*Connection refused"):
        launchers.begin(launcher)


def test_only_exceptions_of_launchers_have_a_launcher_message() -> None:
    made = {
        name: type(name, (Exception,), {"__module__": f"{engine}.errors"})
        for engine, name in (("joblib", "TerminatedWorkerError"), ("ray", "WorkerCrashedError"), ("plexp", "Bug"))
    }
    assert "a worker of the sweep was killed" in str(launchers.launcher_message(made["TerminatedWorkerError"]("x")))
    assert (
        launchers.launcher_message(made["WorkerCrashedError"]("a\nb")) == "ray ended the sweep: WorkerCrashedError: a b"
    )
    assert launchers.launcher_message(made["Bug"]()) is None
