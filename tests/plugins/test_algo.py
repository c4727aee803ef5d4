"""Tests of algorithms: their gradients against onehot − π by hand, PPO's loss against a plain reading of the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plexp.plugins.advantage.gae import GAE
from plexp.plugins.advantage.q_baseline import QBaseline
from plexp.plugins.advantage.returns import Returns
from plexp.plugins.advantage.td import TD
from plexp.plugins.advantage.vtrace import VTrace
from plexp.plugins.algo.a2c import A2C
from plexp.plugins.algo.actor_critic import ActorCritic
from plexp.plugins.algo.ppo import PPO
from plexp.plugins.algo.reinforce import REINFORCE
from torch import Tensor

from plexp.training.agent import Agent
from plexp.training.types import Minibatch, Rollout
from tests.support.builders import fresh_rollout, make_agent, make_learner, make_rollout, random_rollout

ESTIMATOR = GAE(gamma=0.9, gae_lambda=0.8)
STILL: dict[str, Any] = {"learning_rate": 1e-15}  # an update leaves its gradient, and does not change the agent
PASSES: dict[str, Any] = {"num_steps": 12, "update_epochs": 1, "num_minibatches": 1}
CLIPPING: dict[str, Any] = {"clip_eps": 0.2, "anneal_clip": False, "target_kl": None}


def ppo(agent: Agent, advantage: Any = ESTIMATOR, learner: Any = None, **changes: Any) -> PPO:
    return PPO(agent, make_learner(agent, advantage, **(learner or STILL)), **{**PASSES, **CLIPPING, **changes})


def score_sum(agent: Agent, rollout: Rollout, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ Φ (onehot(a) − π), and its outer product with the features: gradients in the head's bias and weight."""
    bias, weight = torch.zeros(3).double(), torch.zeros(3, 8).double()
    for t, n in np.ndindex(*rollout.rewards.shape):
        if not rollout.valid[t, n]:
            continue
        features = agent.trunk(rollout.observations[t, n][None])[0].detach()
        logits = (agent.head.linear.weight @ features + agent.head.linear.bias).tolist()
        total = sum(math.exp(x) for x in logits)
        taken = int(rollout.actions[t, n])
        score = [float(a == taken) - math.exp(x) / total for a, x in enumerate(logits)]
        for a in range(3):
            bias[a] += weights[t, n] * score[a]
            weight[a] += weights[t, n] * score[a] * features
    return bias, weight


def assert_policy_gradient(agent: Agent, rollout: Rollout, advantages: Tensor, divisor: float) -> None:
    """Assert that an update left minus the policy gradient in the head."""
    for parameter, ascent in zip(
        (agent.head.linear.bias, agent.head.linear.weight), score_sum(agent, rollout, advantages), strict=True
    ):
        torch.testing.assert_close(parameter.grad, -ascent / divisor, rtol=1e-9, atol=1e-9)
        assert ascent.abs().max() > 0.01


@pytest.mark.parametrize("same_step", [True, False])
def test_reinforce_follows_returns_times_scores_summed_over_each_environment(same_step: bool) -> None:
    agent = make_agent("none")
    algorithm = REINFORCE(agent, make_learner(agent, Returns(gamma=0.9), **STILL))
    for seed in (1, 2):
        rollout = fresh_rollout(agent, seed, same_step=same_step)
        algorithm.update(rollout, 0.0)
        assert_policy_gradient(agent, rollout, Returns(gamma=0.9)(rollout).advantages, 3)


def test_reinforce_does_not_weight_the_critics_loss_by_the_length_of_episodes() -> None:
    agent = make_agent("v")
    algorithm = REINFORCE(agent, make_learner(agent, ESTIMATOR, **STILL, vf_coef=1.0))
    rollout = fresh_rollout(agent, 1)
    algorithm.update(rollout, 0.0)
    errors = rollout.values - ESTIMATOR(rollout).value_targets
    torch.testing.assert_close(agent.critic.head.bias.grad, errors.mean().reshape(1))


@pytest.mark.parametrize("same_step", [True, False])
def test_a2c_follows_the_mean_of_advantages_times_scores(same_step: bool) -> None:
    agent = make_agent()
    algorithm = A2C(agent, make_learner(agent, ESTIMATOR, **STILL), num_steps=12, num_minibatches=1)
    rollout = fresh_rollout(agent, 1, same_step=same_step)
    algorithm.update(rollout, 0.0)
    targets = ESTIMATOR(rollout)
    assert_policy_gradient(agent, rollout, targets.advantages, rollout.num_valid)
    errors = (rollout.values - targets.value_targets)[rollout.valid]
    torch.testing.assert_close(agent.critic.head.bias.grad, 0.5 * errors.mean().reshape(1))


def test_a2c_makes_its_minibatches_in_one_pass() -> None:
    agent = make_agent()
    algorithm = A2C(agent, make_learner(agent, ESTIMATOR, **STILL), num_steps=12, num_minibatches=4)
    sizes: list[int] = []
    agent.trunk.register_forward_hook(lambda _, __, features: sizes.append(len(features)))
    rollout = fresh_rollout(agent, 1)
    sizes.clear()
    algorithm.update(rollout, 0.0)
    assert sizes[1:] == [9, 9, 9, 9], "after one pass over the whole trajectory"


def test_actor_critic_follows_the_td_error_times_the_score() -> None:
    agent = make_agent()
    algorithm = ActorCritic(agent, make_learner(agent, TD(gamma=0.875), **STILL, vf_coef=1.0))
    rollout = fresh_rollout(agent, 1, steps=1, envs=1)
    algorithm.update(rollout, 0.0)
    future = 0.0 if rollout.terminated[0, 0] else 0.875 * float(rollout.next_values[0, 0])
    delta = float(rollout.rewards[0, 0]) + future - float(rollout.values[0, 0])
    assert_policy_gradient(agent, rollout, torch.tensor([[delta]], dtype=torch.float64), 1)
    assert float(agent.critic.head.bias.grad) == pytest.approx(-delta)


def test_the_entropy_bonus_follows_its_coefficient_times_the_entropys_gradient() -> None:
    """∂H/∂logit_a = −π_a (log π_a + H) in every state."""
    agent = make_agent()
    rollout, gradients = fresh_rollout(agent, 1), []
    for coefficient in (0.0, 0.3):
        twin = make_agent()
        A2C(twin, make_learner(twin, ESTIMATOR, **STILL, ent_coef=coefficient), num_steps=12, num_minibatches=1).update(
            rollout, 0.0
        )
        gradients.append(twin.head.linear.bias.grad.clone())
    log_probs = agent.policy(rollout.observations).detach().log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1, keepdim=True)
    slope = (-log_probs.exp() * (log_probs + entropy)).flatten(0, 1).mean(0)
    torch.testing.assert_close(gradients[1] - gradients[0], -0.3 * slope, rtol=1e-9, atol=1e-9)


def test_ppos_first_gradient_is_the_policy_gradient() -> None:
    agent = make_agent()
    rollout, algorithm = fresh_rollout(agent, 1), ppo(agent)
    metrics = algorithm.update(rollout, 0.0)
    assert_policy_gradient(agent, rollout, ESTIMATOR(rollout).advantages, 36)
    assert metrics["approx_kl"] == metrics["clip_fraction"] == 0


def test_ppos_loss_is_equations_7_and_9() -> None:
    agent = make_agent()
    algorithm = ppo(agent, learner={**STILL, "ent_coef": 0.01, "vf_coef": 0.7}, clip_eps=0.1)
    rng = np.random.default_rng(0)
    observations, actions = torch.from_numpy(rng.normal(size=(20, 4))), torch.from_numpy(rng.integers(0, 3, 20))
    old, advantages, targets = torch.from_numpy(rng.normal(size=(3, 20)) * [[0.3], [1.0], [1.0]])
    old = old - 1.1
    minibatch = Minibatch(observations, actions, old, advantages, torch.ones(20), torch.zeros(20), targets)
    total, terms = algorithm.loss(minibatch, 0.1)
    surrogate = entropy = error = divergence = clipped = 0.0
    for i in range(20):
        logits = agent.policy(observations[i][None])[0].tolist()
        probabilities = [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]
        ratio, a = probabilities[int(actions[i])] / math.exp(float(old[i])), float(advantages[i])
        surrogate += min(ratio * a, min(max(ratio, 0.9), 1.1) * a) / 20
        entropy -= sum(p * math.log(p) for p in probabilities) / 20
        error += (agent.critic(observations[i][None]).item() - float(targets[i])) ** 2 / 20
        divergence += (ratio - 1 - math.log(ratio)) / 20
        clipped += (abs(ratio - 1) > 0.1) / 20
    assert total.item() == pytest.approx(-(surrogate + 0.01 * entropy - 0.7 * error / 2), rel=1e-9)
    numbers = [-surrogate, entropy, error / 2, divergence, clipped]
    names = ["policy_loss", "entropy", "value_loss", "approx_kl", "clip_fraction"]
    assert [terms[name].item() for name in names] == pytest.approx(numbers, rel=1e-6)
    assert 0 < clipped < 1


def test_ppo_stays_near_the_old_policy() -> None:
    """Forty passes with large steps move the policy over three times further if nothing is clipped."""
    moved = []
    for clip_eps in (0.2, 0.999):
        agent = make_agent()
        rollout = fresh_rollout(agent, 1)
        ppo(agent, learner={"learning_rate": 0.02}, update_epochs=40, clip_eps=clip_eps).update(rollout, 0.0)
        moved.append(float(agent.evaluate_trajectory(rollout, rollout.log_probs).log_ratios.abs().mean()))
    assert 3 * moved[0] < moved[1]


@pytest.mark.parametrize("anneals", [True, False])
def test_without_clip_eps_the_loss_is_always_equation_6(anneals: bool) -> None:
    agent = make_agent()
    algorithm = ppo(agent, clip_eps=None, anneal_clip=anneals)
    rng = np.random.default_rng(0)
    observations, actions = torch.from_numpy(rng.normal(size=(20, 4))), torch.from_numpy(rng.integers(0, 3, 20))
    old, advantages, targets = torch.from_numpy(rng.normal(size=(3, 20)))
    minibatch = Minibatch(observations, actions, old - 1.1, advantages, torch.ones(20), torch.zeros(20), targets)
    total, terms = algorithm.loss(minibatch, algorithm.clip_eps)
    ratios = (agent.evaluate(minibatch).log_probs - minibatch.log_probs).exp()
    assert terms["policy_loss"].item() == pytest.approx(-(ratios * minibatch.advantages).mean().item(), rel=1e-6)
    assert terms["clip_fraction"] == 0 and ratios.max() > 1.5 and ratios.min() < 0.5
    weight = agent.head.linear.weight
    torch.testing.assert_close(
        torch.autograd.grad(total, weight)[0], torch.autograd.grad(-(ratios * advantages).mean(), weight)[0]
    )
    assert all(math.isfinite(value) for value in algorithm.update(fresh_rollout(agent, 1), 1.0).values())


@pytest.mark.parametrize(("anneals", "expected"), [(True, 0.05), (False, 0.2)])
def test_clip_eps_falls_linearly_if_it_is_annealed(anneals: bool, expected: float) -> None:
    agent = make_agent()
    algorithm = ppo(agent, anneal_clip=anneals)
    for _ in range(2):
        algorithm.update(fresh_rollout(agent, 1), 0.75)
        assert algorithm.learner.optimizers[0].arguments == {"clip_eps": pytest.approx(expected)}


def test_ppo_passes_on_its_epochs_minibatches_and_target_kl() -> None:
    agent = make_agent()
    algorithm = ppo(agent, update_epochs=7, num_minibatches=5, target_kl=0.3)
    seen: list[Any] = []
    algorithm.learner.fit = lambda *given, **named: seen.append((given[1:], named)) or {}  # type: ignore[method-assign]
    algorithm.update(fresh_rollout(agent, 1), 0.4)
    assert seen == [
        ((algorithm.loss, 0.4), {"arguments": {"clip_eps": 0.2}, "epochs": 7, "num_minibatches": 5, "target_kl": 0.3})
    ]


def test_off_policy_weights_scale_the_policy_gradient() -> None:
    agent, estimator = make_agent(), VTrace(gamma=0.9, gae_lambda=1.0, rho_bar=1.0, c_bar=1.0)
    rollout = agent.evaluate_trajectory(random_rollout(1))  # its log_ratios are those of an older policy
    A2C(agent, make_learner(agent, estimator, **STILL), num_steps=12, num_minibatches=1).update(rollout, 0.0)
    weights = rollout.log_ratios.exp().clamp(max=1)
    assert_policy_gradient(agent, rollout, weights * estimator(rollout).advantages, 36)


def test_q_baseline_teaches_the_policy_nothing_if_q_is_exact() -> None:
    """Φ (onehot − π) over one-step episodes that pay their action is only noise; with returns it has a drift."""
    rng, count = np.random.default_rng(0), 20_000
    actions = torch.from_numpy(rng.integers(0, 3, (1, count)))
    rollout = make_rollout(actions.numpy() + rng.normal(size=(1, count)), action_values=actions.double())
    rollout = replace(rollout, terminated=torch.ones(1, count, dtype=torch.bool))
    score = torch.nn.functional.one_hot(actions[0], 3) - 1 / 3
    for estimator, drifts in ((QBaseline(gamma=0.9), False), (Returns(gamma=0.9), True)):
        terms = estimator(rollout).advantages[0].unsqueeze(-1) * score
        errors = terms.mean(0).abs() / (terms.std(0) / count**0.5)
        assert bool((errors > 4).any()) is drifts
