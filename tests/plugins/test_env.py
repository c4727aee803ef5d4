"""Tests of gymnasium environments: spaces, seeds, time limits, subprocesses, and those that cannot be made."""

from __future__ import annotations

import builtins
import multiprocessing
import re
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from omegaconf import DictConfig, open_dict
from plexp.plugins.env.gymnasium import GymnasiumEnvironment

from plexp.envs.seeding import EpisodeSeeds
from plexp.envs.vector import SerialVectorEnv, SubprocessVectorEnv
from plexp.errors import ConfigError

SETTINGS: dict[str, Any] = {
    "id": "plexp-tests/Counter-v0",
    "kwargs": {},
    "max_episode_steps": None,
    "num_envs": 3,
    "backend": "gymnasium",
    "vectorization": "sync",
    "step_timeout": None,
    "observed": None,
    "frame_stack": None,
    "action_mask": "auto",
    "normalize_observations": False,
    "scale_rewards": False,
    "solved_return": None,
}
SEEDS = EpisodeSeeds(0, (3,))


def environment(**changes: Any) -> GymnasiumEnvironment:
    return GymnasiumEnvironment(**{**SETTINGS, **changes})


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_ended_episodes_are_reset_in_the_same_step_each_with_its_own_seed(vectorization: str) -> None:
    env = environment(vectorization=vectorization).make(2, SEEDS)
    assert isinstance(env, SerialVectorEnv if vectorization == "sync" else SubprocessVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    alone = gymnasium.make(SETTINGS["id"])
    try:
        observations, _ = env.reset()
        starts: list[list[float]] = [[observations[i][0]] for i in range(2)]
        for _ in range(12):
            observations, _, terminated, truncated, info = env.step(np.zeros(2, np.int64))
            for i in np.flatnonzero(terminated | truncated):
                assert info["final_obs"][i][0] == starts[i][-1] and info["final_obs"][i][1] > 0
                starts[i].append(observations[i][0])
        for i in range(2):
            assert len(starts[i]) > 2
            assert starts[i] == [alone.reset(seed=SEEDS(i, k))[0][0] for k in range(len(starts[i]))]
    finally:
        env.close()


def test_rollouts_in_subprocesses_equal_those_in_this_process(build: Callable[..., Any]) -> None:
    rollouts = []
    for kind in ("sync", "async"):
        experiment = build("env=pendulum", "env.num_envs=2", f"env.vectorization={kind}", "algo.num_steps=8")
        rollouts.append(experiment.trainer.collector.collect())
    for name in ("observations", "actions", "rewards", "terminated", "last_observations"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name)), name


def test_the_time_limit_truncates_and_null_keeps_the_environments_own() -> None:
    for limit, expected in ((7, 7), (None, 200)):
        env = environment(id="Pendulum-v1", max_episode_steps=limit).make(1, SEEDS)
        env.reset()
        ends = [env.step(np.zeros((1, 1), np.float32))[2:4] for _ in range(expected)]
        assert [bool(truncated[0]) for _, truncated in ends] == [False] * (expected - 1) + [True]
        assert not any(terminated[0] for terminated, _ in ends)
        env.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_agent_sees_the_entries_that_it_is_to_see(vectorization: str) -> None:
    changes: dict[str, Any] = {"id": "CartPole-v1", "vectorization": vectorization}
    some, whole = (environment(observed=seen, **changes).make(2, SEEDS) for seen in ([2, 0], None))
    assert some.single_observation_space.shape == (2,)
    assert np.array_equal(some.single_observation_space.high, whole.single_observation_space.high[[2, 0]])
    try:
        rows = [env.reset()[0] for env in (some, whole)]
        for step in range(40):
            assert np.array_equal(rows[0], rows[1][:, [2, 0]])
            (seen, *outcome), (rows[1], *expected) = (env.step(np.array([step % 2, 1])) for env in (some, whole))
            rows[0] = seen
            assert np.array_equal(outcome[:3], expected[:3])
            for final in outcome[3].get("final_obs", []):
                assert final is None or final.shape == (2,)
    finally:
        some.close()
        whole.close()
    assert environment(observed=[0]).label == "plexp-tests-counter_partial"


def test_a_wrong_type_of_entries_is_said_in_words(build: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"env.observed=3: must be a valid list; give list of int ≥ 0 or null"):
        build("env.observed=3")


@pytest.mark.parametrize(
    ("observed", "changes", "cause"),
    [
        ([0, 3], {}, "env.observed=[0, 3]: the observations have 3 entries; give some of 0 to 2, each once"),
        ([1, 1], {}, "env.observed=[1, 1]: the observations have 3 entries; give some of 0 to 2, each once"),
        ([], {}, "env.observed=[]: the observations have 3 entries; give some of 0 to 2, each once"),
        ([0], {"id": "Taxi-v4"}, "env.observed=[0]: the observations are Discrete(500), no vector; leave it out"),
        (
            [0],
            {"id": "CartPole-v1", "backend": "envpool"},
            "env.observed=[0]: EnvPool's observations are used as they are; give env.backend=gymnasium",
        ),
    ],
)
def test_entries_that_cannot_be_seen_are_refused(observed: list[int], changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError) as raised:
        environment(observed=observed, **changes).make(1, SEEDS)
    assert str(raised.value) == cause


def test_further_arguments_reach_the_environment() -> None:
    env: Any = environment(id="LunarLander-v3", kwargs={"continuous": True, "gravity": -5.0}).make(1, SEEDS)
    assert env.single_action_space.shape == (2,)
    assert env.envs[0].unwrapped.gravity == -5.0
    env.close()


@pytest.mark.parametrize(
    ("id", "kwargs", "label"),
    [
        ("CartPole-v1", {}, "cartpole"),
        ("LunarLander-v3", {"continuous": True, "enable_wind": False, "gravity": -5}, "lunarlander_continuous"),
        ("some.module:some-space/Some Thing-v12", {}, "some-space-some-thing"),
        ("ALE/Pong", {}, "ale-pong"),
        ("迷宮-v0", {}, "迷宮"),
        ("module:игры/Лабиринт-v3", {"быстро": True}, "игры-лабиринт_быстро"),
        ("Übung-v0", {}, "bung"),
        ("123-v0", {}, "123"),
        ("...-v0", {}, "env"),
    ],
)
def test_the_label_is_short_and_plain(id: str, kwargs: dict[str, Any], label: str) -> None:
    assert environment(id=id, kwargs=kwargs).label == label


def test_a_module_that_registers_the_environment_is_imported() -> None:
    env = environment(id="tests.support.environments:plexp-tests/Chain-v0").make(1, SEEDS)
    assert env.reset()[0].tolist() == [[1, 0, 0, 0, 0]]
    env.close()


def test_a_limit_on_the_time_of_a_step_needs_a_subprocess() -> None:
    env: Any = environment(vectorization="async", step_timeout=7.5).make(1, SEEDS)
    assert env.step_timeout == 7.5
    env.close()
    for backend in ("gymnasium", "envpool"):
        with pytest.raises(ConfigError) as raised:
            environment(step_timeout=7.5, backend=backend).make(1, SEEDS)
        message = "env.step_timeout=7.5: only a process of its own can be left waiting; give env.vectorization=async"
        assert str(raised.value) == message


@pytest.mark.parametrize("value", [0, -1.0])
def test_a_limit_must_be_positive(value: float, build: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^env\.step_timeout={value}: must be greater than 0"):
        build("env.vectorization=async", f"env.step_timeout={value}")


FLAT = {"discrete": 3, "multidiscrete": 5, "multibinary": 4, "dict": 5, "tuple": 4}


@pytest.mark.parametrize("sees", FLAT)
def test_discrete_and_composite_observations_are_flattened_to_a_vector(sees: str) -> None:
    problem = environment(id="plexp-tests/Any2Any-v0", kwargs={"sees": sees, "acts": "discrete"})
    env = problem.make(2, SEEDS)
    observations, _ = env.reset()
    assert observations.shape == (2, FLAT[sees])
    if sees in ("discrete", "multidiscrete", "dict", "tuple"):
        hot = {"discrete": 1, "multidiscrete": 2, "dict": 1, "tuple": 1}[sees]
        assert ((observations == 1).sum(1) == hot).all(), "one-hot where discrete"
    env.close()


@pytest.mark.parametrize(
    ("id", "kwargs", "message"),
    [
        ("CartPoll-v1", {}, "env.id=CartPoll-v1: there is no such environment; did you mean CartPole-v1?"),
        (
            "Qqqqqqqqqq-v0",
            {},
            "env.id=Qqqqqqqqqq-v0: there is no such environment; see gymnasium.pprint_registry(), or",
        ),
        (
            "nospace/Thing-v0",
            {},
            "env.id=nospace/Thing-v0: there is no such environment; pip install the package that holds nospace/",
        ),
        ("no_module_x:Thing-v0", {}, "env.id=no_module_x:Thing-v0: the module no_module_x is missing; pip install"),
        ("CartPole-v1", {"colour": 1}, "env.id=CartPole-v1: cannot be made: TypeError: CartPoleEnv.__init__() got"),
        (
            "plexp-tests/Faulty-v0",
            {"fault": "constructor"},
            "env.id=plexp-tests/Faulty-v0: cannot be made: OSError: no such device",
        ),
    ],
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_cannot_be_made_is_refused_in_one_line(
    id: str, kwargs: Any, message: str, vectorization: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        environment(id=id, kwargs=kwargs, vectorization=vectorization).make(2, SEEDS)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


class Asserts(gymnasium.Env[Any, Any]):
    """Environment whose constructor fails as `kind` says, without a text."""

    def __init__(self, kind: str = "assert", size: int = 1, render_mode: str | None = None) -> None:
        if kind == "not implemented":
            raise NotImplementedError
        if kind == "library":
            np.linalg.inv(np.zeros((2, 2)))
        if kind == "worker" and multiprocessing.current_process().name != "MainProcess":
            raise OSError("no port")
        if kind == "exit":
            raise SystemExit(3)
        assert kind in ("worker", "spaces") or size > 2
        width = Asserts.widths.pop() if kind == "spaces" else 2
        self.observation_space, self.action_space = spaces.Box(-1, 1, (width,)), spaces.Discrete(2)

    widths: ClassVar = [3, 2, 3, 2]


class Takes(gymnasium.Env[Any, Any]):
    """Environment that takes a table with keys of two types, and empties it."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, table: dict[Any, Any]) -> None:
        assert table == {0: [1], "0": [2]}
        table[0].clear()
        table.clear()


gymnasium.register("plexp-tests/Asserts-v0", Asserts)
gymnasium.register("plexp-tests/Takes-v0", Takes)
WITHOUT_TEXT = {
    "not implemented": "NotImplementedError: raise NotImplementedError (test_env.py:LINE)",
    "library": "LinAlgError: Singular matrix (test_env.py:LINE)",
    "exit": "SystemExit: 3 (test_env.py:LINE)",
}


@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_a_fault_of_a_constructor_has_the_authors_file_and_line(kind: str) -> None:
    with pytest.raises(ConfigError) as raised:
        environment(id="plexp-tests/Asserts-v0", kwargs={"kind": kind}).make(1, SEEDS)
    text = re.sub(r"\.py:\d+", ".py:LINE", str(raised.value))
    assert text == f"env.id=plexp-tests/Asserts-v0: cannot be made: {WITHOUT_TEXT[kind]}; see env.kwargs"


def test_an_assertion_without_a_text_in_a_constructor_has_its_line_of_source() -> None:
    with pytest.raises(
        ConfigError, match=r": cannot be made: AssertionError: assert fault \(odd_returns\.py:\d+\); see"
    ):
        environment(id="tests.support.odd_returns:plexp-tests/Odd-v0", kwargs={"fault": ""}).make(1, SEEDS)


def test_an_unknown_argument_is_refused_with_the_signature_of_the_constructor() -> None:
    with pytest.raises(ConfigError) as raised:
        environment(id="plexp-tests/Asserts-v0", kwargs={"sze": 3}).make(1, SEEDS)
    assert str(raised.value) == (
        "env.id=plexp-tests/Asserts-v0: cannot be made: TypeError: Asserts.__init__() got an unexpected keyword argument "
        "'sze'; it takes (kind: 'str' = 'assert', size: 'int' = 1, render_mode: 'str | None' = None) -> 'None'"
    )


def test_a_constructor_that_fails_in_its_process_only_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"cannot be made: OSError: no port \(test_env\.py:\d+\); see env\.kwargs$"):
        environment(id="plexp-tests/Asserts-v0", kwargs={"kind": "worker"}, vectorization="async").make(2, SEEDS)
    assert capfd.readouterr().err == ""


def test_environments_with_different_spaces_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^env: its environments have different spaces; let each have the same"):
        environment(id="plexp-tests/Asserts-v0", kwargs={"kind": "spaces"}).make(2, SEEDS)


def test_an_environment_cannot_change_the_arguments_of_the_next() -> None:
    problem = environment(id="plexp-tests/Takes-v0", kwargs={"table": {0: [1], "0": [2]}})
    problem.make(2, SEEDS).close()
    assert problem.kwargs == {"table": {0: [1], "0": [2]}}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without_box2d(name: str, *rest: Any) -> Any:
        if name.startswith("Box2D"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *rest)

    for module in [m for m in __import__("sys").modules if m.startswith(("Box2D", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(__import__("sys").modules, module)
    monkeypatch.setattr(builtins, "__import__", without_box2d)
    with pytest.raises(ConfigError, match=r"^env.id=LunarLander-v3: a package is missing; .*gymnasium\[box2d\]"):
        environment(id="LunarLander-v3").make(1, SEEDS)


RAW = {"env__normalize_observations": False}
SEEN = ["matrix", "doubles", "integers", "bytes", *FLAT]
TYPED = ("halves", "unbounded halves", "few integers", "discrete of 32 bits", "multidiscrete of 32 bits")
PROBLEMS: list[tuple[str, str, str, dict[str, Any]]] = [
    *((sees, "discrete", "mlp", {}) for sees in SEEN),
    *((sees, "box", "mlp", RAW) for sees in ("bytes", "integers", "image")),
    *(("box", acts, "mlp", {}) for acts in ("multidiscrete", "multibinary", "matrix", "doubles", "unbounded", *TYPED)),
    *(("box", acts, "mlp", {"policy__bounds": "tanh"}) for acts in ("matrix", "doubles", "halves")),
    *((sees, "discrete", "cnn", RAW) for sees in ("image", "channels first")),
]


@pytest.mark.parametrize("advantage", ["gae", "q"])
@pytest.mark.parametrize(("sees", "acts", "net", "changes"), PROBLEMS, ids=str)
def test_training_works_in_every_space_or_is_refused(
    sees: str,
    acts: str,
    net: str,
    changes: dict[str, Any],
    advantage: str,
    build: Callable[..., Any],
    compose: Callable[..., DictConfig],
    small: Callable[..., DictConfig],
    learns: Callable[[DictConfig], Any],
) -> None:
    config = small(compose(f"net={net}", f"advantage={advantage}"), env__id="plexp-tests/Any2Any-v0", **changes)
    with open_dict(config):
        config.env.kwargs = {"sees": sees, "acts": acts}
    if advantage == "q" and acts != "discrete" and sees == "image":
        with pytest.raises(ConfigError, match="its trunk can be neither shared nor for images"):
            build(config)
    else:
        learns(config)
