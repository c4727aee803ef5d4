"""Tests of identities: two commands have the same one if they compute the same."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from plexp.config import identity as module
from plexp.config import registry
from plexp.config.identity import identity, sweep_identity
from plexp.execution.state import state_folder

Compose = Callable[..., Any]


def resolved(compose: Compose, *overrides: str) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(compose(*overrides), resolve=True)
    return values


def leaves(values: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        paths += leaves(value, (*prefix, key)) if inner else [(*prefix, key)]
    return paths


def changed(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    other = deepcopy(values)
    place = other
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return other


def test_an_identity_is_short_and_does_not_depend_on_the_order_of_keys(compose: Compose) -> None:
    values = resolved(compose)
    assert re.fullmatch(r"[0-9a-f]{16}", identity(values))
    assert identity(values) == identity(resolved(compose))
    backwards = {key: values[key] for key in reversed(values)}
    backwards["algo"] = {key: values["algo"][key] for key in reversed(values["algo"])}
    assert identity(backwards) == identity(values)
    assert identity(resolved(compose, "algo=ppo", "env=cartpole", "seed=0")) == identity(values)


IGNORED = [
    *("outputs=elsewhere", "resume=never", "rerun=true", "objective=speed/auc", "checkpoint.every=1"),
    *("checkpoint.every=null", "tracker.uri='http://there'", "tracker.experiment=mine", "tracker.every=7"),
    "tracker.log_model=false",
]


@pytest.mark.parametrize("override", IGNORED)
def test_where_a_run_is_recorded_does_not_change_its_identity(override: str, compose: Compose) -> None:
    values, other = resolved(compose), resolved(compose, override)
    assert values != other and identity(values) == identity(other)


@pytest.mark.parametrize(
    "overrides", [(), ("algo=a2c", "advantage=vtrace", "env=lunarlander", "net@critic_net=mlp")], ids=str
)
def test_every_other_key_changes_the_identity(overrides: tuple[str, ...], compose: Compose) -> None:
    values = resolved(compose, *overrides)
    ignored = {"outputs", "tracker", "checkpoint", "resume", "rerun", "objective"}
    paths = [path for path in leaves(values) if path[0] not in ignored]
    assert len(paths) > 50 and ignored < set(values)
    identities = {identity(changed(values, path, "another")) for path in paths}
    assert len({identity(values), *identities}) == len(paths) + 1


def test_different_configurations_have_different_identities(compose: Compose) -> None:
    overrides = [(), *((f"seed={n}",) for n in range(1, 6)), ("algo=a2c",), ("algo=a2c", "seed=1"), ("env=pendulum",)]
    overrides += [("net.width=32",), ("net@critic_net=mlp",), ("+env.kwargs.gravity=1",), ("+env.kwargs.gravity=1.0",)]
    assert len({identity(resolved(compose, *line)) for line in overrides}) == len(overrides)


def test_another_version_of_plexp_changes_the_identity(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(resolved(compose)), sweep_identity(["seed=1"])
    monkeypatch.setattr(module, "__version__", "999.0")
    assert identity(resolved(compose)) != before[0] and sweep_identity(["seed=1"]) != before[1]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy all plugins into a folder where the test may change them, and return it."""
    usual = registry.folders
    root = tmp_path / "plugins"
    for group in registry.GROUPS:
        for folder in usual(group):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(folder, root / group, ignore=ignored, dirs_exist_ok=True)
    monkeypatch.setattr(registry, "folders", lambda group: [root / group])
    return root


def edit(file: Path, change: Callable[[str], str]) -> None:
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before


USED = ("algo/ppo.py", "advantage/gae.py", "net/mlp.py", "env/gymnasium.py")


def test_the_folder_of_the_plugins_does_not_change_the_identity(
    compose: Compose, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(resolved(compose))
    request.getfixturevalue("plugins")
    assert identity(resolved(compose)) == before


@pytest.mark.parametrize("file", USED)
def test_the_code_of_a_plugin_in_use_changes_the_identity(file: str, plugins: Path, compose: Compose) -> None:
    before = identity(resolved(compose))
    edit(plugins / file, lambda text: f"{text}\nNEW = 1\n")
    one = identity(resolved(compose))
    edit(plugins / file, lambda text: text.replace("NEW = 1", "NEW = 2"))
    assert len({before, one, identity(resolved(compose))}) == 3
    (plugins / file).unlink()
    assert identity(resolved(compose)) not in (before, one)


@pytest.mark.parametrize("file", USED)
def test_comments_and_layout_of_a_plugin_do_not_change_the_identity(file: str, plugins: Path, compose: Compose) -> None:
    before = identity(resolved(compose))
    edit(plugins / file, lambda text: f"# a remark\n\n\n{text}\n# another\n")
    assert identity(resolved(compose)) == before
    edit(plugins / file, lambda text: ast.unparse(ast.parse(text)))
    assert identity(resolved(compose)) == before


@pytest.mark.parametrize("file", ["algo/a2c.py", "advantage/td.py", "net/cnn.py"])
def test_the_code_of_other_plugins_does_not_change_the_identity(file: str, plugins: Path, compose: Compose) -> None:
    before = identity(resolved(compose))
    edit(plugins / file, lambda text: f"{text}\nNEW = 1\n")
    assert identity(resolved(compose)) == before


def test_the_code_of_the_critics_own_network_changes_the_identity(plugins: Path, compose: Compose) -> None:
    before = identity(resolved(compose)), identity(resolved(compose, "net@critic_net=cnn"))
    edit(plugins / "net" / "cnn.py", lambda text: f"{text}\nNEW = 1\n")
    assert identity(resolved(compose)) == before[0]
    assert identity(resolved(compose, "net@critic_net=cnn")) != before[1]


@pytest.mark.parametrize("file", ["net/cnn.py", "net/mlp.py"])
def test_the_code_of_a_plugin_that_another_imports_changes_the_identity(
    file: str, plugins: Path, compose: Compose
) -> None:
    before = identity(resolved(compose, "net=multi"))
    edit(plugins / file, lambda text: f"{text}\nNEW = 1\n")
    assert identity(resolved(compose, "net=multi")) != before


def test_two_plugins_that_import_each_other_have_an_identity(plugins: Path, compose: Compose) -> None:
    for one, other in (("mlp", "cnn"), ("cnn", "mlp")):
        edit(plugins / "net" / f"{one}.py", lambda text, other=other: f"import plexp.plugins.net.{other}\n{text}")
    before = identity(resolved(compose))
    edit(plugins / "net" / "cnn.py", lambda text: f"{text}\nNEW = 1\n")
    assert identity(resolved(compose)) != before


def test_a_plugin_with_a_syntax_error_has_an_identity_too(plugins: Path, compose: Compose) -> None:
    identities = []
    for text in ("def broken(:", "def broken(::", "# broken\ndef broken(:"):
        (plugins / "algo" / "ppo.py").write_text(text)
        identities.append(identity(resolved(compose)))
    assert len(set(identities)) == 3


def test_a_sweep_is_identified_by_its_arguments_and_all_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    (conf / "algo").mkdir(parents=True)
    (conf / "algo" / "x.yaml").write_text(yaml.safe_dump({"a": 1}))
    monkeypatch.setattr(module, "conf_folders", lambda: [conf])
    before = sweep_identity(["-m", "seed=1,2"])
    assert re.fullmatch(r"[0-9a-f]{16}", before) and sweep_identity(["-m", "seed=1,2"]) == before
    others = [
        sweep_identity(arguments) for arguments in (["seed=1,2", "-m"], ["-m", "seed=1,2,3"], ["-m seed=1,2"], [])
    ]
    (conf / "algo" / "x.yaml").write_text(yaml.safe_dump({"a": 2}))
    others.append(sweep_identity(["-m", "seed=1,2"]))
    assert len({before, *others}) == 6


def test_the_state_of_runs_is_in_their_outputs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_folder("outputs") == tmp_path / "outputs" / "state" == state_folder(tmp_path / "outputs")
