"""Vector environments: serial in this process, or one subprocess each."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space

from plexp.envs.adapter import Array
from plexp.errors import EnvironmentFault


class SerialVectorEnv(VectorEnv[Array, Array, Array]):
    """N environments with Box observations, one after the other, with SAME_STEP resets.

    What gymnasium's SyncVectorEnv does, without what training has no use for (merged infos, general spaces): on the smallest
    environments a third of the time of a step.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        self.envs = [make() for make in makers]
        self.num_envs = len(self.envs)
        first = self.envs[0]
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = first.render_mode
        self.ends: dict[int, Any] = {}
        """The last frames of the episodes that ended in the last step, by environment."""
        self.takes_numbers = isinstance(self.single_action_space, spaces.Discrete)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin new episodes everywhere."""
        self.ends.clear()
        seeds = seed if isinstance(seed, list) else [seed] * self.num_envs
        return np.stack([env.reset(seed=s, options=options)[0] for env, s in zip(self.envs, seeds, strict=True)]), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """What ended is reset at once; the true last observation is in `info["final_obs"]`."""
        space = self.single_observation_space
        observations = np.empty((self.num_envs, *space.shape), space.dtype)  # type: ignore[misc]
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.empty(self.num_envs, np.bool_), np.empty(self.num_envs, np.bool_)
        finals: Array | None = None
        given = actions.tolist() if self.takes_numbers else actions
        self.ends.clear()
        for index, env in enumerate(self.envs):
            observation, rewards[index], ended, cut, _ = env.step(given[index])
            if ended or cut:
                finals = np.full(self.num_envs, None, object) if finals is None else finals
                finals[index] = observation
                if self.render_mode == "rgb_array":
                    self.ends[index] = env.render()
                observation, _ = env.reset()
            observations[index] = observation
            terminated[index], truncated[index] = ended, cut
        return observations, rewards, terminated, truncated, {} if finals is None else {"final_obs": finals}

    def render(self) -> tuple[Any, ...]:
        """What each environment shows after the last step; of an episode that ended in it, its end."""
        return tuple(self.ends[i] if i in self.ends else env.render() for i, env in enumerate(self.envs))

    def replay(self, episodes: Sequence[int], actions: Sequence[Array], expected: Array) -> tuple[Array, Array]:
        """See `SeededEpisodes.replay`: the observations [N, *obs], and whether they are the expected ones [N]."""
        given = [column.tolist() if self.takes_numbers else column for column in actions]
        played = [env.get_wrapper_attr("replay")(episodes, given, expected) for env in self.envs]
        return np.stack([observation for observation, _ in played]), np.array([equal for _, equal in played])

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


class SubprocessVectorEnv(AsyncVectorEnv):
    """gymnasium's AsyncVectorEnv with SAME_STEP resets, that does not wait for ever.

    Raises EnvironmentFault for an environment that takes longer than `step_timeout` seconds (None: it may take any time)
    to step or reset, and for one whose process died.
    """

    SETTLING_SECONDS = 5.0

    def __init__(
        self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]], *, step_timeout: float | None = None
    ) -> None:
        gymnasium.logger.min_level = gymnasium.logger.ERROR + 1  # it prints tracebacks of what it raises anyway
        self.step_timeout, self.is_broken = step_timeout, False
        super().__init__([partial(_made, make) for make in makers], autoreset_mode=AutoresetMode.SAME_STEP)

    def reset_async(self, *arguments: Any, **options: Any) -> None:
        self._sent(partial(super().reset_async, *arguments, **options))

    def step_async(self, actions: Any) -> None:
        self._sent(partial(super().step_async, actions))

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        result: tuple[Any, dict[str, Any]] = self._guarded(super().reset_wait, "reset", self.step_timeout)
        return result

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        result: tuple[Any, Array, Array, Array, dict[str, Any]] = self._guarded(
            super().step_wait, "step", self.step_timeout
        )
        return result

    def replay(self, episodes: Sequence[int], actions: Sequence[Array], expected: Array) -> tuple[Array, Array]:
        """See `SeededEpisodes.replay`: the observations [N, *obs], and whether they are the expected ones [N]."""
        given = [list(column) for column in actions]
        self._sent(partial(super().call_async, "replay", episodes, given, expected))
        played = self._guarded(super().call_wait, "replay", None)
        return np.stack([observation for observation, _ in played]), np.array([equal for _, equal in played])

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        waiting = self._state != AsyncState.DEFAULT  # as after Ctrl-C in the middle of a step
        self._state = AsyncState.DEFAULT
        super().close_extras(timeout, terminate or self.is_broken or waiting)

    def _sent(self, send: Callable[[], None]) -> None:
        try:
            send()
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _guarded(self, wait: Callable[[float | None], Any], what: str, seconds: float | None) -> Any:
        try:
            return wait(seconds)
        except multiprocessing.TimeoutError:
            self.is_broken = True
            index = next((i for i, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)), 0)
            limit = f"env.step_timeout={seconds:g} seconds"
            raise EnvironmentFault(f"environment {index} did not answer a {what} within {limit}", index) from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _death(self) -> EnvironmentFault:
        """Which process died, and how; its pipe breaks a little before its exit code is known."""
        self.is_broken = True
        over = connection.wait([process.sentinel for process in self.processes], self.SETTLING_SECONDS)
        for process in self.processes:
            if process.sentinel in over:
                process.join(self.SETTLING_SECONDS)
        codes = {i: process.exitcode for i, process in enumerate(self.processes) if process.exitcode is not None}
        index, code = next(iter(codes.items()), (0, None))
        return EnvironmentFault(f"the process of environment {index} died (exit code {code})", index)


def _made(make: Callable[[], gymnasium.Env[Any, Any]]) -> gymnasium.Env[Any, Any]:
    """The environment; in a process of its own, Ctrl-C is the run's affair, and SIGTERM ends even one that hangs."""
    if multiprocessing.current_process().name.startswith(f"Worker<{SubprocessVectorEnv.__name__}>"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return make()
