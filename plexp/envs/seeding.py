"""Randomness: one root seed, a separate stream for everything that draws, and a seed for every episode."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from plexp.envs import generators
from plexp.envs.checked import checked
from plexp.envs.environment import Array, EpisodeSeed
from plexp.envs.generators import GlobalUse, OwnGenerators
from plexp.envs.packing import MaskSource, choices, tell_of_mask
from plexp.envs.spaces import flattened
from plexp.errors import EnvironmentFault
from plexp.nn.layout import MASK


@dataclass(frozen=True)
class EpisodeSeeds:
    """Function (environment index, episode index) -> seed, which does not depend on what other episodes drew.

    So an episode is determined by its seed and its actions, and can be re-simulated alone.
    """

    entropy: int
    """Root of all seeds of the run."""
    stream: tuple[int, ...]
    """Spawn key of the stream below the root."""
    use: GlobalUse = field(default_factory=GlobalUse, compare=False, repr=False)
    """Record of the global generators that the environments with these seeds draw from, shared by those of a run."""

    def __call__(self, environment: int, episode: int) -> int:
        """Return the seed, a 32-bit integer, of the given episode of the given environment."""
        sequence = np.random.SeedSequence(self.entropy, spawn_key=(*self.stream, environment, episode))
        return int(sequence.generate_state(1, np.uint32)[0])


class Streams:
    """Random streams of a run: children of one `numpy.random.SeedSequence(seed)`, so that using one never shifts another.

    The spawn keys (0 weights, 1 actions, 2 minibatches, 3 training, 4 evaluation, 5 later, 6 global generators) must not
    change: with another key a recorded run is no longer reproduced.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        weights, actions, minibatches = (np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(3))
        self.weights = int(weights.generate_state(1, np.uint64)[0])
        """Seed for torch.manual_seed before the networks are built."""
        self.actions = np.random.Generator(np.random.PCG64(actions))
        """Source of the policy's noise in training."""
        self.minibatches = np.random.Generator(np.random.PCG64(minibatches))
        """Source of the order of the rows in minibatches."""
        self.use = GlobalUse()
        """Global generators that the run's environments draw from."""
        self.training = EpisodeSeeds(seed, (3,), self.use)
        """Seeds of the training episodes."""

    def seed_global_generators(self) -> None:
        """Seed the generators of `random`, `numpy.random` and torch, for plugins that draw from them."""
        generators.seed(np.random.SeedSequence(self.seed, spawn_key=(6,)))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the generators, and of the global ones for plugins that draw from them."""
        own = {"actions": self.actions.bit_generator.state, "minibatches": self.minibatches.bit_generator.state}
        return {**own, "global": generators.states()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the generators, the global ones included."""
        self.actions.bit_generator.state = state_dict["actions"]
        self.minibatches.bit_generator.state = state_dict["minibatches"]
        generators.restore(state_dict["global"])

    def evaluation(self, index: int) -> EpisodeSeeds:
        """Return the seeds of the run's `index`-th evaluation: new episodes each time, none of them a training episode."""
        return EpisodeSeeds(self.seed, (4, index), self.use)

    def later(self, number: int) -> EpisodeSeeds:
        """Return seeds for evaluating the recorded run, one set per `number`, apart from all that the run itself used."""
        return EpisodeSeeds(self.seed, (5, number), self.use)


class SeededEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that gives every `reset` the seed of its episode, whatever seed the vector environment asks for.

    Observations are made one array, and what the environment returns is checked; see `flattened` and CheckedEnv.

    The first and the last observation of an episode are copies: an environment may change the array that it returned, and
    vector environments reset it before they hand on the last one.

    Args:
        env: the environment.
        index: its index among those of the vector environment.
        episode_seed: seeds of the episodes.
        mask: where it says which actions are legal.

    Raises EnvironmentFault, which names environment and episode, for an exception in `reset` or `step` and for what they
    return that cannot be used; ConfigError for observations that cannot be flattened.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], index: int, episode_seed: EpisodeSeed, mask: MaskSource = "none"
    ) -> None:
        super().__init__(checked(flattened(env, mask)))
        self.index, self.episode_seed, self.episode = index, episode_seed, -1
        self.may_tell = mask == "none" and bool(choices(env.action_space))
        self.use = getattr(episode_seed, "use", None) or GlobalUse(warns=False)
        self.own_generators = OwnGenerators(self.use)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode with its own seed; `seed` is ignored."""
        self.episode += 1
        try:
            seed = self.episode_seed(self.index, self.episode)
            self.own_generators.seed(seed)
            observation, info = self.own_generators.call(self.env, self.env.reset, seed=seed, options=options)
            if self.may_tell and MASK in info:
                tell_of_mask(type(self.unwrapped).__name__ if self.spec is None else self.spec.id)
            return _copied(observation), info
        except (Exception, SystemExit) as error:
            raise EnvironmentFault.of(error, "reset", self.index, self.episode) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        try:
            step, own = self.env.step, self.own_generators
            result = step(action) if self.use.is_idle else own.call(self.env, step, action)
            if result[2] or result[3]:
                return _copied(result[0]), *result[1:]
            return result
        except (Exception, SystemExit) as error:
            raise EnvironmentFault.of(error, "step", self.index, self.episode) from error

    def resimulate(
        self, episodes: Sequence[int], actions: Sequence[Sequence[Any]], expected: Array
    ) -> tuple[Any, bool]:
        """Restore this environment's episode in progress by stepping it again from its seed with its actions.

        Args:
            episodes: index of the episode in progress of every environment, of which this one takes its own.
            actions: actions so far of every such episode, as the environments got them.
            expected: [N, *obs] observations that they must lead to.

        Returns:
            The observation it leads to and True if that is the expected one; otherwise the first observation of the
            next episode and False.
        """
        self.episode = episodes[self.index] - 1
        observation, _ = self.reset()
        has_ended = False
        for action in actions[self.index]:
            observation, _, terminated, truncated, _ = self.step(action)
            has_ended = terminated or truncated
            if has_ended:
                break
        target = expected[self.index]
        if not has_ended and np.array_equal(np.asarray(observation, target.dtype), target, equal_nan=True):
            return _copied(observation), True
        return self.reset()[0], False


def _copied(observation: Any) -> Any:
    """Return a copy of an observation; of nested ones, of each of their arrays."""
    if isinstance(observation, np.ndarray):
        return observation.copy()
    return copy.deepcopy(observation)
