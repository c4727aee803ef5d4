"""Tests of what environments may return: what cannot be used is named in one line, what is harmless is used."""

from __future__ import annotations

import re
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing

from plexp.envs.faults import DeclaredBounds
from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.errors import ConfigError, EnvironmentFault
from plexp.execution.experiment import Experiment
from plexp.training.evaluation import StepLimit, evaluate
from tests.support.odd_returns import HARMLESS, OBSERVATIONS, RESETS, STEPS

SAID = {
    **{f"observation {name}": f"returned from step {said}" for name, (_, _, said) in OBSERVATIONS.items()},
    **{f"step {name}": f"returned from step {said}" for name, (_, said) in STEPS.items()},
    **{f"reset {name}": f"returned from reset {said}" for name, (_, said) in RESETS.items()},
    "raise key": "raised KeyError in step: 'x' (odd_returns.py:LINE)",
    "raise assert": "raised AssertionError in step: assert self.time < 0 (odd_returns.py:LINE)",
    "raise exit": "raised SystemExit in step: raise SystemExit (odd_returns.py:LINE)",
    "raise inside a library": "raised LinAlgError in step: Singular matrix (odd_returns.py:LINE)",
}
ASYNC = ("observation key", "observation 300", "step four", "step rewards", "step nan", "reset old pair", "raise key")
"""Faults that are tried in subprocesses too, of each kind that takes another way."""
MANY = spaces.Box(-1, 1, (180,), np.float32)


def odd(build: Any, fault: str, vectorization: str = "sync") -> Experiment:
    sizes = ("env.num_envs=2", "algo.num_steps=8", "algo.num_minibatches=1", f"env.vectorization={vectorization}")
    made: Experiment = build(
        "env=gymnasium", "env.id=tests.support.odd_returns:plexp-tests/Odd-v0", f"env.kwargs.fault='{fault}'", *sizes
    )
    return made


def plain(fault: EnvironmentFault) -> str:
    """Return the text of a fault without the number of a line."""
    return re.sub(r"\.py:\d+", ".py:LINE", str(fault))


@pytest.mark.parametrize("fault", SAID)
def test_a_fault_says_which_method_returned_what_and_what_was_expected(fault: str, build: Any) -> None:
    with odd(build, fault) as experiment:
        with pytest.raises(EnvironmentFault) as training:
            experiment.trainer.collector.collect()
        with pytest.raises(EnvironmentFault) as evaluating:
            evaluate(experiment.agent, experiment.environment, EpisodeSeeds(0, (9,)), 4, limit=StepLimit(None))
    assert plain(training.value) == plain(evaluating.value) == f"environment 0 {SAID[fault]}"
    for raised in (training, evaluating):
        episode: Any = raised.value.episode
        number = (1, 0) if fault.startswith("reset") else (0, 3)
        assert (episode["episode"], len(episode["actions"])) == number


@pytest.mark.parametrize("fault", ASYNC)
def test_a_fault_in_a_subprocess_has_the_same_text(fault: str, build: Any) -> None:
    with odd(build, fault, "async") as experiment, pytest.raises(EnvironmentFault) as raised:
        experiment.trainer.collector.collect()
    assert re.fullmatch(rf"environment [01] {re.escape(SAID[fault])}", plain(raised.value))
    assert raised.value.episode is not None


@pytest.mark.parametrize("name", HARMLESS)
def test_what_can_be_understood_without_a_loss_is_used(name: str, build: Any) -> None:
    with odd(build, f"harmless {name}") as experiment, warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout = experiment.trainer.collector.collect()
    observation, reward, terminated, truncated, _ = HARMLESS[name][1]
    seen = rollout.observations[3, 0]
    space = HARMLESS[name][0]
    if not isinstance(space, spaces.Box):
        usual = {"mode": 1, "position": np.array([0, 1])} if isinstance(space, spaces.Dict) else 3
        observation = spaces.flatten(space, usual)
    assert np.array_equal(seen, np.asarray(observation, np.float32)) and rollout.observations.dtype == torch.float32
    assert rollout.rewards.dtype == torch.float32 and bool(reward) and not terminated and not truncated
    assert not rollout.terminated[2].any() and not rollout.truncated[2].any()


@pytest.mark.parametrize("name", ["reward of one", "array of bool", "float64"])
def test_what_is_harmless_is_used_in_a_subprocess_too(name: str, build: Any) -> None:
    with odd(build, f"harmless {name}") as serial, odd(build, f"harmless {name}", "async") as apart:
        one, two = serial.trainer.collector.collect(), apart.trainer.collector.collect()
    for key, value in one.given().items():
        assert torch.equal(value, getattr(two, key)), key


class Plain(gymnasium.Env[Any, Any]):
    """Environment without a fault over one observation space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any) -> None:
        if space is not None:
            self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}


OTHERS = {"position": spaces.Box(-1, 1, (2,)), "mode": spaces.Discrete(3)}
TEXT, GRAPH = spaces.Text(5), spaces.Graph(spaces.Box(-1, 1, (2,)), None)
CHOICE = spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (2,))])


class Mission(spaces.Space[str]):
    """Space of its author's own, which does not say whether it flattens, as minigrid's."""


FILTER = "gymnasium.wrappers.FilterObservation(env, ['mode', 'position'])"
PARTS: list[tuple[spaces.Space[Any], str, str]] = [
    (TEXT, "observation is a Text", "TransformObservation"),
    (spaces.Sequence(spaces.Discrete(2)), "observation is a Sequence", "TransformObservation"),
    (GRAPH, "observation is a Graph", "TransformObservation"),
    (CHOICE, "observation is a OneOf", "TransformObservation"),
    (Mission(), "observation is a Mission", "TransformObservation"),
    (spaces.Dict({**OTHERS, "mission": Mission()}), "observation['mission'] is a Mission", FILTER),
    (spaces.Dict({**OTHERS, "word": TEXT}), "observation['word'] is a Text", FILTER),
    (spaces.Dict(a=spaces.Dict(b=GRAPH)), "observation['a']['b'] is a Graph", "TransformObservation"),
    (spaces.Tuple((spaces.Discrete(2), TEXT)), "observation[1] is a Text", "TransformObservation"),
    (spaces.Tuple((spaces.Dict(x=CHOICE),)), "observation[0]['x'] is a OneOf", "TransformObservation"),
]


@pytest.mark.parametrize(("space", "part", "wrapper"), PARTS, ids=[part for _, part, _ in PARTS])
def test_an_observation_that_no_network_reads_is_named_with_a_wrapper(
    space: spaces.Space[Any], part: str, wrapper: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        SeededEpisodes(Plain(space), 0, EpisodeSeeds(0, (3,)))
    text = str(raised.value)
    assert text.startswith(f"env=Plain: its {part}, which has no fixed number of entries; wrap it into Box, Discrete")
    assert wrapper in text and text.endswith("and give env.id=module:Name-v0") and "\n" not in text


@pytest.mark.parametrize(
    ("space", "said"),
    [(None, "its observation_space is missing"), ((3,), "its observation_space is a builtins.tuple")],
)
def test_an_environment_without_its_spaces_is_refused(space: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^env=Plain: {said}; set self.observation_space"):
        SeededEpisodes(Plain(space), 0, EpisodeSeeds(0, (3,)))


def test_a_single_number_is_an_observation_of_one_entry() -> None:
    env = SeededEpisodes(Plain(spaces.Box(-1, 1, ())), 0, EpisodeSeeds(0, (3,)))
    assert env.observation_space.shape == (1,) and env.reset()[0].shape == (1,)


def test_the_check_takes_the_place_of_the_check_of_the_order() -> None:
    env: Any = SeededEpisodes(gymnasium.make("CartPole-v1"), 0, EpisodeSeeds(0, (3,)))
    names = []
    while isinstance(env, gymnasium.Wrapper):
        assert not isinstance(env, OrderEnforcing)
        names.append(type(env).__name__)
        env = env.env
    assert names == ["SeededEpisodes", "TimeLimit", "CheckedEnv"]


def rows(*entries: tuple[int, float]) -> np.ndarray:
    observation = np.zeros((1, 180), np.float32)
    for index, value in entries:
        observation[0, index] = value
    return observation


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(7, 1.5)], "entry [7], by up to 0.5 ([7] = 1.5, bounds [-1, 1])"),
        ([(0, -3), (9, 2)], "2 of 180 entries [0], [9], by up to 2 ([0] = -3, bounds [-1, 1])"),
        (
            [(i, 1 + i) for i in range(1, 180)],
            "179 of 180 entries [1], [2], [3], [4], [5], …, by up to 179 ([179] = 180, bounds [-1, 1])",
        ),
    ],
)
def test_the_warning_names_entries_bounds_and_distance_and_is_short(
    entries: list[tuple[int, float]], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = DeclaredBounds(MANY, "bird")
    for _ in range(3):
        bounds.look(rows(*entries))
    bounds.look(rows())
    bounds.report()
    first, last = (record.getMessage() for record in caplog.records)
    assert first == f"bird: observations leave their declared bounds, and are used as they are: {said}"
    assert last == "bird: 3 of 4 observations (75 %) left their declared bounds" and len(first) < 200


@pytest.mark.parametrize(
    ("space", "outside"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), None),
        (spaces.Box(0, 255, (2, 2, 3), np.uint8), None),
        (spaces.Box(0, 100, (2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 101, np.uint8)),
        (spaces.Box(-np.inf, np.pi, (2,), np.float64), np.full((1, 2), 3.15, np.float32)),
        (spaces.Box(0, 5, (2,), np.int64), np.full((1, 2), 6, np.float32)),
    ],
)
def test_bounds_are_compared_in_the_type_of_the_observations(space: spaces.Box, outside: Any) -> None:
    bounds = DeclaredBounds(space, "any")
    kind = np.uint8 if space.dtype == np.uint8 else np.float32
    bounds.look(np.stack([np.clip(space.low, -1e3, 1e3), np.clip(space.high, -1e3, 1e3)]).astype(kind))
    assert bounds.outside == 0 and bounds.is_bounded == (outside is not None)
    if outside is not None:
        bounds.look(outside)
        assert bounds.outside == 1
