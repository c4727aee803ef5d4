"""Randomness: one seed, a stream of its own for everything that draws, and a seed for every episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from plexp.interfaces import EpisodeSeed


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

    def evaluation(self, index: int) -> EpisodeSeeds:
        """Of the `index`-th evaluation: new episodes each time, never those of training."""
        return EpisodeSeeds(self.seed, (4, index))


class SeededEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives every `reset` the seed of its episode, whatever a vector environment asks for."""

    def __init__(self, env: gymnasium.Env[Any, Any], index: int, episode_seed: EpisodeSeed) -> None:
        super().__init__(env)
        self.index, self.episode_seed, self.episode = index, episode_seed, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode += 1
        return self.env.reset(seed=self.episode_seed(self.index, self.episode), options=options)
