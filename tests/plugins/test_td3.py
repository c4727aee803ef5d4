"""Tests of TD3 and DDPG: targets and losses against plain loops, delayed updates, and a bandit whose optimum is known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from scipy.stats import kstest, uniform

from plexp.errors import ConfigError
from plexp.training.progress import TrainingProgress
from tests.support.off_policy import BANDIT, Make, batch, experiments, shake, train


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments("env=pendulum") as function:
        yield function


def member(critics: torch.nn.Module, k: int, observation: torch.Tensor, action: torch.Tensor) -> float:
    """Return Q_k(s, a) by plain matrix products, of a critic with two hidden layers of tanh."""
    w1, b1, w2, b2, w3, b3 = critics.members[k].parameters()
    hidden = torch.tanh(w2 @ torch.tanh(w1 @ torch.cat([observation, action]) + b1) + b2)
    return float((w3 @ hidden + b3).detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.4, 1.0])
def test_the_critics_loss_is_that_of_a_plain_loop(smoothing: float, make: Make) -> None:
    experiment = make("algo=td3", f"algo.target_noise={smoothing}", "algo.target_noise_clip=0.5")
    algorithm, rows = experiment.trainer.algorithm, batch(30, size=3, dims=1, noise=(1,))
    shake(algorithm.target_policy, algorithm.target_critics, algorithm.policy)
    loss, terms = algorithm.critic_loss(rows)
    total, errors = 0.0, []
    for i in range(30):
        with torch.no_grad():
            action = algorithm.target_policy.policy(rows.next_observations[i : i + 1])[0].tanh()
        noise = max(-0.5, min(0.5, smoothing * float(rows.noise[i])))
        action = torch.clamp(action + noise, -1, 1)
        least = min(member(algorithm.target_critics, k, rows.next_observations[i], action) for k in range(2))
        target = float(rows.rewards[i]) + float(rows.discounts[i]) * least
        values = [member(algorithm.critics, k, rows.observations[i], rows.actions[i]) for k in range(2)]
        total += float(rows.weights[i]) * sum(0.5 * (value - target) ** 2 for value in values)
        errors.append(target - sum(values) / 2)
    assert loss.item() == pytest.approx(total / 30, rel=1e-5)
    torch.testing.assert_close(terms["td_errors"], torch.tensor(errors), rtol=1e-4, atol=1e-4)


def test_the_policys_loss_is_minus_the_first_critics_mean(make: Make) -> None:
    algorithm, rows = make("algo=td3").trainer.algorithm, batch(30, size=3, dims=1)
    shake(algorithm.policy)
    loss, _ = algorithm.policy_loss(rows)
    with torch.no_grad():
        actions = algorithm.policy.policy(rows.observations).tanh()
    values = [member(algorithm.critics, 0, rows.observations[i], actions[i]) for i in range(30)]
    assert loss.item() == pytest.approx(-sum(values) / 30, rel=1e-5)


@pytest.mark.parametrize(("algo", "delay"), [("td3", 2), ("td3", 3), ("ddpg", 1)])
def test_the_policy_moves_at_every_so_many_gradient_steps(algo: str, delay: int, make: Make) -> None:
    experiment = make(f"algo={algo}", f"algo.policy_delay={delay}", "algo.gradient_steps=1", "env.num_envs=2")
    algorithm, moved = experiment.trainer.algorithm, []
    policy, critics = (optimizer.adam.flat for optimizer in (algorithm.policy_optimizer, algorithm.critic_optimizer))
    while algorithm.learner.count < 7:
        before, count = [policy.clone(), critics.clone()], algorithm.learner.count
        experiment.trainer.iterate(TrainingProgress())
        if algorithm.learner.count > count:
            moved.append(not torch.equal(before[0], policy))
            assert not torch.equal(before[1], critics)
    assert moved == [(i + 1) % delay == 0 for i in range(7)]


def test_ddpg_is_a_configuration_with_one_critic_no_delay_and_no_smoothing(make: Make) -> None:
    algorithm = make("algo=ddpg").trainer.algorithm
    assert len(algorithm.critics.members) == 1
    assert algorithm.policy_delay == 1 and algorithm.target_noise == 0


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_actions_are_uniform_before_learning_starts_and_then_the_policys(algo: str, make: Make) -> None:
    own = ("algo.noise_scale=0.1",) if algo == "td3" else ()
    experiment = make(
        f"algo={algo}",
        "env.num_envs=4",
        "algo.train_every=1024",
        "algo.learning_starts=2048",
        "total_timesteps=4096",
        *own,
    )
    shake(experiment.agent)  # or SAC's first actions would be almost uniform anyway
    for _ in range(2):
        trajectory = experiment.trainer.collector.collect()
        actions = trajectory.actions.flatten() if algo == "td3" else trajectory.actions.flatten().tanh()
        assert kstest(actions.numpy(), uniform(-1, 2).cdf).pvalue > 0.001
        assert not experiment.trainer.algorithm.learner.count
        experiment.trainer.algorithm.update(trajectory, 0.5)
    assert experiment.trainer.algorithm.learner.count
    experiment.trainer.algorithm.update(trajectory, 0.5)
    trajectory = experiment.trainer.collector.collect()
    with torch.no_grad():
        parameters = experiment.agent.policy(trajectory.observations.flatten(0, 1))
    actions = trajectory.actions.flatten(0, 1)
    if algo == "sac":
        mean, log_std = parameters.chunk(2, -1)
        assert kstest(((actions - mean) / log_std.exp()).flatten().numpy(), "norm").pvalue > 0.001
    else:
        noise = (actions - parameters.tanh())[parameters.tanh().abs() < 0.6]
        assert kstest(noise.flatten().numpy() / 0.1, "norm").pvalue > 0.001


@pytest.mark.parametrize("algo", ["td3", "ddpg"])
def test_on_a_bandit_policy_and_values_become_those_that_are_known(algo: str, make: Make) -> None:
    """Compare with the optimum a = 0.6, which is 0.3 when scaled to −1…1, and Q(a) = −(2a − 0.6)²."""
    experiment = make(f"algo={algo}", *BANDIT)
    train(experiment)
    one = torch.ones(1, 1)
    assert experiment.agent.act_greedily(one, torch.zeros(len(one), 0))[0].item() == pytest.approx(0.3, abs=0.04)
    for action in (-0.8, 0.0, 0.3, 0.9):
        with torch.no_grad():
            value = experiment.trainer.algorithm.critics(one, torch.full((1, 1), action))[0]
        assert value.item() == pytest.approx(-((2 * action - 0.6) ** 2), abs=0.15)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("algo=td3", "env=cartpole"),
            "algo=td3: needs actions of a Box of floats with finite bounds, and these are Discrete(2); give algo=dqn or sac",
        ),
        (("algo=ddpg", "env=cartpole"), "algo=td3: needs actions of a Box"),
    ],
)
def test_actions_that_are_not_continuous_are_refused(overrides: tuple[str, ...], message: str, make: Make) -> None:
    with pytest.raises(ConfigError) as error:
        make(*overrides)
    assert str(error.value).startswith(message)
