"""Fixtures and hooks that the tests share: composing a configuration, building an experiment, training it briefly."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig, OmegaConf

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest already uses all cores
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported, also by support/forks.py
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit an ignored SIGINT
CHECKOUT = Path(__file__).parents[1]
if str(CHECKOUT) not in sys.path:  # for `tests.support`: unlike `python -m pytest`, `pytest` does not add it
    sys.path.insert(0, str(CHECKOUT))

import tests.support.environments  # noqa: E402, F401
from plexp.config.compose import register_search_path, resolve  # noqa: E402
from plexp.config.paths import CONF  # noqa: E402
from tests.support import database  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from plexp.execution.experiment import Experiment


MARKERS_OF_FOLDERS = {
    "integration/browser": "browser",
    "integration/faults": "faults",
    "integration/launchers": "launcher",
    "integration/packaging": "packaging",
    "integration/servers": "server",
}
"""Folder below tests/ → marker that all of its tests get."""


def pytest_configure(config: pytest.Config) -> None:
    """Ignore a warning of Box2D's SWIG types: raised as an error during their import, it crashes the interpreter."""
    config.addinivalue_line("filterwarnings", "ignore:builtin type .* has no __module__ attribute:DeprecationWarning")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and every test that has a marker of pyproject.toml as slow."""
    for item in items:
        folder = item.path.parent.relative_to(Path(__file__).parent).as_posix()
        if folder in MARKERS_OF_FOLDERS:
            item.add_marker(MARKERS_OF_FOLDERS[folder])
        if any(item.get_closest_marker(name) for name in ("compiler", "server", *MARKERS_OF_FOLDERS.values())):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Speed up two things that most tests do: composing a configuration, and creating MLflow's tables."""
    remember_configurations()
    if "plexp.tracking.store" in sys.modules:  # imported by tests that need MLflow; it also sets MLflow up
        database.copy_tables()


def remember_configurations() -> None:
    """Patch Hydra to copy configurations that it has composed before: 7 ms instead of 100.

    Files count as unchanged while their sizes and modification times are the same.
    """
    load = ConfigLoaderImpl._load_configuration_impl  # of Hydra 1.3
    remembered: dict[Any, DictConfig] = {}

    def load_or_copy(self: ConfigLoaderImpl, config_name: str, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        folders = tuple((element.provider, element.path) for element in self.config_search_path.get_path())
        if any("searchpath" in override for override in overrides):
            return load(self, config_name, overrides, *args, **kwargs)
        paths = [Path(path.removeprefix("file://")) for _, path in folders if path.startswith("file://")]
        files = [(file, file.stat()) for path in paths for file in sorted(path.glob("**/*.yaml"))]
        circumstances = (Path.cwd(), JobRuntime.instance().conf.get("name"), folders)  # part of the section hydra
        key = (config_name, *overrides, *args, *sorted(kwargs.items()), circumstances)
        key += tuple((file, state.st_mtime_ns, state.st_size) for file, state in files)
        if key not in remembered:
            remembered[key] = deepcopy(load(self, config_name, overrides, *args, **kwargs))
        return deepcopy(remembered[key])

    ConfigLoaderImpl._load_configuration_impl = load_or_copy


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    register_search_path()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides))


def compose(*overrides: str) -> DictConfig:
    """Return the configuration that these overrides compose to; the caller may change it."""
    return deepcopy(_composed(overrides))


@pytest.fixture(name="compose")
def compose_fixture() -> Callable[..., DictConfig]:
    return compose


@pytest.fixture
def build() -> Iterator[Callable[..., Experiment]]:
    """Yield a function that builds an experiment from overrides or a configuration; close the environments later."""
    from plexp.execution.experiment import build as build_experiment

    built: list[Experiment] = []

    def make(*overrides: Any) -> Experiment:
        config = overrides[0] if isinstance(overrides[0], DictConfig) else compose(*overrides)
        built.append(build_experiment(resolve(config)))
        return built[-1]

    yield make
    for experiment in built:
        experiment.training_env.close()


@pytest.fixture
def train() -> Callable[[Experiment, int], list[dict[str, float]]]:
    """Return a function that trains an experiment for a number of updates and returns the metrics of each."""
    from plexp.training.progress import TrainingProgress

    def updates(experiment: Experiment, number: int) -> list[dict[str, float]]:
        progress = TrainingProgress()
        return [dict(experiment.trainer.iterate(progress)) for _ in range(number)]

    return updates


TINY = {"env.num_envs": 2, "env.max_episode_steps": 12, "total_timesteps": 64, "net.width": 8}
SIZES = {"num_steps": 8, "num_minibatches": 2, "update_epochs": 2, "learning_starts": 16, "batch_size": 8}


@pytest.fixture
def small() -> Callable[..., DictConfig]:
    """Return a function that makes a configuration tiny and applies further changes to it (`__` for a dot)."""

    def shrink(config: DictConfig, **changes: Any) -> DictConfig:
        sizes = {f"algo.{name}": value for name, value in SIZES.items() if name in config.algo}
        for key, value in (TINY | sizes | {name.replace("__", "."): value for name, value in changes.items()}).items():
            OmegaConf.update(config, key, value)
        return config

    return shrink


@pytest.fixture
def learns(build: Callable[..., Experiment], train: Callable[..., Any]) -> Callable[[DictConfig], dict[str, Tensor]]:
    """Return a function that trains a configuration for two updates and returns the weights.

    It checks that the weights of the policy's head and of the critic have changed, and that all metrics are finite.
    """

    def weights(module: Any) -> dict[str, Tensor]:
        return {} if module is None else {name: each.detach().clone() for name, each in module.named_parameters()}

    def moved(config: DictConfig) -> dict[str, Tensor]:
        experiment = build(config)
        parts = {"policy_loss": experiment.agent.head.linear, "value_loss": experiment.agent.critic}
        before = {name: weights(part) for name, part in parts.items()}
        metrics = train(experiment, 2)
        assert {"entropy", "learning_rate"} <= metrics[-1].keys()
        assert all(math.isfinite(value) for row in metrics for value in row.values()), metrics
        for name, part in parts.items():
            assert (part is not None) == (name in metrics[-1])
            after = weights(part)
            assert not after or any(not after[key].equal(before[name][key]) for key in after)
        after = weights(experiment.agent)
        assert all(each.isfinite().all() for each in after.values())
        return after

    return moved


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the database file of a store without runs, for tests to copy."""
    from plexp.tracking.format import sqlite_uri
    from plexp.tracking.store import connect

    folder = tmp_path_factory.mktemp("empty")
    connect(sqlite_uri(folder / "mlflow.db"), folder)
    return folder / "mlflow.db"


@pytest.fixture
def other() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Yield a function that starts a process which holds a run's folder until it reads a line; kill all in the end."""
    from tests.support.builders import HOLDS  # with torch

    started: list[subprocess.Popen[str]] = []

    def start(path: Path, store: str = "https://there") -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLDS, str(path), store], env=environment, **pipes)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
