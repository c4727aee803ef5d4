"""Tests of the agent: how it evaluates rollouts, row by row and by numeric integration, and how it acts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plexp.plugins.net.mlp import MLP
from torch import Tensor

from plexp.errors import ConfigError
from plexp.nn.distributions import (
    ActionDistribution,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)
from plexp.nn.layout import ObservationReader
from plexp.nn.normalization import ObservationNormalizer
from plexp.training import agent as agent_module
from plexp.training.agent import Agent
from plexp.training.policy import GreedyPolicy
from plexp.training.types import Minibatch, Rollout
from tests.support.builders import NET, POLICY, make_agent, random_rollout

LOW, HIGH = np.array([-1.0], np.float32), np.array([3.0], np.float32)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normalizer() -> ObservationNormalizer:
    made = ObservationNormalizer((4,))
    made.update(torch.from_numpy(np.random.default_rng(8).normal(2.0, 3.0, (50, 4))))
    return made


def minibatch_of(rollout: Rollout, value_targets: Tensor | None) -> Minibatch:
    rows = [getattr(rollout, name).flatten(0, 1) for name in ("observations", "actions", "log_probs", "rewards")]
    return Minibatch(*rows, torch.ones(len(rows[0])), torch.zeros(len(rows[0])), value_targets)


def successor(rollout: Rollout, t: int, n: int) -> Tensor:
    """Return the true next observation: the final one where an episode ended in the same step."""
    steps, envs = rollout.rewards.shape
    for k, index in enumerate(rollout.final_index.tolist()):
        if index == t * envs + n:
            return rollout.final_observations[k]
    return rollout.last_observations[n] if t == steps - 1 else rollout.observations[t + 1, n]


@pytest.mark.parametrize("share_trunk", [False, True])
@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("chunk", [5, 4096])
def test_the_rollout_has_values_of_every_state_and_its_true_successor(
    same_step: bool, share_trunk: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "CHUNK_ROWS", chunk)
    agent, rollout = (
        make_agent(share_trunk=share_trunk, normalizer=normalizer()),
        random_rollout(1, same_step=same_step),
    )
    assert (len(rollout.final_index) > 3) is same_step
    evaluated = agent.evaluate_trajectory(rollout)
    assert evaluated.values.shape == evaluated.next_values.shape == evaluated.log_probs.shape == (12, 3)
    for t, n in itertools.product(range(12), range(3)):
        here, after = agent.read(torch.stack([rollout.observations[t, n], successor(rollout, t, n)]))
        action = int(rollout.actions[t, n])
        log_prob = agent.policy(here[None]).log_softmax(-1)[0, action]
        torch.testing.assert_close(evaluated.values[t, n], agent.critic(here[None])[0].detach(), **EXACT)
        torch.testing.assert_close(evaluated.next_values[t, n], agent.critic(after[None])[0].detach(), **EXACT)
        torch.testing.assert_close(evaluated.log_probs[t, n], log_prob.detach(), **EXACT)
    assert not evaluated.action_values.any()
    assert torch.equal(evaluated.rewards, rollout.rewards) and not evaluated.values.requires_grad


def test_log_ratios_are_zero_at_first_and_follow_the_policy() -> None:
    agent, rollout = make_agent(), random_rollout(1)
    fresh = agent.evaluate_trajectory(rollout)
    assert not fresh.log_ratios.any()
    assert not agent.evaluate_trajectory(fresh, fresh.log_probs).log_ratios.any()
    with torch.no_grad():
        agent.head.linear.bias.add_(torch.tensor([0.5, 0.0, -0.5]))
    later = agent.evaluate_trajectory(fresh, fresh.log_probs)
    assert torch.equal(later.log_probs, fresh.log_probs), "they are those of the policy that acted"
    now = agent.evaluate_trajectory(rollout).log_probs
    torch.testing.assert_close(later.log_ratios, now - fresh.log_probs, **EXACT)
    assert later.log_ratios.abs().max() > 0.1


@pytest.mark.parametrize("share_trunk", [False, True])
def test_a_target_critic_gives_the_values_of_the_rollout(share_trunk: bool) -> None:
    agent, rollout = make_agent(share_trunk=share_trunk), random_rollout(1)
    before = agent.evaluate_trajectory(rollout)
    agent.add_target_critic()
    assert not any(p.requires_grad for p in agent.target_critic.parameters())
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.add_(0.1)
    after = agent.evaluate_trajectory(rollout)
    torch.testing.assert_close(after.values, before.values, **EXACT)
    torch.testing.assert_close(after.next_values, before.next_values, **EXACT)
    agent.target_critic = None
    assert not torch.allclose(agent.evaluate_trajectory(rollout).values, before.values)


def test_without_a_critic_values_are_zero() -> None:
    agent = make_agent("none")
    rollout = replace(random_rollout(1), values=torch.zeros(12, 3), next_values=torch.zeros(12, 3))
    evaluated = agent.evaluate_trajectory(rollout)
    assert agent.critic is None and not evaluated.values.any() and not evaluated.next_values.any()
    assert (evaluated.log_probs < 0).all()


@torch.no_grad()
def test_with_a_q_critic_the_value_is_the_policys_mean_of_q() -> None:
    agent, rollout = make_agent("q"), random_rollout(1)
    evaluated = agent.evaluate_trajectory(rollout)
    for t, n in itertools.product(range(12), range(3)):
        for state, value in ((rollout.observations[t, n], "values"), (successor(rollout, t, n), "next_values")):
            weights = agent.policy(state[None])[0].exp().tolist()
            q = agent.critic(state[None])[0].tolist()
            mean = sum(w * x for w, x in zip(weights, q, strict=True)) / sum(weights)
            assert float(getattr(evaluated, value)[t, n]) == pytest.approx(mean, abs=1e-10)
        taken = agent.critic(rollout.observations[t, n][None])[0, int(rollout.actions[t, n])]
        assert float(evaluated.action_values[t, n]) == pytest.approx(float(taken), abs=1e-10)


def test_advantages_of_q_average_to_zero_under_the_policy() -> None:
    """Σ_a π(a|s) (Q(s, a) − V(s)) = 0, with one environment for each action in the same state."""
    agent, rollout = make_agent("q"), random_rollout(1, actions=torch.arange(3).expand(12, 3))
    rollout = replace(rollout, observations=rollout.observations[:, :1].expand(12, 3, 4))
    evaluated = agent.evaluate_trajectory(rollout)
    mean = (evaluated.log_probs.exp() * (evaluated.action_values - evaluated.values)).sum(1)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    assert (evaluated.action_values - evaluated.values).abs().min() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("kind", [DiagonalGaussian, SquashedGaussian])
def test_over_continuous_actions_the_value_is_the_integral_of_q(kind: type[DiagonalGaussian]) -> None:
    actions = torch.linspace(-1, 1, 4).view(2, 2, 1).double()
    rollout = random_rollout(1, 2, 2, same_step=False, actions=actions)
    agent = make_agent("q", kind(LOW, HIGH), policy={"action_samples": 5_000})
    evaluated = agent.evaluate_trajectory(rollout)
    nodes = np.linspace(-6, 6, 2001)
    weights = torch.from_numpy(np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum())
    encode = torch.tanh if kind is SquashedGaussian else torch.nn.Identity()
    for t, n in itertools.product(range(2), range(2)):
        state = rollout.observations[t, n]
        mean, log_std = agent.policy(state[None])[0].detach()
        noisy = encode(mean + log_std.exp() * torch.from_numpy(nodes)).unsqueeze(-1)
        q = agent.critic(torch.cat([state.expand(2001, 4), noisy], -1)).detach()
        deviation = float((weights * q.square()).sum() - (weights * q).sum() ** 2) ** 0.5
        assert float(evaluated.values[t, n]) == pytest.approx(float((weights * q).sum()), abs=4 * deviation / 70)
        taken = agent.critic(torch.cat([state, encode(actions[t, n])])[None])[0]
        assert float(evaluated.action_values[t, n]) == pytest.approx(float(taken), abs=1e-6)
    torch.testing.assert_close(evaluated.next_values[0], evaluated.values[1], **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("distribution", [MultiCategorical(np.array([2, 3]), np.zeros(2)), Bernoulli((2,))], ids=type)
def test_a_q_critic_takes_actions_of_several_parts_as_input(distribution: ActionDistribution) -> None:
    actions = torch.tensor([[[0, 1], [1, 1]], [[1, 0], [0, 0]]])
    agent, rollout = make_agent("q", distribution).float(), random_rollout(1, 2, 2, actions=actions)
    floats = {k: v.float() for k, v in vars(rollout).items() if v is not None and v.dtype == torch.float64}
    evaluated = agent.evaluate_trajectory(replace(rollout, **floats))
    inputs = torch.cat([floats["observations"][1, 0], distribution.encode(actions[1, :1])[0]])
    assert float(evaluated.action_values[1, 0]) == pytest.approx(float(agent.critic(inputs[None])[0]), abs=1e-6)


def test_a_single_action_has_a_q_too() -> None:
    agent = make_agent("q", Categorical(1))
    rollout = random_rollout(1, actions=torch.zeros(12, 3, dtype=torch.int64))
    evaluated = agent.evaluate_trajectory(rollout)
    torch.testing.assert_close(evaluated.values, evaluated.action_values, **EXACT)


@pytest.mark.parametrize("share_trunk", [False, True])
@pytest.mark.parametrize("critic", ["v", "q"])
def test_a_minibatch_is_evaluated_as_the_rollout_was(critic: str, share_trunk: bool) -> None:
    agent = make_agent(critic, share_trunk=share_trunk)
    evaluated = agent.evaluate_trajectory(random_rollout(1))
    passes: list[int] = []
    agent.trunk.register_forward_hook(lambda *_: passes.append(1))
    evaluation = agent.evaluate(minibatch_of(evaluated, torch.zeros(36)))
    predicted = evaluated.values if critic == "v" else evaluated.action_values
    torch.testing.assert_close(evaluation.log_probs, evaluated.log_probs.flatten(), **EXACT)
    torch.testing.assert_close(evaluation.predictions, predicted.flatten(), **EXACT)
    assert (
        evaluation.log_probs.requires_grad and evaluation.entropy.requires_grad and evaluation.predictions.requires_grad
    )
    assert len(passes) == 1
    assert agent.evaluate(minibatch_of(evaluated, None)).predictions is None


def test_the_agent_acts_by_its_distribution_on_normalised_observations() -> None:
    space = SquashedGaussian(LOW, HIGH)
    agent = make_agent("none", space, normalizer=normalizer())
    observations, noise, state = torch.randn(6, 4).double(), torch.randn(6, 1), agent.initial_state(6)
    parameters = agent.policy((observations - agent.normalizer.mean) / agent.normalizer.var.sqrt())
    mean, log_std = parameters.detach().chunk(2, -1)
    acted, _ = agent.act(observations, state, noise)
    torch.testing.assert_close(acted, mean + log_std.exp() * noise, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(agent.act_greedily(observations, state)[0], mean, rtol=1e-6, atol=1e-6)
    played = GreedyPolicy(agent)(observations).detach()
    torch.testing.assert_close(played, (-1 + 4 * torch.sigmoid(2 * mean)).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("log_std", "initial", "expected"), [("free", -0.5, -0.5), ("identity", -0.5, 0.0)])
def test_log_std_free_and_identity_do_not_depend_on_the_state(log_std: str, initial: float, expected: float) -> None:
    agent = make_agent("none", DiagonalGaussian(LOW, HIGH), policy={"log_std": log_std, "log_std_init": initial})
    assert torch.equal(agent.policy(torch.randn(5, 4).double())[:, 1], torch.full((5,), expected).double())
    assert ("head.log_std" in dict(agent.named_parameters())) is (log_std == "free")


@pytest.mark.parametrize("initial", [0.0, -0.5])
def test_a_state_dependent_log_std_starts_near_its_initial_value(initial: float) -> None:
    policy = {"log_std": "state", "log_std_init": initial}
    agent = make_agent("none", DiagonalGaussian(LOW, HIGH), initialization="orthogonal", policy=policy)
    deviations = agent.policy(torch.randn(50, 4).double())[:, 1] - initial
    assert 0 < deviations.abs().max() < 0.05 and deviations.std() > 0


def test_a_shared_trunk_excludes_a_network_of_the_critics_own() -> None:
    net = MLP(**{**NET, "share_trunk": True})
    with pytest.raises(ConfigError, match=r"net\.share_trunk=True"):
        Agent(ObservationReader((4,)), Categorical(2), net, MLP(**NET), "v", np.random.default_rng(0), **POLICY)


def test_the_critic_may_have_a_network_of_its_own() -> None:
    own = MLP(**{**NET, "width": 5, "layers": 2})
    agent = Agent(ObservationReader((4,)), Categorical(2), MLP(**NET), own, "v", np.random.default_rng(0), **POLICY)
    assert [p.shape for p in agent.critic.parameters()] == [(5, 4), (5,), (5, 5), (5,), (1, 5), (1,)]


@pytest.mark.parametrize("setting", [{"share_trunk": True}, {"shape": (3, 2)}])
def test_q_of_continuous_actions_refuses_shared_trunks_and_images(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        make_agent("q", DiagonalGaussian(LOW, HIGH), **setting)
    assert error.value.problems[0].key == "advantage" and "gae" in error.value.problems[0].remedy
