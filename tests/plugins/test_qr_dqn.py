"""Tests of QR-DQN: its loss against plain loops, and the quantiles of returns whose distribution is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from plexp import losses
from tests.support.off_policy import CHAIN, KNOWN, LOTTERY, Make, batch, experiments, shake, train


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments("algo=qr_dqn", "algo.quantiles=5") as function:
        yield function


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_the_loss_is_that_of_a_plain_loop(double: bool, dueling: bool, make: Make) -> None:
    algorithm, rows = (
        make(f"algo.double={double}", f"algo.dueling={dueling}").trainer.algorithm,
        batch(20, size=4, dims=None),
    )
    shake(algorithm.target)
    loss, terms = algorithm.loss(rows)
    with torch.no_grad():
        here, there, online = (
            network.policy(observations).reshape(20, 2, 5)
            for network, observations in (
                (algorithm.policy, rows.observations),
                (algorithm.target, rows.next_observations),
                (algorithm.policy, rows.next_observations),
            )
        )
    total, errors = 0.0, []
    for i in range(20):
        chosen = int((online if double else there)[i].mean(-1).argmax())
        quantiles = here[i, int(rows.actions[i])].tolist()
        targets = [float(rows.rewards[i]) + float(rows.discounts[i]) * x for x in there[i, chosen].tolist()]
        error = 0.0
        for k, quantile in enumerate(quantiles):
            for target in targets:
                u = target - quantile
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                error += abs((k + 0.5) / 5 - (1 if u < 0 else 0)) * huber / 5
        total += float(rows.weights[i]) * error
        errors.append(sum(targets) / 5 - sum(quantiles) / 5)
    assert loss.item() == pytest.approx(total / 20, rel=1e-5)
    torch.testing.assert_close(terms["td_errors"], torch.tensor(errors), rtol=1e-4, atol=1e-4)


def test_the_policy_is_greedy_in_the_means_of_the_quantiles(make: Make) -> None:
    distribution = make().trainer.algorithm.policy.distribution
    output = torch.tensor([[0.0, 0.0, 0.0, 0.0, 10.0, 1.5, 1.5, 1.5, 1.5, 1.5]])
    assert distribution.mode(output).tolist() == [0]
    assert distribution.sample(output, torch.tensor([[0.0, torch.inf]])).tolist() == [1]
    assert distribution.sample(output, torch.zeros(1, 2)).tolist() == [0]


def test_minimising_the_error_gives_the_quantiles_of_a_sample() -> None:
    """Compare with the quantiles of 0…1, for errors that are far below Huber's 1 made large by a factor of 1,000."""
    targets = torch.linspace(0, 1000, 1001).unsqueeze(0)
    quantiles = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=5.0)
    for _ in range(1500):
        optimizer.zero_grad()
        losses.quantile_huber_error(quantiles, targets).sum().backward()
        optimizer.step()
    torch.testing.assert_close(quantiles.detach(), torch.tensor([[125.0, 375.0, 625.0, 875.0]]), rtol=0, atol=8)


def test_on_a_chain_the_means_become_the_values_that_are_known(make: Make) -> None:
    experiment = make(*CHAIN, "algo.epsilon_end=1")
    train(experiment)
    with torch.no_grad():
        values = experiment.agent.policy(torch.eye(2)).reshape(2, 2, 5).mean(-1)
    torch.testing.assert_close(values, KNOWN, rtol=0, atol=0.005)


def best_quantiles(returns: np.ndarray) -> list[float]:
    """Return the θ of a grid with the least mean of |τ − 1{u < 0}| · H(u), u = return − θ, for τ = 0.1, 0.3, …, 0.9."""
    grid = np.arange(0, 40, 0.1)
    u = returns[:, None] - grid
    huber = np.where(np.abs(u) <= 1, 0.5 * u**2, np.abs(u) - 0.5)
    return [float(grid[(np.abs(tau - (u < 0)) * huber).mean(0).argmin()]) for tau in (0.1, 0.3, 0.5, 0.7, 0.9)]


def test_quantiles_of_random_rewards_become_those_of_the_rewards_seen(make: Make) -> None:
    """Compare with a search on a grid, and more loosely with the quantiles of the distributions, 0…40 and 15…20."""
    experiment = make(*LOTTERY, "algo.epsilon_end=1")
    train(experiment)
    assert experiment.memory is not None
    buffer = experiment.memory.buffer
    transitions = buffer.transitions(np.arange(len(buffer)), 1, 0.5)
    with torch.no_grad():
        quantiles = experiment.agent.policy(torch.ones(1, 1)).reshape(2, 5)
    for action, exact in ((0, [4, 12, 20, 28, 36]), (1, [15.5, 16.5, 17.5, 18.5, 19.5])):
        rewards = transitions.rewards[transitions.actions == action].numpy()
        assert len(rewards) > 700
        assert quantiles[action].tolist() == pytest.approx(best_quantiles(rewards), abs=0.6 - 0.4 * action)
        assert quantiles[action].tolist() == pytest.approx(exact, abs=2 - 1.4 * action)
