"""Small environments with known answers, registered with gymnasium as `plexp-tests/...`.

On a command line that is run in the checkout: `env.id=tests.support.environments:plexp-tests/Chain-v0`.
"""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

QUIET = ("env.normalize_observations=false", "env.scale_rewards=false", "net.layers=1", "net.width=16")
"""Overrides for a small network and no normalization, so that the critic learns the environment's own returns."""


class Counter(gymnasium.Env[Any, Any]):
    """Environment whose rows can be told apart: it observes (number of the episode, its step, the last action).

    The number is drawn with the episode's seed. It determines the length, 2…6 steps, and whether the episode is
    terminated or truncated.
    """

    observation_space = spaces.Box(-1, 1e4, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.serial, self.step_number = int(self.np_random.integers(1000)), 0
        return self._observation(-1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        ends = self.step_number == 2 + self.serial % 5
        reward = self.serial % 7 + 10 * self.step_number + 0.25 * int(action)
        terminates = self.serial // 5 % 2 == 0
        return self._observation(int(action)), float(reward), ends and terminates, ends and not terminates, {}

    def _observation(self, action: int) -> np.ndarray:
        return np.array([self.serial, self.step_number, action], np.float32)


class Bandit(gymnasium.Env[Any, Any]):
    """Bandit with four arms and one step an episode; mean rewards `ARMS`, with a little noise. The third is best."""

    ARMS = (0.1, 0.4, 1.0, 0.5)
    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), self.ARMS[int(action)] + 0.1 * float(self.np_random.normal()), True, False, {}


class Chain(gymnasium.Env[Any, Any]):
    """Chain of five one-hot states, passed from left to right whatever the action; leaving state i pays REWARDS[i].

    Leaving the last state terminates the episode. V(i) = Σ_k γ^k REWARDS[i + k].
    """

    REWARDS = (1.0, -2.0, 0.5, 0.0, 3.0)
    observation_space = spaces.Box(0, 1, (5,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return np.eye(5, dtype=np.float32)[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, ends = self.REWARDS[self.state], self.state == 4
        self.state = min(self.state + 1, 4)
        return np.eye(5, dtype=np.float32)[self.state], reward, ends, False, {}

    @classmethod
    def values(cls, gamma: float) -> list[float]:
        """Return V of each state, in closed form."""
        return [sum(gamma**k * r for k, r in enumerate(cls.REWARDS[i:])) for i in range(5)]


class Cycle(gymnasium.Env[Any, Any]):
    """Cycle of three one-hot states, passed whatever the action; leaving state i pays REWARDS[i].

    An episode is truncated after four steps, in state 1, and the next one starts in state 0, so that the row after a
    truncation is not the true successor.

    V(i) = Σ_{k<3} γ^k REWARDS[(i + k) mod 3] / (1 − γ³).
    """

    REWARDS = (2.0, -1.0, 0.5)
    observation_space = spaces.Box(0, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.eye(3, dtype=np.float32)[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.REWARDS[self.time % 3]
        self.time += 1
        return np.eye(3, dtype=np.float32)[self.time % 3], reward, False, self.time == 4, {}

    @classmethod
    def values(cls, gamma: float) -> list[float]:
        """Return V of each state, in closed form."""
        rounds = [sum(gamma**k * cls.REWARDS[(i + k) % 3] for k in range(3)) for i in range(3)]
        return [once / (1 - gamma**3) for once in rounds]


class Constant(gymnasium.Env[Any, Any]):
    """Environment that pays 1 a step, five steps an episode.

    With `terminates` episodes end by termination and the time is observed (one-hot); without it they are truncated and
    the observation is constant.
    """

    LENGTH = 5
    action_space = spaces.Discrete(2)

    def __init__(self, terminates: bool) -> None:
        self.terminates = terminates
        self.observation_space = spaces.Box(0, 1, (self.LENGTH + 1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        ends = self.time == self.LENGTH
        return self._observation(), 1.0, ends and self.terminates, ends and not self.terminates, {}

    def _observation(self) -> np.ndarray:
        return np.eye(self.LENGTH + 1, dtype=np.float32)[self.time if self.terminates else 0]


class Endless(gymnasium.Env[Any, Any]):
    """Environment whose episodes end after three steps or never, by chance; it pays 1 a step and observes its step.

    Args:
        share: share of the episodes that never end.
    """

    observation_space = spaces.Box(0, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.never_ends = 0, bool(self.np_random.random() < self.share)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.full(1, self.time, np.float32), 1.0, self.time == 3 and not self.never_ends, False, {}


class Globals(gymnasium.Env[Any, Any]):
    """Environment whose observations, rewards and lengths are drawn from a global generator, and not from `np_random`.

    Args:
        generator: `random`, `numpy.random` or `torch`, or `none` for `np_random`.
        where: `reset`, `step` or `constructor`; what the other two observe is 0.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, generator: str, where: str = "step") -> None:
        self.generator, self.where = generator, where
        self.layout = self._draw("constructor")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.start = 0, self._draw("reset")
        return self._observation(0.0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        noise = self._draw("step")
        length = 4 + abs(int(3 * self.start)) + abs(int(3 * self.layout))
        return self._observation(noise), noise + self.start + int(action), self.time >= length or noise > 2, False, {}

    def _draw(self, where: str) -> float:
        if where != self.where:
            return 0.0
        draw = {
            "random": lambda: random.gauss(0, 1),
            "numpy.random": np.random.randn,
            "torch": lambda: torch.randn(()),
            "none": lambda: self.np_random.normal(),
        }
        return float(draw[self.generator]())

    def _observation(self, noise: float) -> np.ndarray:
        return np.array([noise, self.start, self.layout, self.time], np.float32)


class Faulty(gymnasium.Env[Any, Any]):
    """Environment with one fault, at its `at`-th step or reset; otherwise it pays 1 a step, ten steps an episode."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str, at: int = 3) -> None:
        if fault == "constructor":
            raise OSError("no such device\nsecond line")
        self.fault, self.at, self.time, self.resets = fault, at, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets += 1
        if self.fault == "reset" and self.resets == self.at:
            raise ValueError("the reset broke\nsecond line")
        self.time = 0
        bad = self.fault == "nan first observation" and self.resets == self.at
        return np.full(2, np.nan if bad else 0, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        now, last = self.time == self.at, self.time == 10
        if self.fault == "step" and now:
            raise ValueError("the physics broke\nsecond line")
        if self.fault == "hang" and now:
            time.sleep(3600)
        reward = {"nan reward": np.nan, "inf reward": np.inf}.get(self.fault, 1.0) if now else 1.0
        bad = (self.fault == "nan observation" and now) or (self.fault == "nan final observation" and last)
        seen = np.nan if bad else 5.0 if self.fault == "outside" and now else 0.0
        return np.full(2, seen, np.float32), reward, False, last, {}


SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "matrix": spaces.Box(-1, 1, (2, 3), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "doubles": spaces.Box(-2, 3, (2,), np.float64),
    "halves": spaces.Box(np.array([-0.1, 1000.0], np.float16), np.array([0.1, 1003.0], np.float16), dtype=np.float16),
    "unbounded halves": spaces.Box(-np.inf, np.inf, (2,), np.float16),
    "many integers": spaces.Box(0, 5000, (2,), np.int64),
    "few integers": spaces.Box(np.array([-2, 7]), np.array([3, 9]), dtype=np.int32),
    "discrete of 32 bits": spaces.Discrete(3, start=5, dtype=np.int32),
    "multidiscrete of 32 bits": spaces.MultiDiscrete([2, 3], np.int32, start=[4, -1]),
    "largest": spaces.Box(-3.4e38, 3.4e38, (2,), np.float32),
    "far": spaces.Box(100, 200, (2,), np.float32),
    "narrow": spaces.Box(0, 1e-3, (2,), np.float32),
    "partly fixed": spaces.Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32)),
    "integers": spaces.Box(0, 5, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "image": spaces.Box(0, 255, (36, 40, 3), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "small image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[1, -1]),
    "multibinary": spaces.MultiBinary(4),
    "dict": spaces.Dict(position=spaces.Box(-1, 1, (2,), np.float32), mode=spaces.Discrete(3)),
    "pictures": spaces.Dict(
        camera=spaces.Box(0, 255, (36, 40, 3), np.uint8),
        speed=spaces.Box(-1, 1, (3,), np.float32),
        mode=spaces.Discrete(3),
        inner=spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-9, 9, (2, 2), np.float64))),
    ),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32))),
    "mixed": spaces.Dict(
        gear=spaces.Discrete(3, start=-1),
        wheel=spaces.Box(-2, 2, (2,), np.float32),
        lights=spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
        lever=spaces.Box(0, 5, (1,), np.int64),
    ),
    "text": spaces.Text(5),
    "sequence": spaces.Sequence(spaces.Discrete(2)),
}


class Any2Any(gymnasium.Env[Any, Any]):
    """Environment with random observations and rewards over any spaces; it refuses actions outside its space.

    An episode has six steps.
    """

    def __init__(self, sees: str, acts: str) -> None:
        self.observation_space, self.action_space = copy.deepcopy(SPACES[sees]), copy.deepcopy(SPACES[acts])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        is_typed = isinstance(action, int | dict) or action.dtype == self.action_space.dtype
        assert is_typed and self.action_space.contains(action), f"the action {action!r} is not in {self.action_space}"
        self.time += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.time == 6, False, {}


class Doors(gymnasium.Env[Any, Any]):
    """Corridor of rooms, each with three doors among many: one leads on, the others lead nowhere.

    Each step pays −1, the last room ends the episode. A door that is not there pays −1 too, counts in `ILLEGAL`, and raises
    with `strict`. `masks` says where the mask of the doors is: info, observation, or nowhere; `fault` what is wrong with it.
    """

    ILLEGAL = 0

    def __init__(
        self,
        masks: str | None = "info",
        strict: bool = True,
        fault: str = "",
        rooms: int = 6,
        doors: int = 50,
        pair: bool = False,
    ) -> None:
        self.masks, self.strict, self.fault, self.rooms, self.doors, self.pair = (
            masks,
            strict,
            fault,
            rooms,
            doors,
            pair,
        )
        table = np.random.default_rng(7)
        self.there = np.stack([table.permutation(doors)[:3] for _ in range(rooms)])
        room = spaces.Box(0, 1, (rooms,), np.float32)
        self.observation_space: spaces.Space[Any] = room
        if masks == "observation":
            self.observation_space = spaces.Dict(room=room, action_mask=spaces.MultiBinary(doors + 2 * pair))
        self.action_space: spaces.Space[Any] = spaces.MultiDiscrete([doors, 2]) if pair else spaces.Discrete(doors)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.room, self.steps = int(self.np_random.integers(2)), 0
        return self._observed()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        door, is_open = (int(action[0]), action[1] == self.room % 2) if self.pair else (int(action), True)
        if door not in self.there[self.room] or not is_open:
            Doors.ILLEGAL += 1
            assert not self.strict, f"there is no door {door} in room {self.room}"
        elif door == self.there[self.room][0]:
            self.room += 1
        self.steps += 1
        has_ended = self.room == self.rooms
        observation, info = self._observed(has_ended)
        return observation, -1.0, has_ended, not has_ended and self.steps == 60, info

    def _observed(self, has_ended: bool = False) -> tuple[Any, dict[str, Any]]:
        room = np.eye(self.rooms + 1, self.rooms, dtype=np.float32)[self.room]
        mask = np.zeros(self.doors, np.int8)
        if not has_ended:
            mask[self.there[self.room]] = 1
        parts = (mask, np.eye(2, dtype=np.int8)[self.room % 2]) if self.pair else (mask,)
        wrong = self.fault and self.steps >= 2 and not has_ended
        if wrong and self.fault == "none legal":
            parts = tuple(np.zeros_like(part) for part in parts)
        elif wrong and self.fault == "short":
            parts = (mask[1:],)
        elif wrong and self.fault == "numbers":
            parts = (mask * 7,)
        joined = np.concatenate(parts)
        if self.masks == "observation":
            return {"room": room, "action_mask": joined}, {}
        is_missing = self.masks is None or (wrong and self.fault == "missing")
        return room, {} if is_missing else {"action_mask": parts if self.pair else joined}


class Both(gymnasium.Env[Any, Any]):
    """One decision an episode: 1 is paid where the action is a xor b; an image shows a, a number tells b."""

    observation_space = spaces.Dict(
        camera=spaces.Box(0, 255, (36, 36, 1), np.uint8),
        tells=spaces.Box(-1, 1, (1,), np.float32),
        noise=spaces.Discrete(3),
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown, self.told = self.np_random.integers(2, size=2)
        camera = self.np_random.integers(100, size=(36, 36, 1), dtype=np.uint8)
        camera[:, 18 * self.shown : 18 * (self.shown + 1)] += 120
        tells = np.array([2 * self.told - 1], np.float32)
        return {"camera": camera, "tells": tells, "noise": self.np_random.integers(3)}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation = {"camera": np.zeros((36, 36, 1), np.uint8), "tells": np.zeros(1, np.float32), "noise": 0}
        return observation, float(int(action) == (self.shown ^ self.told)), True, False, {}


class Beacon(gymnasium.Env[Any, Any]):
    """Walk to a hidden place on a line, by a hint where it lies that is wrong three times in ten.

    `hint` is what the walker sees, `distance` what decides the reward: minus its absolute value, at each of 30 steps.
    """

    observation_space = spaces.Dict(
        hint=spaces.Box(-1, 1, (1,), np.float32), distance=spaces.Box(-4, 4, (1,), np.float32)
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.distance, self.steps = float(self.np_random.uniform(-2, 2)), 0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.distance -= 0.2 * (int(action) - 1)
        self.steps += 1
        return self._observed(), -abs(self.distance), False, self.steps == 30, {}

    def _observed(self) -> dict[str, np.ndarray]:
        hint = np.sign(self.distance) * (1 if self.np_random.random() > 0.3 else -1)
        parts = {"hint": hint, "distance": np.clip(self.distance, -4, 4)}
        return {name: np.array([value], np.float32) for name, value in parts.items()}


class Recall(gymnasium.Env[Any, Any]):
    """Remember a cue: the first observation shows one of four, and 1 is paid for its action in the step after `delay` more.

    Every other action is without effect; meanwhile two entries are noise. Without memory a quarter is right.
    """

    observation_space = spaces.Box(-2, 2, (7,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, delay: int = 8) -> None:
        self.delay = delay

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(4)), 0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        has_ended = self.steps == self.delay
        self.steps += 1
        return self._observed(), float(has_ended and int(action) == self.cue), has_ended, False, {}

    def _observed(self) -> np.ndarray:
        cue = np.eye(4)[self.cue] * (self.steps == 0)
        noise = self.np_random.uniform(-1, 1, 2)
        return np.concatenate([cue, [self.steps == self.delay], noise]).astype(np.float32)


for cls in (Recall, Beacon, Both, Doors, Counter, Bandit, Chain, Cycle, Constant, Endless, Globals, Faulty, Any2Any):
    gymnasium.register(f"plexp-tests/{cls.__name__}-v0", f"{__name__}:{cls.__name__}")
