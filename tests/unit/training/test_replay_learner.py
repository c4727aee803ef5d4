"""Tests of the learner of replayed transitions: what it counts, draws, moves and restores."""

from __future__ import annotations

import copy
from collections.abc import Iterator

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


@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_a_learner_that_is_restored_continues_bit_for_bit(replay: str, make: Make) -> None:
    first, second = (make(f"replay={replay}", "env.num_envs=2") for _ in range(2))
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


def test_priorities_become_the_errors_that_the_loss_returned(make: Make) -> None:
    experiment = make(
        "replay=prioritized", "env.num_envs=2", "algo.gradient_steps=3", "replay.alpha=0.5", "replay.eps=0.01"
    )
    algorithm, seen = experiment.trainer.algorithm, []
    learner, buffer = algorithm.learner, algorithm.learner.memory.buffer
    update = buffer.update_priorities

    def recorded(indices: np.ndarray, td_errors: torch.Tensor) -> None:
        seen.append((indices, td_errors))
        update(indices, td_errors)

    buffer.update_priorities = recorded
    while not seen:
        experiment.trainer.iterate(TrainingProgress())
    indices, errors = seen[0]
    assert len(indices) == len(errors) == 3 * 16 and learner.count == 3
    last = {index: abs(float(error)) for index, error in zip(indices.tolist(), errors, strict=True)}
    for index, error in last.items():
        assert buffer.tree.leaves[index % buffer.size] == pytest.approx((error + 0.01) ** 0.5, rel=1e-5)


def test_importance_weights_reach_the_loss_and_correct_wholly_in_the_end(make: Make) -> None:
    experiment = make(
        "replay=prioritized", "env.num_envs=2", "replay.alpha=1.0", "replay.beta=0.4", "algo.gradient_steps=1"
    )
    for _ in range(10):
        experiment.trainer.iterate(TrainingProgress())
    learner, trajectory = experiment.trainer.algorithm.learner, experiment.trainer.collector.collect()
    buffer = learner.memory.buffer
    for progress, beta in ((0.0, 0.4), (1.0, 1.0)):
        state = copy.deepcopy(learner.rng.bit_generator.state)
        update = learner.batches(trajectory, progress)
        batch = next(update)
        learner.rng.bit_generator.state = state
        powers = buffer.tree.leaves.take(buffer.draw(learner.rng, 16) % buffer.size)
        np.testing.assert_allclose(batch.weights, (powers / powers.min()) ** -beta, rtol=1e-5)
        assert len(set(batch.weights.tolist())) > 3
        update.close()


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
    torch.testing.assert_close(batch.observations, experiment.agent.normalize(raw.observations))
    torch.testing.assert_close(batch.next_observations, experiment.agent.normalize(raw.next_observations))
    assert not torch.allclose(batch.observations, raw.observations)
