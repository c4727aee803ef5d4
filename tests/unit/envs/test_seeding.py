"""Tests of random streams and of episodes, which their seed and actions determine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes, Streams


def training_seeds(streams: Streams) -> list[int]:
    return [streams.training(env, episode) for env in range(8) for episode in range(300)]


def evaluation_seeds(streams: Streams) -> list[int]:
    return [streams.evaluation(index)(env, episode) for index in range(30) for env in range(5) for episode in range(10)]


def test_every_episode_of_training_and_of_each_evaluation_has_a_seed_of_its_own() -> None:
    streams = Streams(3)
    seeds = training_seeds(streams) + evaluation_seeds(streams)
    assert len(set(seeds)) == len(seeds) == 8 * 300 + 30 * 5 * 10
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)


def test_episode_seeds_are_functions_of_seed_environment_and_episode_alone() -> None:
    first, second = Streams(3), Streams(3)
    first.actions.random(100), first.minibatches.random(7), first.training(0, 5)
    assert training_seeds(first) == training_seeds(second)
    assert evaluation_seeds(first) == evaluation_seeds(second)


@pytest.mark.parametrize("other", [4, 3 + 2**32, 3 + 2**63 - 2**40])
def test_another_seed_changes_every_stream(other: int) -> None:
    one, two = Streams(3), Streams(other)
    assert one.weights != two.weights
    assert not set(training_seeds(one)) & set(training_seeds(two))
    assert not np.array_equal(one.actions.random(4), two.actions.random(4))
    assert not np.array_equal(one.minibatches.random(4), two.minibatches.random(4))


def test_using_one_stream_never_shifts_another() -> None:
    used, fresh = Streams(0), Streams(0)
    used.actions.random(1000)
    assert np.array_equal(used.minibatches.random(8), fresh.minibatches.random(8))
    assert not np.array_equal(Streams(0).actions.random(8), Streams(0).minibatches.random(8))
    assert used.weights == fresh.weights


def test_every_reset_gets_the_next_episodes_seed_whatever_seed_was_asked_for() -> None:
    asked: list[int | None] = []

    class Spy(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            asked.append(seed)
            return self.env.reset(seed=seed, options=options)

    seeds = EpisodeSeeds(1, (3,))
    env = SeededEpisodes(Spy(gymnasium.make("plexp-tests/Counter-v0")), 2, seeds)
    for seed in (None, 7, None):
        env.reset(seed=seed)
    assert asked == [seeds(2, 0), seeds(2, 1), seeds(2, 2)]


@pytest.mark.parametrize("advantage", ["gae", "returns"])
def test_no_noise_is_used_twice_however_long_a_rollout_is(advantage: str, build: Callable[..., Any]) -> None:
    sizes = ("env.num_envs=2", "algo.num_steps=150", "algo.num_minibatches=1")
    experiment = build("env=pendulum", f"advantage={advantage}", *sizes, "policy.log_std=identity")
    agent, collector = experiment.agent, experiment.trainer.collector
    noise = []
    for rollout in (collector.collect(), collector.collect()):
        means = agent.policy(agent.read(rollout.observations.flatten(0, 1)))[:, :1]
        noise.append((rollout.actions.flatten(0, 1) - means).detach().numpy().round(4))
    drawn = np.concatenate(noise)
    assert len(drawn) >= 2 * 2 * 150
    assert len(np.unique(drawn)) > 0.95 * len(drawn), "some are equal by chance when rounded"


@pytest.mark.parametrize("problem", ["cartpole", "lunarlander", "lunarlander_continuous", "pendulum", "acrobot"])
def test_an_episode_is_determined_by_its_seed_and_actions(problem: str, build: Callable[..., Any]) -> None:
    """Play the actions of a training rollout in fresh environments, and compare bit for bit."""
    experiment = build(f"env={problem}", "env.num_envs=2", "algo.num_steps=260", "algo.num_minibatches=1")
    experiment.trainer.collector.scaler = None
    rollout = experiment.trainer.collector.collect()
    ends = rollout.terminated | rollout.truncated
    finished = 0
    for n in range(2):
        env = gymnasium.make(experiment.values["env"]["id"], **experiment.values["env"]["kwargs"])
        episode, observation = 0, env.reset(seed=experiment.streams.training(n, 0))[0]
        for t in range(260):
            np.testing.assert_array_equal(rollout.observations[t, n].numpy(), observation)
            action = experiment.agent.distribution.to_environment(rollout.actions[t, n][None])[0].numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            assert rollout.rewards[t, n] == np.float32(reward)
            assert bool(ends[t, n]) == (terminated or truncated)
            if terminated or truncated:
                episode += 1
                observation = env.reset(seed=experiment.streams.training(n, episode))[0]
        finished += episode
        env.close()
    assert finished > 0 or problem == "acrobot", "a second episode must have been met"
