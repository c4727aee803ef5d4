"""Tests of DQN: its targets against plain loops, its schedules, its target network, and what it learns where Q is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from plexp import Transitions
from plexp.config.hydra_errors import compose_values
from plexp.errors import ConfigError
from plexp.execution.experiment import Experiment, build
from plexp.training.progress import TrainingProgress

TINY = (
    *("algo=dqn", "net.width=8", "algo.n_steps=1", "compile=false", "total_timesteps=400", "algo.learning_starts=32"),
    *("algo.batch_size=16", "evaluation.every=null"),
)


@pytest.fixture
def make() -> Iterator[Any]:
    """Return a function that builds an experiment of DQN; all are closed in the end."""
    made: list[Experiment] = []

    def function(*overrides: str) -> Experiment:
        made.append(build(compose_values(*TINY, *overrides)))
        return made[-1]

    yield function
    for experiment in made:
        experiment.close()


def batch(rows: int, seed: int = 0) -> Transitions:
    rng = np.random.default_rng(seed)
    return Transitions(
        observations=torch.from_numpy(rng.normal(size=(rows, 4)).astype(np.float32)),
        actions=torch.from_numpy(rng.integers(2, size=rows)),
        rewards=torch.from_numpy(rng.normal(size=rows).astype(np.float32) * 3),
        next_observations=torch.from_numpy(rng.normal(size=(rows, 4)).astype(np.float32)),
        discounts=torch.from_numpy((0.9 * (rng.random(rows) < 0.7)).astype(np.float32)),
        weights=torch.from_numpy(rng.random(rows).astype(np.float32)),
    )


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["huber", "squared"])
@pytest.mark.parametrize("dueling", [False, True])
def test_the_loss_is_that_of_a_plain_loop(double: bool, kind: str, dueling: bool, make: Any) -> None:
    experiment = make(f"algo.double={double}", f"algo.loss={kind}", f"algo.dueling={dueling}")
    algorithm, rows = experiment.trainer.algorithm, batch(30)
    with torch.no_grad():
        for p in algorithm.target.parameters():
            p.add_(0.3 * torch.randn_like(p))
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


def test_dueling_values_have_the_mean_of_the_state_value(make: Any) -> None:
    head = make("algo.dueling=true").trainer.algorithm.policy.head
    features = torch.randn(5, 8)
    torch.testing.assert_close(head(features).mean(-1), head.value(features).squeeze(-1))
    advantages = head.advantages(features)
    torch.testing.assert_close(head(features).diff(dim=-1), advantages.diff(dim=-1))


def test_epsilon_falls_linearly_and_is_the_share_of_steps_that_explore(make: Any) -> None:
    experiment = make("algo.exploration_fraction=0.5", "algo.epsilon_end=0.2", "algo.learning_starts=10_000")
    algorithm, trajectory = experiment.trainer.algorithm, experiment.trainer.collector.collect()
    for progress, expected in ((0.0, 1.0), (0.25, 0.6), (0.5, 0.2), (0.9, 0.2)):
        assert algorithm.update(trajectory, progress)["epsilon"] == pytest.approx(expected)
        noise = algorithm.policy.distribution.draw_noise(np.random.default_rng(0), 4000)
        assert np.isinf(noise).any(-1).mean() == pytest.approx(expected, abs=0.03)


def test_the_target_network_moves_every_so_many_gradient_steps(make: Any) -> None:
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


class Chain(gymnasium.Env[Any, Any]):
    """Two states: action 1 leads from the first to the second and from there to the end with 1, action 0 stays, with 0.1."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 0:
            return self._observation(), 0.1, False, False, {}
        self.state += 1
        return self._observation(), float(self.state == 2), self.state == 2, False, {}

    def _observation(self) -> Any:
        return np.eye(3, 2, -0, dtype=np.float32)[self.state]


gymnasium.register("plexp-tests/TwoStates-v0", f"{__name__}:Chain", max_episode_steps=6)


@pytest.mark.parametrize("options", [(), ("algo.n_steps=3",), ("algo.dueling=true", "algo.double=false")])
def test_on_a_chain_the_values_become_those_that_are_known(options: tuple[str, ...], make: Any) -> None:
    """Compare with Q for γ = 0.5: Q(s₁, ·) = (0.6, 1), Q(s₀, ·) = (0.1 + 0.5 · 0.5, 0.5 · 1); a time limit is no end."""
    environment = ("env=gymnasium", "env.id=tests.plugins.test_dqn:plexp-tests/TwoStates-v0", "env.num_envs=4")
    exploring = ("algo.epsilon_end=1", "gamma=0.5", "total_timesteps=6000", "algo.learning_rate=3e-3", "net.layers=1")
    if "algo.n_steps=3" in options:  # n-step targets are those of the policy that acted: greedy but for a little
        exploring = (*exploring, "algo.epsilon_end=0.0", "algo.exploration_fraction=0.5", "total_timesteps=9000")
    experiment = make(*environment, *exploring, "net.width=32", "algo.loss=squared", *options)
    experiment.trainer.run([], TrainingProgress())
    policy = experiment.trainer.algorithm.policy
    with torch.no_grad():
        values = policy.policy(torch.eye(2))
    assert values.argmax(-1).tolist() == [1, 1]
    known = torch.tensor([[0.35, 0.5], [0.6, 1.0]])
    assert (values - known).abs().max() < (0.3 if "algo.n_steps=3" in options else 0.05), values


REFUSED = {
    ("env=pendulum",): "algo=dqn: needs actions of a Discrete space",
    ("advantage=gae",): "advantage=gae: algo=dqn learns values",
    ("env.num_envs=3",): "algo.train_every=8: the 3 environments make a step each at once",
    (
        "replay.capacity=20",
        "algo.learning_starts=30",
    ): "replay.capacity=20: it holds fewer transitions than algo.learning",
    ("replay.capacity=10",): "replay.capacity=10: it holds fewer transitions than algo.batch_size=16",
    ("replay.capacity=100_000_000_000",): "replay.capacity=100000000000: needs ",
    ("algo.clip_eps=0.2",): "algo.clip_eps: algo=dqn has no such parameter",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_does_not_fit_is_refused_in_one_line(overrides: tuple[str, ...], make: Any) -> None:
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
