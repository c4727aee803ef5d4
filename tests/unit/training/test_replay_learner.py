"""Tests of the learner of replayed transitions: what it counts, draws, moves and restores."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from plexp.training.progress import TrainingProgress
from tests.support.off_policy import Make, experiments


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments("algo=dqn", "env=cartpole") as function:
        yield function


@pytest.mark.parametrize("num_envs", [1, 2, 8])
def test_steps_are_counted_over_all_environments(num_envs: int, make: Make) -> None:
    """Gradient steps after S steps are the same whatever the number of environments that made them."""
    options = ("algo.train_every=8", "algo.gradient_steps=2", "algo.learning_starts=40")
    experiment, progress = make(f"env.num_envs={num_envs}", *options), TrainingProgress()
    for iteration in range(1, 9):
        experiment.trainer.iterate(progress)
        assert progress.steps == 8 * iteration
        assert experiment.trainer.algorithm.learner.count == 2 * max(0, iteration - 4)


@pytest.mark.parametrize("env_steps", [40, 41, 48])
def test_learning_starts_with_the_first_update_after_so_many_steps(env_steps: int, make: Make) -> None:
    options = ("algo.train_every=8", "algo.gradient_steps=3", f"algo.learning_starts={env_steps}", "env.num_envs=4")
    experiment, progress, counts = make(*options), TrainingProgress(), {}
    learner = experiment.trainer.algorithm.learner
    before = learner.vectors[0].vector.clone()
    for _ in range(7):
        experiment.trainer.iterate(progress)
        counts[progress.steps] = learner.count
        assert torch.equal(learner.vectors[0].vector, before) == (learner.count == 0)
    assert counts == {steps: 3 * max(0, (steps - math.ceil(env_steps / 8) * 8) // 8 + 1) for steps in counts}


def test_nothing_is_learnt_from_fewer_transitions_than_a_batch(make: Make) -> None:
    experiment = make("env.num_envs=1", "algo.train_every=4", "algo.learning_starts=0", "algo.gradient_steps=1")
    counts = []
    for _ in range(5):
        experiment.trainer.iterate(TrainingProgress())
        counts.append(experiment.trainer.algorithm.learner.count)
    assert counts == [0, 0, 0, 1, 2]  # a batch is 16


def test_targets_move_part_of_the_way_after_every_so_many_gradient_steps(make: Make) -> None:
    experiment = make("algo.target_update_every=2", "algo.target_tau=0.25", "algo.gradient_steps=1", "env.num_envs=4")
    learner = experiment.trainer.algorithm.learner
    ((target, followed),) = learner.targets
    while learner.count < 6:
        before, count = target.vector.clone(), learner.count
        experiment.trainer.iterate(TrainingProgress())
        if learner.count > count:
            expected = before.lerp(followed.vector, 0.25) if learner.count % 2 == 0 else before
            torch.testing.assert_close(target.vector, expected, rtol=0, atol=0)


@pytest.mark.parametrize("algo", [("dqn", "cartpole"), ("td3", "pendulum"), ("sac", "pendulum"), ("sac", "cartpole")])
@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_a_learner_that_is_restored_continues_bit_for_bit(replay: str, algo: tuple[str, str], make: Make) -> None:
    overrides = (f"algo={algo[0]}", f"env={algo[1]}", f"replay={replay}", "env.num_envs=2", "algo.gradient_steps=3")
    first, second = (make(*overrides) for _ in range(2))
    for _ in range(8):
        first.trainer.iterate(TrainingProgress())
    batches = [first.trainer.collector.collect() for _ in range(3)]
    learner, other = first.trainer.algorithm.learner, second.trainer.algorithm.learner
    assert learner.count > 0 and first.memory is not None and second.memory is not None
    second.memory.buffer = copy.deepcopy(first.memory.buffer)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    other.rng.bit_generator.state = learner.rng.bit_generator.state
    for trajectory in batches:
        metrics = [each.trainer.algorithm.update(trajectory, 0.5) for each in (first, second)]
        assert metrics[0] == metrics[1]
    for mine, theirs in zip(learner.vectors, other.vectors, strict=True):
        assert torch.equal(mine.vector, theirs.vector)


@pytest.mark.parametrize("algo", [("dqn", "cartpole"), ("td3", "pendulum"), ("sac", "pendulum"), ("sac", "cartpole")])
def test_priorities_become_the_errors_that_the_loss_returned(algo: tuple[str, str], make: Make) -> None:
    options = ("replay=prioritized", "env.num_envs=2", "algo.gradient_steps=3", "replay.alpha=0.5", "replay.eps=0.01")
    experiment = make(f"algo={algo[0]}", f"env={algo[1]}", *options)
    algorithm, returned, drawn = experiment.trainer.algorithm, [], []
    learner, buffer = algorithm.learner, algorithm.learner.memory.buffer
    name = "loss" if algo[0] == "dqn" else "critic_loss"
    loss, transitions = getattr(algorithm, name), buffer.transitions

    def recorded(batch: Any) -> Any:
        total, terms = loss(batch)
        returned.append(terms["td_errors"].clone())
        return total, terms

    def noted(indices: np.ndarray, *others: Any) -> Any:
        drawn.append(indices)
        return transitions(indices, *others)

    setattr(algorithm, name, recorded)
    buffer.transitions = noted
    while learner.count < 6:
        experiment.trainer.iterate(TrainingProgress())
    errors = {}
    for indices, rows in zip(np.concatenate(drawn).reshape(-1, 16).tolist(), returned, strict=True):
        errors |= dict(zip(indices, rows.tolist(), strict=True))  # the later one counts
    assert len(returned) == 6 and len(errors) > 20
    for index, error in errors.items():
        assert buffer.tree.leaves[index % buffer.size] == pytest.approx((abs(error) + 0.01) ** 0.5, rel=1e-5)


def test_what_an_update_records_is_the_mean_over_its_gradient_steps(make: Make) -> None:
    experiment = make("algo=td3", "env=pendulum", "env.num_envs=2", "algo.gradient_steps=4", "algo.policy_delay=2")
    algorithm, seen = experiment.trainer.algorithm, []
    loss = algorithm.policy_loss

    def recorded(batch: Any) -> Any:
        seen.append(loss(batch))
        return seen[-1]

    algorithm.policy_loss = recorded
    metrics = {}
    while not seen:
        metrics = experiment.trainer.iterate(TrainingProgress())
    assert len(seen) == 2
    assert metrics["policy_loss"] == pytest.approx(sum(float(total.detach()) for total, _ in seen) / 2, rel=1e-5)
    assert {"critic_loss", "critic_grad_norm", "policy_grad_norm", "q_value"} <= metrics.keys()


@pytest.mark.parametrize(("anneals", "share"), [("true", 0.25), ("false", 1.0)])
def test_the_learning_rate_falls_with_the_share_of_the_budget_that_is_left(
    anneals: str, share: float, make: Make
) -> None:
    """Compare with Adam's first step, which moves each parameter by at most the learning rate, and most by nearly that."""
    rate = ("algo.learning_rate=0.01", f"algo.anneal_learning_rate={anneals}", "algo.max_grad_norm=null")
    experiment = make(*rate, "env.num_envs=1", "algo.train_every=40", "algo.gradient_steps=1")
    vector = experiment.trainer.algorithm.learner.vectors[0].vector
    before = vector.clone()
    experiment.trainer.algorithm.update(experiment.trainer.collector.collect(), 0.75)
    moved = (vector - before).abs()
    assert moved.max().item() == pytest.approx(0.01 * share, rel=1e-3)
    assert moved[moved > 0].median().item() == pytest.approx(0.01 * share, rel=1e-2)


def test_importance_weights_of_each_batch_correct_wholly_in_the_end(make: Make) -> None:
    options = ("replay=prioritized", "env.num_envs=2", "replay.alpha=1.0", "replay.beta=0.4", "algo.gradient_steps=2")
    experiment = make(*options)
    for _ in range(10):
        experiment.trainer.iterate(TrainingProgress())
    learner, trajectory = experiment.trainer.algorithm.learner, experiment.trainer.collector.collect()
    buffer = learner.memory.buffer
    for progress, beta in ((0.0, 0.4), (0.25, 0.55), (1.0, 1.0)):
        state = copy.deepcopy(learner.rng.bit_generator.state)
        first, second = (batch.weights for batch in learner.batches(trajectory, progress))
        learner.rng.bit_generator.state = state
        drawn = buffer.tree.leaves.take(buffer.draw(learner.rng, 32) % buffer.size)
        assert drawn[:16].min() != drawn[16:].min()
        for weights, powers in ((first, drawn[:16]), (second, drawn[16:])):
            np.testing.assert_allclose(weights, (powers / powers.min()) ** -beta, rtol=1e-5)
            assert len(set(weights.tolist())) > 3


def test_observations_are_normalized_with_the_statistics_of_the_moment(make: Make) -> None:
    experiment = make("env.normalize_observations=true", "env.num_envs=2", "algo.gradient_steps=1")
    for _ in range(10):
        experiment.trainer.iterate(TrainingProgress())
    learner = experiment.trainer.algorithm.learner
    state = copy.deepcopy(learner.rng.bit_generator.state)
    trajectory = experiment.trainer.collector.collect()
    (batch,) = learner.batches(trajectory, 0.0)
    learner.rng.bit_generator.state = state
    raw = learner.memory.buffer.transitions(learner.memory.buffer.draw(learner.rng, 16), 1, 0.99)
    torch.testing.assert_close(batch.observations, experiment.agent.read(raw.observations))
    torch.testing.assert_close(batch.next_observations, experiment.agent.read(raw.next_observations))
    assert not torch.allclose(batch.observations, raw.observations)
