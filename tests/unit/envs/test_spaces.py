"""Tests of spaces: supported ones give a policy whose actions lie in them, others are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from plexp.envs.spaces import action_distribution, described, is_image, observation_shape
from plexp.errors import ConfigError
from plexp.nn.distributions import Bernoulli, Categorical, DiagonalGaussian, MultiCategorical, SquashedGaussian

BOX = spaces.Box(np.array([[-2.0, 0.1]], np.float32), np.array([[2.0, 0.3]], np.float32))
SUPPORTED: list[tuple[spaces.Space[Any], Any, type]] = [
    (spaces.Discrete(4), "clip", Categorical),
    (spaces.Discrete(3, start=-1), "tanh", Categorical),
    (spaces.MultiDiscrete([2, 5]), "clip", MultiCategorical),
    (spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [2, -3]])), "clip", MultiCategorical),
    (spaces.MultiBinary(3), "clip", Bernoulli),
    (spaces.MultiBinary([2, 2]), "tanh", Bernoulli),
    (BOX, "clip", DiagonalGaussian),
    (BOX, "tanh", SquashedGaussian),
    (spaces.Box(-np.inf, np.inf, (2,)), "clip", DiagonalGaussian),
    (spaces.Box(-1.0, 1.0, (), np.float64), "clip", DiagonalGaussian),
    (spaces.Box(-0.1, 0.1, (2,), np.float64), "tanh", SquashedGaussian),
    (spaces.Box(-0.1, 0.3, (2,), np.float16), "clip", DiagonalGaussian),
    (spaces.Box(1000, 1003, (2,), np.float16), "tanh", SquashedGaussian),
    (spaces.Box(-np.inf, np.inf, (2,), np.float16), "clip", DiagonalGaussian),
    (spaces.Box(0, 5, (2,), np.int64), "clip", MultiCategorical),
    (spaces.Box(np.array([[-3, 7]]), np.array([[-1, 7]]), dtype=np.int16), "tanh", MultiCategorical),
    (spaces.Box(0, 255, (4,), np.uint8), "clip", MultiCategorical),
    (spaces.Box(0, 9, (), np.uint16), "clip", MultiCategorical),
    (spaces.Discrete(3, start=-1, dtype=np.int32), "clip", Categorical),
    (spaces.MultiDiscrete([2, 5], np.int32, start=[3, -3]), "clip", MultiCategorical),
]


@pytest.mark.parametrize(("space", "bounds", "kind"), SUPPORTED, ids=lambda x: str(x).replace("\n", ""))
def test_sampled_and_greedy_actions_lie_in_the_space(space: spaces.Space[Any], bounds: Any, kind: type) -> None:
    policy = action_distribution(space, bounds)
    assert type(policy) is kind
    rng = np.random.default_rng(0)
    parameters = torch.from_numpy(rng.normal(size=(300, policy.num_parameters))).float()
    sampled = policy.sample(parameters, torch.from_numpy(policy.draw_noise(rng, 300)))
    for actions in (sampled, policy.mode(parameters)):
        for action in policy.to_environment(actions).numpy():
            assert action.dtype == space.dtype
            assert space.contains(np.asarray(action) if isinstance(space, spaces.Box) else action)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_bounds_of_every_type_are_reached_and_kept(dtype: Any, bounds: Any) -> None:
    """0.1 lies between two numbers of each type; so do most actions near the bounds of [1000, 1003] in float16."""
    for low, high in ((-0.1, 0.1), (1000.0, 1003.0), (-1e-3, 1e-3), (0.3, 2000.7)):
        space = spaces.Box(low, high, (1,), dtype)
        middle, half = (low + high) / 2, (high - low) / 2
        latents = (
            np.linspace(-9, 9, 2001) if bounds == "tanh" else np.linspace(middle - 2 * half, middle + 2 * half, 2001)
        )
        actions = action_distribution(space, bounds).to_environment(torch.from_numpy(latents[:, None]).float()).numpy()
        assert actions.dtype == dtype and all(space.contains(action) for action in actions)
        reached = (float(actions.min()), float(actions.max()))
        assert reached == pytest.approx((float(space.low[0]), float(space.high[0])), abs=1e-6 * (high - low))


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_bounds_in_double_precision_are_kept_too(bounds: Any) -> None:
    """0.1 lies between two float32 numbers; the action must be the one inside."""
    space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    for latent in (-9.0, 9.0):
        assert space.contains(action_distribution(space, bounds).to_environment(torch.tensor([[latent]]))[0].numpy())


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=5),
        spaces.MultiDiscrete([2, 3], start=[4, -1]),
        spaces.Box(np.array([-2, 7]), np.array([-1, 9]), dtype=np.int32),
    ],
    ids=str,
)
def test_every_action_of_a_finite_space_can_be_sampled(space: spaces.Space[Any]) -> None:
    policy = action_distribution(space, "clip")
    noise = torch.from_numpy(policy.draw_noise(np.random.default_rng(0), 200))
    sampled = policy.to_environment(policy.sample(torch.zeros(200, policy.num_parameters), noise))
    count = 3 if isinstance(space, spaces.Discrete) else 6
    assert len({str(action) for action in sampled.numpy()}) == count


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 5000, (2,), np.int64),
        spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
        spaces.Box(0, 1, (2,), np.longdouble),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Text(5),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused_by_name(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError) as error:
        action_distribution(space, "clip")
    (problem,) = error.value.problems
    assert problem.key == "env" and str(space) in str(problem) and "MultiDiscrete" in problem.remedy


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-1.0, np.inf), (-np.inf, 1.0)])
def test_tanh_needs_finite_bounds(low: float, high: float) -> None:
    with pytest.raises(ConfigError) as error:
        action_distribution(spaces.Box(low, high, (2,)), "tanh")
    (problem,) = error.value.problems
    assert (problem.key, problem.value) == ("policy.bounds", "tanh") and "bounds=clip" in problem.remedy


def test_observations_are_boxes() -> None:
    assert observation_shape(spaces.Box(-1, 1, (8,))) == (8,)
    assert observation_shape(spaces.Box(0, 255, (84, 84, 3), np.uint8)) == (84, 84, 3)
    for space in (spaces.Discrete(5), spaces.Box(-1, 1, ()), spaces.Dict({"a": spaces.Box(-1, 1, (2,))})):
        with pytest.raises(ConfigError, match="observation space") as error:
            observation_shape(space)
        assert error.value.problems[0].key == "env" and described(space) in str(error.value)


def test_an_image_is_bytes_with_three_axes() -> None:
    assert is_image(spaces.Box(0, 255, (84, 84, 3), np.uint8))
    assert not is_image(spaces.Box(0, 1, (84, 84, 3)))
    assert not is_image(spaces.Box(0, 255, (128,), np.uint8))
    assert not is_image(spaces.Discrete(3))
