"""Randomness: one seed, a stream of its own for everything that draws, and a seed for every episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import torch

from plexp.envs.environment import EpisodeSeed
from plexp.errors import EnvironmentFault

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EpisodeSeeds:
    """f(environment's index, episode's index): so an episode is its seed and its actions, and can be played again."""

    entropy: int
    stream: tuple[int, ...]

    def __call__(self, environment: int, episode: int) -> int:
        sequence = np.random.SeedSequence(self.entropy, spawn_key=(*self.stream, environment, episode))
        return int(sequence.generate_state(1, np.uint32)[0])


class Streams:
    """The children of one `numpy.random.SeedSequence(seed)`: using one never shifts another."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        weights, actions, minibatches = (np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(3))
        self.weights = int(weights.generate_state(1, np.uint64)[0])
        """for torch.manual_seed while the networks are built"""
        self.actions = np.random.Generator(np.random.PCG64(actions))
        self.minibatches = np.random.Generator(np.random.PCG64(minibatches))
        self.training = EpisodeSeeds(seed, (3,))

    def state_dict(self) -> dict[str, Any]:
        """Where the streams are; torch's own is kept for plugins that draw from it."""
        drawn = {"actions": self.actions.bit_generator.state, "minibatches": self.minibatches.bit_generator.state}
        return {**drawn, "torch": torch.get_rng_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.actions.bit_generator.state = state_dict["actions"]
        self.minibatches.bit_generator.state = state_dict["minibatches"]
        torch.set_rng_state(state_dict["torch"])

    def evaluation(self, index: int) -> EpisodeSeeds:
        """Of the `index`-th evaluation: new episodes each time, never those of training."""
        return EpisodeSeeds(self.seed, (4, index))

    def later(self, number: int) -> EpisodeSeeds:
        """Of an evaluation when all is over, one of any number: never those of training or of its own evaluations."""
        return EpisodeSeeds(self.seed, (5, number))


class SeededEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives every `reset` the seed of its episode, whatever a vector environment asks for."""

    def __init__(self, env: gymnasium.Env[Any, Any], index: int, episode_seed: EpisodeSeed) -> None:
        super().__init__(env)
        self.index, self.episode_seed, self.episode = index, episode_seed, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode += 1
        try:
            return self.env.reset(seed=self.episode_seed(self.index, self.episode), options=options)
        except Exception as error:
            raise EnvironmentFault.of(error, "reset", self.index, self.episode) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except Exception as error:
            raise EnvironmentFault.of(error, "step", self.index, self.episode) from error

    def replay(self, episodes: Sequence[int], actions: Sequence[Sequence[Any]], expected: Array) -> tuple[Any, bool]:
        """Play its own of the episodes in progress (one of each environment) again, from its seed and its actions.

        Returns the observation that it leads to and whether that is the expected one; if not, that of a new episode.
        """
        self.episode = episodes[self.index] - 1
        observation, _ = self.reset()
        ended = False
        for action in actions[self.index]:
            observation, _, terminated, truncated, _ = self.step(action)
            ended = terminated or truncated
            if ended:
                break
        wanted = expected[self.index]
        if not ended and np.array_equal(np.asarray(observation, wanted.dtype), wanted, equal_nan=True):
            return observation, True
        return self.reset()[0], False
