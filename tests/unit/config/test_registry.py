"""Tests of the registry: it finds plugins, and checks values against their signatures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Interval, Lt

import plexp
from plexp.config import registry
from plexp.config.fields import Fraction, PositiveFloat, PositiveInt, UnitInterval
from plexp.errors import ConfigError

TYPES: dict[str, Any] = {
    "steps": PositiveInt,
    "rate": PositiveFloat,
    "share": UnitInterval,
    "mode": Literal["fast", "slow"],
    "limit": PositiveInt | None,
    "flag": bool,
}
VALID: dict[str, Any] = {"steps": 3, "rate": 1, "share": 0.5, "mode": "fast", "limit": None, "flag": False}
PLUGIN = 'from plexp.config.registry import register\n\n\n@register("algo", "{name}")\nclass Mine:\n    """Mine."""\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a further `plugins/algo` on plexp's path."""
    own = tmp_path / "plugins" / "algo"
    own.mkdir(parents=True)
    plexp.__path__.append(str(tmp_path))
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    yield own
    plexp.__path__.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("plexp.plugins.algo.own_")]:
        del sys.modules[name]


def test_plugins_in_further_folders_are_found(folder: Path) -> None:
    (folder / "own_good.py").write_text(PLUGIN.format(name="own_good"))
    assert {"own_good", "ppo", "a2c"} <= set(registry.names("algo"))
    cls = registry.find("algo", "own_good")
    assert (cls.__name__, cls.__module__) == ("Mine", "plexp.plugins.algo.own_good")


def test_a_broken_plugin_stops_only_the_runs_that_use_it(folder: Path) -> None:
    (folder / "own_broken.py").write_text("import a_package_that_is_not_there\n")
    (folder / "own_other.py").write_text(PLUGIN.format(name="own_other"))
    assert "own_broken" in registry.names("algo")
    registry.find("algo", "own_other")
    with pytest.raises(ConfigError) as raised:
        registry.find("algo", "own_broken")
    message = str(raised.value)
    assert message.startswith(
        "algo.plugin=own_broken: plugins/algo/own_broken.py does not import (ModuleNotFoundError: "
    )
    assert "a_package_that_is_not_there" in message and "\n" not in message


def test_an_import_error_of_several_lines_is_reported_in_one(folder: Path) -> None:
    (folder / "own_lines.py").write_text("raise RuntimeError('first line\\nsecond line')\n")
    with pytest.raises(ConfigError) as raised:
        registry.find("algo", "own_lines")
    assert "\n" not in str(raised.value)


def test_a_file_that_registers_nothing_by_its_name_is_refused(folder: Path) -> None:
    (folder / "own_silent.py").write_text(PLUGIN.format(name="own_elsewhere"))
    with pytest.raises(ConfigError, match=r"registers nothing by that name; put @register\(\"algo\", \"own_silent\"\)"):
        registry.find("algo", "own_silent")


def test_two_files_cannot_register_one_name() -> None:
    class PPO:
        """Algorithm whose name is taken."""

    registry.find("algo", "ppo")
    with pytest.raises(ValueError, match=r"algo=ppo is registered twice: in plexp.plugins.algo.ppo and in "):
        registry.register("algo", "ppo")(PPO)
    assert registry.find("algo", "ppo").__module__ == "plexp.plugins.algo.ppo"


def test_registering_in_an_unknown_group_raises() -> None:
    with pytest.raises(ValueError, match="there are the groups algo, advantage, net, env"):
        registry.register("algos", "ppo")


@pytest.mark.parametrize(
    "name", ["../x", "os", "algo.ppo", "PPO", "ppo ", "__init__", "", "ppo.py", "/etc/passwd", None, 5]
)
def test_a_name_that_is_not_a_file_of_the_group_is_refused(name: object) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError) as raised:
        registry.find("algo", name)
    (problem,) = raised.value.problems
    assert (problem.key, problem.value, problem.cause) == ("algo.plugin", name, "there is no such plugin")
    assert str(problem).count("\n") == 0
    assert set(sys.modules) == before, "nothing is imported for it"


def test_a_misspelt_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean reinforce"):
        registry.find("algo", "reinforse")


def test_listing_the_plugins_imports_none_of_them() -> None:
    code = (
        "import sys; from plexp.config import registry; n = registry.names('algo');"
        "print(n, [m for m in sys.modules if m.startswith('plexp.plugins') or m == 'torch'])"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'ppo'" in listed and listed.strip().endswith("[]")


def test_parameters_are_keyword_only_and_include_those_of_the_learner() -> None:
    class Helper:
        configured_with_owner = True

        def __init__(self, wired: int, *, rate: PositiveFloat) -> None: ...

    class Plugin:
        def __init__(self, agent: object, helper: Helper, *, steps: PositiveInt) -> None: ...

    Plugin.__init__.__annotations__ = {"agent": object, "helper": Helper, "steps": PositiveInt}
    Helper.__init__.__annotations__ = {"wired": int, "rate": PositiveFloat}
    assert registry.parameters(Plugin) == {"steps": PositiveInt, "rate": PositiveFloat}
    assert list(registry.own_parameters(Plugin)) == ["steps"]
    ppo = registry.parameters(registry.find("algo", "ppo"))
    assert {"clip_eps", "update_epochs", "learning_rate", "ent_coef"} <= ppo.keys()
    assert not {"agent", "learner", "advantage", "rng", "self"} & ppo.keys()


def test_correct_values_have_no_problems() -> None:
    assert registry.check("Plugin", "algo", TYPES, VALID) == []
    assert registry.check("Plugin", "algo", TYPES, VALID | {"limit": 4, "rate": 0.1}) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "algo.steps=0: must be greater than 0; give int > 0"),
        ("steps", 2.5, "algo.steps=2.5: must be a valid integer; give int > 0"),
        ("steps", True, "algo.steps=True: must be a valid integer; give int > 0"),
        ("steps", "3", "algo.steps=3: must be a valid integer; give int > 0"),
        ("steps", None, "algo.steps=null: must be a valid integer; give int > 0"),
        ("steps", [1, 2], "algo.steps=[1, 2]: must be a valid integer; give int > 0"),
        ("rate", -1.0, "algo.rate=-1.0: must be greater than 0; give float > 0"),
        ("rate", "1e-3x", "algo.rate=1e-3x: must be a valid number; give float > 0"),
        ("share", 1.5, "algo.share=1.5: must be less than or equal to 1; give float ≥ 0 and ≤ 1"),
        ("mode", "fsat", "algo.mode=fsat: must be 'fast' or 'slow'; give one of fast, slow"),
        ("limit", 0, "algo.limit=0: must be greater than 0; give int > 0 or null"),
        ("flag", "yes", "algo.flag=yes: must be a valid boolean; give bool"),
        ("flag", 1, "algo.flag=1: must be a valid boolean; give bool"),
    ],
)
def test_a_wrong_value_is_reported_with_key_value_cause_and_remedy(name: str, value: object, message: str) -> None:
    (problem,) = registry.check("Plugin", "algo", TYPES, VALID | {name: value})
    assert str(problem) == message


@pytest.mark.parametrize("kind", [PositiveFloat, UnitInterval, Fraction, float, float | None, PositiveFloat | None])
def test_nan_is_refused_by_every_type_of_number(kind: Any) -> None:
    (problem,) = registry.check("Plugin", "algo", {"rate": kind}, {"rate": float("nan")})
    assert problem.key == "algo.rate"


def test_all_problems_are_reported_at_once() -> None:
    values = VALID | {"steps": 0, "mode": "none", "stesp": 4}
    del values["flag"]
    problems = {problem.key: str(problem) for problem in registry.check("Plugin", "algo", TYPES, values)}
    assert problems.keys() == {"algo.steps", "algo.mode", "algo.stesp", "algo.flag"}
    assert problems["algo.stesp"] == "algo.stesp: Plugin has no such parameter; did you mean steps?"
    assert problems["algo.flag"] == "algo.flag: has no value; give bool"


def test_at_the_root_keys_have_no_prefix() -> None:
    (problem,) = registry.check("plexp", "", {"seed": int}, {"seed": "x"})
    assert problem.key == "seed"


def test_a_parameter_that_a_plugin_cannot_use_is_refused_with_the_reason() -> None:
    (problem,) = registry.check("A2C", "algo", TYPES, VALID | {"clip": 0.2}, {"clip": "it has no ratio; use algo=ppo"})
    assert str(problem) == "algo.clip=0.2: A2C cannot use it; it has no ratio; use algo=ppo"


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (bool, "bool"),
        (PositiveInt, "int > 0"),
        (PositiveFloat | None, "float > 0 or null"),
        (UnitInterval, "float ≥ 0 and ≤ 1"),
        (Fraction, "float > 0 and < 1"),
        (Annotated[int, Ge(2), Lt(10)], "int ≥ 2 and < 10"),
        (Annotated[float, Interval(gt=0, lt=1)], "float > 0 and < 1"),
        (Literal["a", "b"], "one of a, b"),
        (dict[str, Any], "dict[str, Any]"),
        (list[int] | None, "list of int or null"),
    ],
)
def test_types_are_described_in_words(annotation: Any, text: str) -> None:
    assert registry.describe_type(annotation) == text


def test_a_config_of_another_plugin_is_one_problem() -> None:
    (problem,) = registry.check(
        "A2C", "algo", TYPES, VALID | {"clip": 1, "epochs": 2, "kl": 3}, {"clip": "use algo=ppo"}
    )
    assert str(problem).startswith("algo: A2C has no parameters clip, epochs, kl; choose a whole config")


def test_an_integer_that_no_library_can_hold_is_refused() -> None:
    (problem,) = registry.check("plexp", "", {"steps": int}, {"steps": 2**63})
    assert str(problem) == "steps=9223372036854775808: must be at most 9223372036854775807; give int"
    assert registry.check("plexp", "", {"steps": int, "reward": float}, {"steps": 2**63 - 1, "reward": 2**70}) == []
