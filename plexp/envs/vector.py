"""Vector environments: N environments stepped one after the other in this process, or in a subprocess each."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import connection
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker
from gymnasium.vector.utils import batch_space

from plexp.envs.environment import Array
from plexp.envs.generators import construct
from plexp.errors import ConfigError, EnvironmentFault, Problem

EnvMaker: TypeAlias = Callable[[], gymnasium.Env[Any, Any]]
UNEQUAL = Problem("env", ..., "its environments have different spaces", "let each have the same, whatever its seed is")


class SerialVectorEnv(VectorEnv[Array, Array, Array]):
    """Vector environment that steps its environments one after the other in this process, with SAME_STEP resets.

    The environments have Box observations. It returns what gymnasium's SyncVectorEnv does, without what training does not
    need (merged infos, general spaces), which takes a third of a step's time on the smallest environments.
    """

    def __init__(self, makers: Sequence[EnvMaker]) -> None:
        self.envs = [construct(make) for make in makers]
        self.num_envs = len(self.envs)
        first = self.envs[0]
        for env in self.envs:
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                self.close()
                raise ConfigError(UNEQUAL)
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = first.render_mode
        self.final_frames: dict[int, Any] = {}
        """Last frames of the episodes that ended in the last step, by environment."""
        self.is_discrete = isinstance(self.single_action_space, spaces.Discrete)
        """Whether actions are single integers, which the environments get as Python's int."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start new episodes and return their first observations [N, *obs] and an empty info."""
        self.final_frames.clear()
        seeds = seed if isinstance(seed, list) else [seed] * self.num_envs
        observations = self._reserve()
        for row, env, s in zip(observations, self.envs, seeds, strict=True):
            row[...], _ = env.reset(seed=s, options=options)
        return observations, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step all environments; an episode that ends is reset at once, its last observation is in `info["final_obs"]`."""
        observations = self._reserve()
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.empty(self.num_envs, np.bool_), np.empty(self.num_envs, np.bool_)
        final_observations: Array | None = None
        env_actions = actions.tolist() if self.is_discrete else actions
        self.final_frames.clear()
        for i, env in enumerate(self.envs):
            observation, rewards[i], is_terminated, is_truncated, _ = env.step(env_actions[i])
            if is_terminated or is_truncated:
                if final_observations is None:
                    final_observations = np.full(self.num_envs, None, object)
                final_observations[i] = np.array(observation)  # a copy: the reset may change it in place
                if self.render_mode == "rgb_array":
                    self.final_frames[i] = env.render()
                observation, _ = env.reset()
            observations[i] = observation
            terminated[i], truncated[i] = is_terminated, is_truncated
        info = {} if final_observations is None else {"final_obs": final_observations}
        return observations, rewards, terminated, truncated, info

    def render(self) -> tuple[Any, ...]:
        """Return a frame of each environment after the last step; of an episode that ended in it, the last frame."""
        return tuple(
            self.final_frames[i] if i in self.final_frames else env.render() for i, env in enumerate(self.envs)
        )

    def resimulate(self, episodes: Sequence[int], actions: Sequence[Array], expected: Array) -> tuple[Array, Array]:
        """Re-simulate the episodes in progress; see `SeededEpisodes.resimulate`.

        Returns the observations [N, *obs], and whether they are the expected ones [N].
        """
        columns = [column.tolist() if self.is_discrete else column for column in actions]
        results = [env.get_wrapper_attr("resimulate")(episodes, columns, expected) for env in self.envs]
        return np.stack([observation for observation, _ in results]), np.array([equal for _, equal in results])

    def _reserve(self) -> Array:
        """Return memory for one observation of each environment."""
        space = self.single_observation_space
        return np.empty((self.num_envs, *space.shape), space.dtype)  # type: ignore[misc]

    def close_extras(self, **kwargs: Any) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()


class SubprocessVectorEnv(AsyncVectorEnv):
    """Vector environment that steps each environment in a subprocess of its own, with SAME_STEP resets.

    It is gymnasium's AsyncVectorEnv with a time limit: `step_timeout` seconds for a step or reset; None: none.

    Raises EnvironmentFault for an environment that takes longer, and for one whose process died.
    """

    SETTLING_SECONDS = 5.0
    """Longest wait for the exit code of a process whose pipe broke."""

    def __init__(self, makers: Sequence[EnvMaker], *, step_timeout: float | None = None) -> None:
        gymnasium.logger.min_level = gymnasium.logger.ERROR + 1  # it prints the tracebacks of what it raises anyway
        self.step_timeout, self.is_broken = step_timeout, False
        try:
            makers = [partial(_make_in_worker, make) for make in makers]
            super().__init__(makers, autoreset_mode=AutoresetMode.SAME_STEP, worker=_work)
        except RuntimeError as error:  # of gymnasium's, about the spaces
            self.close(terminate=True)
            raise ConfigError(UNEQUAL) from error
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def reset_async(self, *arguments: Any, **options: Any) -> None:
        """Ask all environments for a reset."""
        self._send(partial(super().reset_async, *arguments, **options))

    def step_async(self, actions: Any) -> None:
        """Ask all environments for a step with `actions` [N, *act]."""
        self._send(partial(super().step_async, actions))

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Return what `reset` returns, once all environments have answered."""
        result: tuple[Any, dict[str, Any]] = self._receive(super().reset_wait, "reset", self.step_timeout)
        return result

    def step_wait(self, timeout: float | None = None) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Return what `step` returns, once all environments have answered."""
        result: tuple[Any, Array, Array, Array, dict[str, Any]] = self._receive(
            super().step_wait, "step", self.step_timeout
        )
        return result

    def resimulate(self, episodes: Sequence[int], actions: Sequence[Array], expected: Array) -> tuple[Array, Array]:
        """Re-simulate the episodes in progress; see `SeededEpisodes.resimulate`.

        Returns the observations [N, *obs], and whether they are the expected ones [N].
        """
        columns = [list(column) for column in actions]
        self._send(partial(super().call_async, "resimulate", episodes, columns, expected))
        results = self._receive(super().call_wait, "resimulate", None)
        return np.stack([observation for observation, _ in results]), np.array([equal for _, equal in results])

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End all processes; without waiting for an answer that is still due, as after Ctrl-C in the middle of a step."""
        is_waiting = _abandon_pending_call(self)
        super().close_extras(timeout, terminate or self.is_broken or is_waiting)

    def _send(self, send: Callable[[], None]) -> None:
        try:
            send()
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _receive(self, wait: Callable[[float | None], Any], call: str, timeout: float | None) -> Any:
        try:
            return wait(timeout)
        except multiprocessing.TimeoutError:
            self.is_broken = True
            index = next((i for i, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)), 0)
            limit = f"env.step_timeout={timeout:g} seconds"
            raise EnvironmentFault(f"environment {index} did not answer a {call} within {limit}", index) from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _death(self) -> EnvironmentFault:
        """Return the fault that says which process died, and how; a pipe breaks shortly before the exit code is there."""
        self.is_broken = True
        ended = connection.wait([process.sentinel for process in self.processes], self.SETTLING_SECONDS)
        for process in self.processes:
            if process.sentinel in ended:
                process.join(self.SETTLING_SECONDS)
        codes = {i: process.exitcode for i, process in enumerate(self.processes) if process.exitcode is not None}
        index, code = next(iter(codes.items()), (0, None))
        return EnvironmentFault(f"the process of environment {index} died (exit code {code})", index)


def _work(index: int, make: EnvMaker, pipe: Any, parent_pipe: Any, memory: Any, errors: Any, *rest: Any) -> None:
    """Make an environment, and do in a subprocess what AsyncVectorEnv's own worker does (private to gymnasium, 1.4.0).

    Where it cannot be made, that is the answer to the first question; gymnasium's worker dies of it.
    """
    try:
        env = make()
    except Exception as error:
        pipe.recv()
        errors.put((index, type(error), error, ""))
        pipe.send((None, False))
        return
    _async_worker(index, lambda: env, pipe, parent_pipe, memory, errors, *rest)


def _make_in_worker(make: EnvMaker) -> gymnasium.Env[Any, Any]:
    """Make an environment; in a subprocess, leave Ctrl-C to the run, and let SIGTERM end even a process that hangs."""
    if _is_worker():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return construct(make)


def _is_worker() -> bool:
    """Return whether this process is a subprocess of SubprocessVectorEnv, by its name (private to gymnasium, 1.4.0).

    AsyncVectorEnv calls the first maker in the main process too, for the spaces.
    """
    return multiprocessing.current_process().name.startswith(f"Worker<{SubprocessVectorEnv.__name__}>")


def _abandon_pending_call(env: AsyncVectorEnv) -> bool:
    """Make AsyncVectorEnv forget the call that it has not been answered (private to gymnasium, 1.4.0).

    Returns whether there was one. Otherwise `close_extras` waits for the answer.
    """
    is_waiting = bool(env._state != AsyncState.DEFAULT)
    env._state = AsyncState.DEFAULT
    return is_waiting
