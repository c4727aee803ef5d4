"""Tests of composite actions: Dict and Tuple spaces of choices, bits and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as torch_distributions

from plexp.envs.packing import PackedActions
from plexp.envs.spaces import action_distribution
from plexp.errors import ConfigError
from plexp.execution.experiment import Experiment
from plexp.nn.distributions import Composite
from plexp.recorded.restore import RecordedAgent
from tests.support.environments import SPACES

Build = Callable[..., Any]
MIXED = SPACES["mixed"]
ANY = (
    *("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Any2Any-v0", "+env.kwargs.sees=box"),
    *("+env.kwargs.acts=mixed", "compile=false", "env.num_envs=2", "net.width=8"),
)


def made(bounds: Any = "clip") -> tuple[Composite, torch.Tensor, torch.Tensor]:
    """Return the distribution with random parameters [500, P], and actions [500, K] drawn from it."""
    rule = action_distribution(PackedActions(MIXED), bounds)
    assert isinstance(rule, Composite)
    parameters = torch.from_numpy(np.random.default_rng(0).normal(size=(500, rule.num_parameters)).astype(np.float32))
    noise = torch.from_numpy(rule.draw_noise(np.random.default_rng(1), 500))
    return rule, parameters, rule.sample(parameters, noise)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_drawn_and_most_likely_actions_are_in_the_space(bounds: str) -> None:
    rule, parameters, actions = made(bounds)
    space = PackedActions(MIXED)
    for stored in (actions, rule.mode(parameters)):
        for row in rule.to_environment(stored).numpy():
            assert space.contains(row) and MIXED.contains(space.unpack(row)), row


def test_log_probabilities_and_entropies_are_sums_of_those_of_torch() -> None:
    rule, parameters, actions = made()
    log_probs, entropy = rule.evaluate(parameters, actions)
    gear, wheel, bits, pair, lever = torch.split(parameters.double(), [3, 4, 2, 5, 6], -1)
    kinds: list[tuple[torch_distributions.Distribution, torch.Tensor]] = [
        (torch_distributions.Categorical(logits=gear), actions[:, 0]),
        (torch_distributions.Normal(wheel[:, 0], wheel[:, 2].exp()), actions[:, 1]),
        (torch_distributions.Normal(wheel[:, 1], wheel[:, 3].exp()), actions[:, 2]),
        (torch_distributions.Bernoulli(logits=bits[:, 0]), actions[:, 3]),
        (torch_distributions.Bernoulli(logits=bits[:, 1]), actions[:, 4]),
        (torch_distributions.Categorical(logits=pair[:, :2]), actions[:, 5]),
        (torch_distributions.Categorical(logits=pair[:, 2:]), actions[:, 6]),
        (torch_distributions.Categorical(logits=lever), actions[:, 7]),
    ]
    expected = sum(kind.log_prob(taken.double()) for kind, taken in kinds)
    torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entropy.double(), sum(kind.entropy() for kind, _ in kinds), rtol=1e-5, atol=1e-4)


def test_a_part_is_drawn_as_often_as_its_distribution_says() -> None:
    rule, parameters, _ = made()
    one = parameters[:1].expand(20_000, -1)
    drawn = rule.sample(one, torch.from_numpy(rule.draw_noise(np.random.default_rng(3), 20_000)))
    expected = parameters[0, :3].softmax(0).numpy()
    found = np.bincount(drawn[:, 0].int().numpy(), minlength=3) / 20_000
    assert np.abs(found - expected).max() < 0.015
    assert float(drawn[:, 1].mean()) == pytest.approx(float(parameters[0, 3]), abs=0.06)


def test_an_action_is_unpacked_in_the_types_of_its_spaces() -> None:
    action = PackedActions(MIXED).unpack(np.array([-1, 0.5, -1.5, 1, 0, 1, 2, 4.0]))
    assert action["gear"] == -1 and action["gear"].dtype == np.int64
    assert action["wheel"].dtype == np.float32 and action["wheel"].tolist() == [0.5, -1.5]
    assert [part.tolist() for part in action["lights"]] == [[1, 0], [1, 2]] and action["lever"].tolist() == [4]
    assert MIXED.contains(action)


@pytest.mark.parametrize("log_std", ["free", "state", "identity"])
def test_gaussian_parts_have_the_log_std_that_is_asked_for(log_std: str, build: Build) -> None:
    agent = build(*ANY, f"policy.log_std={log_std}", "policy.log_std_init=-0.5").agent
    with torch.no_grad():
        wheel = torch.split(agent.policy(torch.randn(9, 3)), [3, 4, 2, 5, 6], -1)[1]
    spread = {"free": -0.5, "identity": 0.0, "state": -0.5}[log_std]
    assert (wheel[:, 2:] - spread).abs().max() <= (0.1 if log_std == "state" else 0)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    "algo",
    [
        ("algo=ppo", "algo.num_steps=16", "algo.num_minibatches=2"),
        ("algo=ppo", "advantage=q", "algo.num_steps=16", "algo.num_minibatches=2"),
        ("algo=a2c",),
        ("algo=reinforce", "policy.bounds=tanh"),
        ("algo=actor_critic",),
    ],
    ids=" ".join,
)
def test_on_policy_algorithms_learn(algo: tuple[str, ...], vectorization: str, build: Build) -> None:
    """Let the environment refuse an action that is not in its space."""
    with build(*ANY, *algo, f"env.vectorization={vectorization}", "total_timesteps=96") as experiment:
        before = [p.clone() for p in experiment.agent.parameters()]
        experiment.trainer.run([])
        assert any(not torch.equal(a, b) for a, b in zip(before, experiment.agent.parameters(), strict=True))
        rollout = experiment.agent.evaluate_trajectory(experiment.trainer.collector.collect())
        again = experiment.agent.evaluate_trajectory(rollout, rollout.log_probs)
        assert again.log_ratios.abs().max() < 1e-5


@pytest.mark.parametrize("algo", ["dqn", "qr_dqn", "td3", "ddpg", "sac"])
def test_algorithms_with_a_replay_buffer_refuse_them_in_one_line(algo: str, build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build(*ANY, f"algo={algo}")
    text = str(raised.value)
    assert "\n" not in text and "these are Dict('gear': Discrete(3, start=-1)" in text and text.endswith("algo=ppo")


def test_a_recorded_agent_acts_as_the_environment_takes_it(build: Build) -> None:
    experiment: Experiment = build(*ANY)
    agent = RecordedAgent(experiment)
    for sampled in (False, True):
        assert MIXED.contains(agent.act(np.zeros(3, np.float32), sampled=sampled))
        assert all(MIXED.contains(action) for action in agent.act(np.zeros((4, 3), np.float32), sampled=sampled))


def test_a_recorded_agent_takes_observations_as_given_flattened_and_in_batches(build: Build) -> None:
    agent = RecordedAgent(build(*ANY[:2], "+env.kwargs.sees=dict", "+env.kwargs.acts=discrete", *ANY[4:]))
    space: Any = SPACES["dict"]
    given = [space.sample() for _ in range(5)]
    flat = np.stack([spaces.flatten(space, each) for each in given]).astype(np.float32)
    expected = [int(agent.act(each)) for each in given]
    assert [int(agent.act(row)) for row in flat] == expected and agent.act(flat).tolist() == expected
    with pytest.raises(ConfigError, match=r"it does not have the parts position, mode"):
        agent.act({"position": np.zeros(2)})


def test_an_unsupported_part_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"the action space Text\(.*\) is not supported"):
        action_distribution(PackedActions(spaces.Dict(say=spaces.Text(4), turn=spaces.Discrete(2))), "clip")
