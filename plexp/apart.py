"""Environments stepped side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from plexp.errors import EnvironmentFault
from plexp.stepper import Array


class Apart(AsyncVectorEnv):
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
    if multiprocessing.current_process().name.startswith(f"Worker<{Apart.__name__}>"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return make()
