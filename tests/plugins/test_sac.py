"""Tests of SAC: its losses against plain loops for a Box and for Discrete actions, its temperature, and known values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from plexp.errors import ConfigError
from plexp.training.progress import TrainingProgress
from plexp.training.types import Transitions
from tests.support.off_policy import BANDIT, CHAIN, Make, batch, experiments, shake, train


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments("algo=sac") as function:
        yield function


def log_density(mean: float, log_std: float, u: float) -> float:
    """Return log π of a = tanh(u) with u ~ N(mean, std), by the change of variables."""
    return float(Normal(mean, math.exp(log_std)).log_prob(torch.tensor(u))) - math.log(1 - math.tanh(u) ** 2)


@pytest.mark.parametrize("alpha", [0.2, 1.5])
def test_the_losses_for_a_box_are_those_of_a_plain_loop(alpha: float, make: Make) -> None:
    experiment = make("env=pendulum", f"algo.alpha={alpha}")
    algorithm, rows = experiment.trainer.algorithm, batch(30, size=3, dims=1, noise=(2, 1))
    shake(algorithm.target_critics, algorithm.critics, algorithm.policy)
    critic_loss, terms = algorithm.critic_loss(rows)
    policy_loss, policy_terms = algorithm.policy_loss(rows)

    def least(critics: torch.nn.Module, observation: torch.Tensor, draw: float) -> tuple[float, float]:
        with torch.no_grad():
            mean, log_std = algorithm.policy.policy(observation.unsqueeze(0))[0].tolist()
            u = mean + math.exp(log_std) * draw
            values = critics(observation.unsqueeze(0), torch.tensor([[math.tanh(u)]])).squeeze(-1).tolist()
        return min(values), log_density(mean, log_std, u)

    critic_total, policy_total, log_probs, errors = 0.0, 0.0, [], []
    for i in range(30):
        value, log_prob = least(algorithm.target_critics, rows.next_observations[i], float(rows.noise[i, 0]))
        target = float(rows.rewards[i]) + float(rows.discounts[i]) * (value - alpha * log_prob)
        taken = math.tanh(float(rows.actions[i]))  # actions are stored before tanh
        with torch.no_grad():
            values = algorithm.critics(rows.observations[i : i + 1], torch.tensor([[taken]])).squeeze(-1).tolist()
        critic_total += float(rows.weights[i]) * sum(0.5 * (each - target) ** 2 for each in values)
        errors.append(target - sum(values) / 2)
        value, log_prob = least(algorithm.critics, rows.observations[i], float(rows.noise[i, 1]))
        policy_total += alpha * log_prob - value
        log_probs.append(log_prob)
    mean_log_prob = sum(log_probs) / 30
    temperature_loss = math.log(alpha) * (-mean_log_prob - algorithm.target_entropy)
    assert critic_loss.item() == pytest.approx(critic_total / 30, rel=1e-4)
    torch.testing.assert_close(terms["td_errors"], torch.tensor(errors), rtol=1e-3, atol=1e-4)
    assert policy_terms["policy_loss"].item() == pytest.approx(policy_total / 30, rel=1e-4)
    assert policy_terms["entropy"].item() == pytest.approx(-mean_log_prob, rel=1e-4)
    assert policy_loss.item() == pytest.approx(policy_total / 30 + temperature_loss, rel=1e-4)


def test_the_losses_for_discrete_actions_are_expectations_over_them(make: Make) -> None:
    algorithm = make("env=cartpole", "algo.alpha=0.3", "algo.target_entropy=0.1").trainer.algorithm
    rows = batch(20, size=4, dims=None)
    shake(algorithm.target_critics, algorithm.critics, algorithm.policy)
    critic_loss, critic_terms = algorithm.critic_loss(rows)
    policy_loss, terms = algorithm.policy_loss(rows)
    with torch.no_grad():
        target_values, values = algorithm.target_critics(rows.next_observations), algorithm.critics(rows.observations)
        logits, next_logits = (
            algorithm.policy.policy(rows.observations),
            algorithm.policy.policy(rows.next_observations),
        )
    critic_total = policy_total = entropy = 0.0
    errors = []
    for i in range(20):
        after, here = (torch.softmax(each[i], -1).tolist() for each in (next_logits, logits))
        soft = sum(p * (float(target_values[:, i, a].min()) - 0.3 * math.log(p)) for a, p in enumerate(after))
        target = float(rows.rewards[i]) + float(rows.discounts[i]) * soft
        taken = values[:, i, int(rows.actions[i])].tolist()
        critic_total += float(rows.weights[i]) * sum(0.5 * (value - target) ** 2 for value in taken)
        errors.append(target - sum(taken) / 2)
        entropy -= sum(p * math.log(p) for p in here) / 20
        policy_total += sum(p * (0.3 * math.log(p) - float(values[:, i, a].min())) for a, p in enumerate(here))
    assert critic_loss.item() == pytest.approx(critic_total / 20, rel=1e-5)
    torch.testing.assert_close(critic_terms["td_errors"], torch.tensor(errors), rtol=1e-4, atol=1e-4)
    assert terms["policy_loss"].item() == pytest.approx(policy_total / 20, rel=1e-5)
    assert terms["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    temperature_loss = math.log(0.3) * (entropy - 0.1)
    assert policy_loss.item() == pytest.approx(policy_total / 20 + temperature_loss, rel=1e-4)


@pytest.mark.parametrize("env", ["pendulum", "cartpole"])
@pytest.mark.parametrize("missing", [0.01, -0.01])
def test_the_temperature_rises_when_the_entropy_is_below_its_target(missing: float, env: str, make: Make) -> None:
    """Compare with Adam's first step, which is the learning rate in the direction of minus the gradient."""
    experiment = make(f"env={env}", "algo.alpha=0.5", "algo.learning_rate=0.02", "env.num_envs=2")
    algorithm, seen = experiment.trainer.algorithm, 0
    while not seen:
        trajectory = experiment.trainer.collector.collect()
        for rows in algorithm.learner.batches(trajectory, 0.0, noise=algorithm.noise):
            if not seen:
                entropy = algorithm.policy_loss(rows)[1]["entropy"].item()
                algorithm.target_entropy = entropy + missing
                algorithm.policy_optimizer.minimize(algorithm.policy_loss, rows)
            seen += 1
    expected = math.log(0.5) + math.copysign(0.02, missing)
    assert algorithm.temperature.log.item() == pytest.approx(expected, abs=1e-5)


def test_a_fixed_temperature_stays(make: Make) -> None:
    experiment = make("env=pendulum", "algo.learn_alpha=false", "algo.alpha=0.5", "env.num_envs=2")
    while experiment.trainer.algorithm.learner.count < 10:
        experiment.trainer.iterate(TrainingProgress())
    assert experiment.trainer.algorithm.temperature.log.item() == pytest.approx(math.log(0.5))


def test_the_usual_target_entropies(make: Make) -> None:
    assert make("env=pendulum").trainer.algorithm.target_entropy == -1
    assert make("env=lunarlander_continuous").trainer.algorithm.target_entropy == -2
    assert learnt_towards(make("env=lunarlander")) == pytest.approx(0.5 * math.log(4))
    assert learnt_towards(make("env=lunarlander", "algo.target_entropy=0.3")) == pytest.approx(0.3)


def test_the_usual_target_entropy_counts_legal_actions_only(make: Make) -> None:
    doors = "env.id=tests.support.environments:plexp-tests/Doors-v0"
    masked = make("env=gymnasium", doors, "env.action_mask=info", "+env.kwargs.masks=info")
    assert learnt_towards(masked) == pytest.approx(0.5 * math.log(3))


def learnt_towards(experiment: Any) -> float:
    """Return H̄, as the gradient of the loss by log α is H − H̄."""
    algorithm, adapter = experiment.trainer.algorithm, experiment.trainer.collector.adapter
    rows = experiment.agent.read(torch.from_numpy(adapter.reset()))
    zeros = torch.zeros(adapter.num_envs)
    loss, terms = algorithm.policy_loss(Transitions(rows, zeros.long(), zeros, rows, zeros, zeros + 1))
    (slope,) = torch.autograd.grad(loss, [algorithm.temperature.log])
    return float(terms["entropy"] - slope)


def test_the_density_of_an_action_within_its_bounds_integrates_to_one(make: Make) -> None:
    """Integrate exp(log π) over the torque of −2…2 by the trapezoidal rule."""
    rule = make("env=pendulum").trainer.algorithm.rule
    u = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    torque = 2 * u.tanh()
    for mean, log_std in ((0.0, 0.0), (1.0, -1.0), (-0.7, 0.5)):
        parameters = torch.tensor([[mean, log_std]], dtype=torch.float64).expand(len(u), 2)
        density = rule.log_probs(parameters, u.unsqueeze(-1)).exp()
        assert float(torch.trapezoid(density, torque)) == pytest.approx(1, abs=1e-4)


def best_gaussian(alpha: float) -> tuple[float, float]:
    """Return μ and log σ of a grid for which E[−(2a − 0.6)² − α log π(a)] with a = tanh(u), u ~ N(μ, σ²) is largest."""
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400)
    candidates = [(mean / 50, log_std / 25) for mean in range(-25, 50) for log_std in range(-75, 1)]
    mean, log_std = torch.tensor(candidates).unsqueeze(-1).unbind(1)
    u = mean + log_std.exp() * quantiles
    log_probs = -0.5 * quantiles**2 - log_std - 0.5 * math.log(2 * math.pi) - (1 - u.tanh() ** 2).log()
    scores = (-((2 * u.tanh() - 0.6) ** 2) - alpha * log_probs).mean(-1)
    return candidates[int(scores.argmax())]


def test_on_a_bandit_the_policy_is_the_best_gaussian_for_a_fixed_temperature(make: Make) -> None:
    """Compare with a search on a grid, and Q with −(2a − 0.6)²."""
    experiment = make(*BANDIT, "algo.alpha=0.5", "algo.learn_alpha=false")
    train(experiment)
    one = torch.ones(1, 1)
    with torch.no_grad():
        found = experiment.agent.policy(one)[0].tolist()
        values = [experiment.trainer.algorithm.critics(one, torch.full((1, 1), a))[0].item() for a in (-0.8, 0.0, 0.9)]
    assert found == pytest.approx(best_gaussian(0.5), abs=0.08)
    assert values == pytest.approx([-4.84, -0.36, -1.44], abs=0.15)


def test_on_a_bandit_the_entropy_becomes_its_target_at_the_best_policy(make: Make) -> None:
    """Compare the policy with the search on a grid at the temperature that was learnt, and its entropy with −0.5."""
    experiment = make(*BANDIT, "algo.alpha=1", "algo.target_entropy=-0.5")
    train(experiment)
    with torch.no_grad():
        mean, log_std = experiment.agent.policy(torch.ones(1, 1))[0].tolist()
    u = mean + math.exp(log_std) * Normal(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400)
    assert -sum(log_density(mean, log_std, x) for x in u.tolist()) / 400 == pytest.approx(-0.5, abs=0.1)
    alpha = experiment.trainer.algorithm.temperature.log.exp().item()
    assert alpha < 0.3 and [mean, log_std] == pytest.approx(best_gaussian(alpha), abs=0.08)


def test_on_a_chain_soft_values_become_those_of_value_iteration(make: Make) -> None:
    """Compare with V(s) = α log Σ_a exp(Q(s, a)/α) and π = softmax(Q/α), iterated to their fixed point."""
    alpha, gamma = 0.3, 0.5
    v0 = v1 = 0.0
    for _ in range(100):
        q = [[0.1 + gamma * v0, gamma * v1], [0.1 + gamma * v1, 1.0]]
        v0, v1 = (alpha * math.log(sum(math.exp(x / alpha) for x in row)) for row in q)
    experiment = make(*CHAIN, "algo.num_critics=1", f"algo.alpha={alpha}", "algo.learn_alpha=false")
    train(experiment)
    with torch.no_grad():
        values = experiment.trainer.algorithm.critics(torch.eye(2))[0]
        probabilities = experiment.agent.policy(torch.eye(2)).softmax(-1)
    torch.testing.assert_close(values, torch.tensor(q), rtol=0, atol=0.01)
    torch.testing.assert_close(probabilities, (torch.tensor(q) / alpha).softmax(-1), rtol=0, atol=0.01)


def test_images_are_refused(make: Make) -> None:
    pixels = ("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Any2Any-v0", "+env.kwargs.sees=image")
    with pytest.raises(ConfigError, match=r"algo=sac: .*image"):
        make(*pixels, "+env.kwargs.acts=box", "env.normalize_observations=false")
