"""Tests of DQN: its targets against plain loops, its schedules, its target network, and what it learns where Q is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from plexp.config.hydra_errors import compose_values
from plexp.errors import ConfigError
from plexp.execution.experiment import build
from plexp.training.progress import TrainingProgress
from tests.support.off_policy import CHAIN, KNOWN, Make, batch, experiments, shake, train


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments("algo=dqn") as function:
        yield function


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["huber", "squared"])
@pytest.mark.parametrize("dueling", [False, True])
def test_the_loss_is_that_of_a_plain_loop(double: bool, kind: str, dueling: bool, make: Make) -> None:
    experiment = make(f"algo.double={double}", f"algo.loss={kind}", f"algo.dueling={dueling}")
    algorithm, rows = experiment.trainer.algorithm, batch(30, size=4, dims=None)
    shake(algorithm.target)
    loss, terms = algorithm.loss(rows)
    with torch.no_grad():
        here, there = algorithm.policy.policy(rows.observations), algorithm.target.policy(rows.next_observations)
        online = algorithm.policy.policy(rows.next_observations)
    total, values, errors = 0.0, [], []
    for i in range(30):
        chosen = int(online[i].argmax()) if double else int(there[i].argmax())
        target = float(rows.rewards[i]) + float(rows.discounts[i]) * float(there[i, chosen])
        values.append(float(here[i, int(rows.actions[i])]))
        errors.append(target - values[-1])
        error = abs(errors[-1])
        half = 0.5 * error**2 if kind == "squared" or error < 1 else error - 0.5
        total += float(rows.weights[i]) * half
    assert loss.item() == pytest.approx(total / 30, rel=1e-5)
    torch.testing.assert_close(terms["td_errors"], torch.tensor(errors), rtol=1e-4, atol=1e-5)
    assert terms["q_value"].item() == pytest.approx(float(np.mean(values)), rel=1e-4)


def test_dueling_values_have_the_mean_of_the_state_value(make: Make) -> None:
    head = make("algo.dueling=true").trainer.algorithm.policy.head
    features = torch.randn(5, 8)
    torch.testing.assert_close(head(features).mean(-1), head.value(features).squeeze(-1))
    advantages = head.advantages(features)
    torch.testing.assert_close(head(features).diff(dim=-1), advantages.diff(dim=-1))


def test_epsilon_falls_linearly_and_is_the_share_of_steps_that_explore(make: Make) -> None:
    experiment = make("algo.exploration_fraction=0.5", "algo.epsilon_end=0.2", "algo.learning_starts=400")
    algorithm, trajectory = experiment.trainer.algorithm, experiment.trainer.collector.collect()
    for progress, expected in ((0.0, 1.0), (0.25, 0.6), (0.5, 0.2), (0.9, 0.2)):
        assert algorithm.update(trajectory, progress)["epsilon"] == pytest.approx(expected)
        noise = algorithm.policy.distribution.draw_noise(np.random.default_rng(0), 4000)
        assert np.isinf(noise).any(-1).mean() == pytest.approx(expected, abs=0.03)


def test_the_target_network_moves_every_so_many_gradient_steps(make: Make) -> None:
    experiment = make("algo.target_update_every=3", "algo.target_tau=1", "algo.gradient_steps=1", "env.num_envs=4")
    algorithm, progress, equal = experiment.trainer.algorithm, TrainingProgress(), []
    learner = algorithm.learner
    ((target, followed),) = learner.targets
    while learner.count < 7:
        before = learner.count
        experiment.trainer.iterate(progress)
        if learner.count > before:
            equal.append(torch.equal(target.vector, followed.vector))
    assert equal == [False, False, True, False, False, True, False]
    assert torch.equal(followed.vector, torch.cat([p.reshape(-1) for p in algorithm.policy.parameters()]))
    assert torch.equal(target.vector, torch.cat([p.reshape(-1) for p in algorithm.target.parameters()]))


N_STEPS = ("algo.n_steps=3", "algo.epsilon_end=0", "algo.exploration_fraction=0.5", "replay.capacity=500")
"""The targets of several steps are those of the policy that acted: it is greedy in the end, and the buffer forgets."""


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [((), 0.005), (N_STEPS, 0.05), (("algo.dueling=true", "algo.double=false"), 0.005)],
)
def test_on_a_chain_the_values_become_those_that_are_known(
    options: tuple[str, ...], tolerance: float, make: Make
) -> None:
    exploring = () if options == N_STEPS else ("algo.epsilon_end=1",)
    experiment = make(*CHAIN, "algo.loss=squared", *exploring, *options)
    train(experiment)
    with torch.no_grad():
        values = experiment.agent.policy(torch.eye(2))
    torch.testing.assert_close(values, KNOWN, rtol=0, atol=tolerance)


REFUSED = {
    ("env=pendulum",): "algo=dqn: needs actions of a Discrete space",
    ("advantage=gae",): "advantage=gae: algo=dqn learns from past transitions",
    ("env.num_envs=3",): "algo.train_every=8: the 3 environments make a step each at once",
    (
        "replay.capacity=20",
        "algo.learning_starts=30",
    ): "replay.capacity=20: it holds fewer transitions than algo.learning",
    ("replay.capacity=10",): "replay.capacity=10: it holds fewer transitions than algo.learning_starts=32",
    ("replay.capacity=100_000_000_000",): "replay.capacity=100000000000: needs ",
    ("algo.clip_eps=0.2",): "algo.clip_eps: algo=dqn has no such parameter",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_does_not_fit_is_refused_in_one_line(overrides: tuple[str, ...], make: Make) -> None:
    with pytest.raises(ConfigError) as error:
        make(*overrides)
    assert any(REFUSED[overrides] in str(problem) for problem in error.value.problems), error.value


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algo=ppo", "advantage=none"), "advantage=none: algo=ppo weighs its policy gradient by advantages"),
        (("algo=a2c", "+replay=uniform"), "replay=uniform: algo=a2c learns from the rollouts of its own policy"),
    ],
)
def test_on_policy_algorithms_refuse_what_is_not_theirs(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(compose_values(*(each.replace("+", "") for each in overrides), "compile=false"))
    assert str(error.value).startswith(message)
