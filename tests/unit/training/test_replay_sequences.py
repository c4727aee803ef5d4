"""Tests of the sequences that recurrent networks learn from past transitions, against a plain loop over the trajectories."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.nn.distributions import Categorical
from plexp.nn.exploration import DiscreteExploration
from plexp.nn.layout import ObservationReader
from plexp.nn.recurrent import GRUCore, LSTMCore, Recurrent, Sequences
from plexp.training.collector import Collector
from plexp.training.policy import ExploringPolicy
from plexp.training.replay.buffer import PrioritizedReplay, ReplayBuffer, ReplaySpec
from plexp.training.replay.log import ReplayLog
from plexp.training.replay.sequences import ETA, mixed_errors, sequences
from plexp.training.types import Trajectory

ENVS, GAMMA = 3, 0.9
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


def make_policy() -> ExploringPolicy:
    torch.manual_seed(2)
    trunk = Recurrent(nn.Linear(3, 4), GRUCore(4, 5, orthogonal=False))
    rule = DiscreteExploration(Categorical(3), greedy=True)
    policy = ExploringPolicy(rule, ObservationReader((3,)), trunk, nn.Linear(5, 3))
    policy.explore(1.0)
    return policy


def make_collector(policy: ExploringPolicy, mode: AutoresetMode) -> Collector:
    def make_one(index: int) -> gymnasium.Env[Any, Any]:
        seeds = EpisodeSeeds(11, (3,))
        return SeededEpisodes(gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True), index, seeds)

    env = SyncVectorEnv([partial(make_one, i) for i in range(ENVS)], autoreset_mode=mode)
    return Collector(env, policy, np.random.default_rng(5), None, num_steps=5, complete_episodes=False)


def make_spec(policy: ExploringPolicy) -> ReplaySpec:
    return ReplaySpec(ENVS, (3,), np.dtype(np.float32), (), torch.int64, policy.state_size)


class Step:
    """A step of an episode: what was observed, done and given, and the state before it."""

    def __init__(self, trajectory: Trajectory, t: int, n: int) -> None:
        assert trajectory.states is not None
        self.observation, self.action = trajectory.observations[t, n], int(trajectory.actions[t, n])
        self.reward, self.state = float(trajectory.rewards[t, n]), trajectory.states[t, n]
        self.terminated, self.truncated = bool(trajectory.terminated[t, n]), bool(trajectory.truncated[t, n])


def episodes_of(trajectories: list[Trajectory]) -> dict[int, tuple[list[Step], int, torch.Tensor]]:
    """Return, by its index in the buffer, the episode of each step, the step's place in it, and the last observation."""
    found: dict[int, tuple[list[Step], int, torch.Tensor]] = {}
    rows = [(trajectory, t) for trajectory in trajectories for t in range(len(trajectory.rewards))]
    for n in range(ENVS):
        steps: list[Step] = []
        indices: list[int] = []

        def close(last: torch.Tensor, steps: list[Step], indices: list[int]) -> None:
            found.update({index: (steps, place, last) for place, index in enumerate(indices)})

        for row, (trajectory, t) in enumerate(rows):
            if not trajectory.valid[t, n]:
                continue
            steps.append(Step(trajectory, t, n))
            indices.append(row * ENVS + n)
            if steps[-1].terminated or steps[-1].truncated or row == len(rows) - 1:
                finals = dict(zip(trajectory.final_index.tolist(), trajectory.final_observations, strict=True))
                following = rows[row + 1] if row + 1 < len(rows) else None
                after = (
                    trajectory.last_observations[n] if following is None else following[0].observations[following[1], n]
                )
                close(finals.get(t * ENVS + n, after), steps, indices)
                steps, indices = [], []
    return found


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "burn_in", "n_steps"), [(3, 2, 1), (1, 0, 1), (4, 3, 3), (50, 50, 2)])
def test_sequences_are_those_of_a_plain_loop(mode: AutoresetMode, length: int, burn_in: int, n_steps: int) -> None:
    policy = make_policy()
    collector = make_collector(policy, mode)
    trajectories = [collector.collect() for _ in range(5)]
    buffer = ReplayBuffer(ENVS * 100, make_spec(policy))
    for trajectory in trajectories:
        buffer.add(trajectory)
    episodes = episodes_of(trajectories)
    indices = np.array(sorted(episodes))
    assert len(indices) == len(buffer)
    with torch.no_grad():  # other weights than those that acted, so that the stored states count
        for parameter in policy.parameters():
            parameter += 0.1
    weights = np.linspace(0.5, 1, len(indices)).astype(np.float32)
    batch, lengths = sequences(buffer, indices, length, burn_in, n_steps, GAMMA, weights)
    values, following = policy.policy(batch.observations), policy.policy(batch.next_observations)
    row = 0
    for number, index in enumerate(indices):
        steps, place, last = episodes[int(index)]
        observations = [*(step.observation for step in steps), last]
        begin = max(0, place - burn_in)
        state, outputs = steps[begin].state[None], {}
        for k in range(begin, len(observations)):
            outputs[k], state = policy.step(observations[k][None], state)
        count = min(length, len(steps) - place)
        assert lengths[number] == count
        for k in range(place, place + count):
            end = min(k + n_steps, len(steps))
            torch.testing.assert_close(values[row], outputs[k][0], atol=1e-5, rtol=1e-5)
            assert batch.actions[row] == steps[k].action and batch.weights[row] == weights[number]
            expected = sum(GAMMA ** (j - k) * steps[j].reward for j in range(k, end))
            assert batch.rewards[row].item() == pytest.approx(expected, rel=1e-5)
            discount = 0.0 if steps[end - 1].terminated else GAMMA ** (end - k)
            assert batch.discounts[row].item() == pytest.approx(discount, rel=1e-5)
            if discount:
                torch.testing.assert_close(following[row], outputs[end][0], atol=1e-5, rtol=1e-5)
            row += 1
    assert row == len(batch.rewards)


def test_sequences_stay_within_what_the_ring_still_has() -> None:
    policy = make_policy()
    collector = make_collector(policy, AutoresetMode.SAME_STEP)
    buffer = ReplayBuffer(ENVS * 8, make_spec(policy))
    trajectories = []
    for _ in range(6):
        trajectories.append(collector.collect())
        buffer.add(trajectories[-1])
    episodes, oldest = episodes_of(trajectories), buffer.oldest * ENVS
    indices = np.array([index for index in sorted(episodes) if index >= oldest])
    batch, lengths = sequences(buffer, indices, 3, 4, 1, GAMMA)
    assert isinstance(batch.observations, Sequences)
    expected = [min(3, len(episodes[i][0]) - episodes[i][1]) for i in indices.tolist()]
    assert lengths.tolist() == expected
    before = batch.observations.burn_in
    assert before is not None
    numbers = [min(4, episodes[i][1], (i - oldest) // ENVS) for i in indices.tolist()]
    assert len(before.observations) == sum(numbers) and len(before.states) == sum(1 for n in numbers if n)


def test_a_draw_of_first_steps_has_no_burn_in() -> None:
    policy = make_policy()
    buffer = ReplayBuffer(ENVS * 100, make_spec(policy))
    buffer.add(make_collector(policy, AutoresetMode.SAME_STEP).collect())
    batch, _ = sequences(buffer, np.arange(ENVS), 2, 3, 1, GAMMA)
    assert isinstance(batch.observations, Sequences) and batch.observations.burn_in is None
    batch, _ = sequences(buffer, np.arange(ENVS), 2, 0, 1, GAMMA)
    assert isinstance(batch.observations, Sequences) and batch.observations.burn_in is None
    assert policy.policy(batch.observations).shape == (len(batch.rewards), 3)


def test_the_priority_of_a_sequence_is_mixed_of_its_errors() -> None:
    mixed = mixed_errors(torch.tensor([1.0, -3.0, 2.0, -5.0]), np.array([3, 1]))
    torch.testing.assert_close(mixed, torch.tensor([ETA * 3 + (1 - ETA) * 2, 5.0]))


def test_states_are_counted_in_the_memory_that_is_needed_and_come_back_from_the_log(tmp_path: Path) -> None:
    policy = make_policy()
    spec, collector = make_spec(policy), make_collector(policy, AutoresetMode.SAME_STEP)
    without = spec._replace(state_size=0)
    assert ReplayBuffer.nbytes(300, spec) - ReplayBuffer.nbytes(300, without) == 4 * 5 * 303
    log, buffer = ReplayLog(tmp_path), ReplayBuffer(300, spec)
    for _ in range(4):
        trajectory = collector.collect()
        log.append(trajectory)
        buffer.add(trajectory)
    log.sync()
    again = ReplayBuffer(300, spec)
    ReplayLog(tmp_path).restore(log.position(), again)
    used = slice(0, 20 * ENVS)
    assert buffer.states[used].any() and np.array_equal(again.states[used], buffer.states[used])


@pytest.mark.parametrize("algo", ["dqn", "qr_dqn"])
def test_prioritized_sequences_set_the_priority_of_their_first_transitions(algo: str, build: Any, train: Any) -> None:
    options = ("net=lstm", "net.size=8", "replay=prioritized", "algo.learning_starts=16", "algo.batch_size=4")
    with build(f"algo={algo}", *options, "env.num_envs=2", "compile=false") as experiment:
        train(experiment, 6)
        buffer = experiment.memory.buffer
        assert isinstance(buffer, PrioritizedReplay)
        leaves = buffer.tree.leaves[: buffer.added * 2]
        assert len(np.unique(leaves)) > 3 and isinstance(experiment.agent.trunk.core, LSTMCore)
