"""Environments that return what they should not, or what is odd but harmless, registered as `plexp-tests/Odd-v0`.

On a command line that is run in the checkout: `env.id=tests.support.odd_returns:plexp-tests/Odd-v0 env.kwargs.fault=…`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

GOOD = np.array([0.5, -0.5, 0.25], np.float32)
BOX = spaces.Box(-1, 1, (3,), np.float32)
BYTES = spaces.Box(0, 255, (3,), np.uint8)
COUNT = spaces.Discrete(4, start=2)
PAIR = spaces.Dict(position=spaces.Box(-1, 1, (2,), np.float32), mode=spaces.Discrete(3))
EXPECTED = "expected float32 numbers of shape (3,)"
FIVE = "expected (observation, reward, terminated, truncated, info), as gymnasium has it, and gym before 0.26 had not"

OBSERVATIONS: dict[str, tuple[spaces.Space[Any], Any, str]] = {
    "shape": (BOX, np.zeros(4, np.float32), f"an array of shape (4,) as observation; {EXPECTED}"),
    "no shape": (BOX, np.float32(1.5), f"1.5 as observation; {EXPECTED}"),
    "one": (BOX, np.zeros(1, np.float32), f"an array of shape (1,) as observation; {EXPECTED}"),
    "many": (BOX, np.zeros(180, np.float32), f"an array of shape (180,) as observation; {EXPECTED}"),
    "none": (BOX, None, f"None as observation; {EXPECTED}"),
    "text": (BOX, "left", f"'left' as observation; {EXPECTED}"),
    "ragged": (BOX, [[1, 2], [3]], f"a list of 2 as observation; {EXPECTED}"),
    "texts": (BOX, np.array(["a", "b", "c"]), f"an array of <U1 (3,) as observation; {EXPECTED}"),
    "complex": (BOX, np.zeros(3, np.complex64), f"an array of complex64 (3,) as observation; {EXPECTED}"),
    "dict": (BOX, {"a": 1}, f"a dict of 1 as observation; {EXPECTED}"),
    "too large": (BOX, np.array([0, 1e300, 0]), "observation[1] = 1e+300; expected numbers that fit float32"),
    "300": (BYTES, np.array([1, 300, 2]), "observation[1] = 300; expected numbers that fit uint8"),
    "negative": (BYTES, [0, 0, -1], "observation[2] = -1; expected numbers that fit uint8"),
    "half": (BYTES, np.array([0.5, 1, 2]), "observation[0] = 0.5; expected numbers that fit uint8"),
    "nan byte": (BYTES, np.array([0.0, np.nan, 0]), "observation[1] = nan; expected numbers that fit uint8"),
    "above": (COUNT, 6, "observation = 6; expected an integer from 2 to 5"),
    "below": (COUNT, -1, "observation = -1; expected an integer from 2 to 5"),
    "fraction": (COUNT, 2.5, "observation = 2.5; expected an integer from 2 to 5"),
    "choices": (
        spaces.MultiDiscrete([2, 3]),
        np.array([1, 3]),
        "observation[1] = 3; expected integers of MultiDiscrete([2 3])",
    ),
    "coins": (spaces.MultiBinary(2), np.array([0, 2]), "observation[1] = 2; expected integers of MultiBinary(2)"),
    "no dict": (
        PAIR,
        GOOD,
        "an array of shape (3,) as observation; expected a dict with the keys ['position', 'mode']",
    ),
    "key": (
        PAIR,
        {"mode": 1},
        "the keys ['mode'] as observation; expected a dict with the keys ['position', 'mode']",
    ),
    "part": (
        PAIR,
        {"mode": 1, "position": np.zeros(3)},
        "an array of shape (3,) as observation['position']; expected float32 numbers of shape (2,)",
    ),
    "mode": (
        PAIR,
        {"mode": 3, "position": np.zeros(2)},
        "observation['mode'] = 3; expected an integer from 0 to 2",
    ),
    "tuple": (spaces.Tuple((COUNT, BOX)), (2,), "a tuple of 1 as observation; expected a tuple of 2"),
}
"""Observations that cannot be used: space, observation, and what is said of it."""
STEPS: dict[str, tuple[Any, str]] = {
    "four": ((GOOD, 1.0, True, {}), f"4 values; {FIVE}"),
    "alone": (GOOD, f"an array of shape (3,); {FIVE}"),
    "nothing": (None, f"None; {FIVE}"),
    "rewards": (
        (GOOD, np.array([1.0, 2.0]), False, False, {}),
        "an array of shape (2,) as reward; expected one number for one objective (weigh several in a wrapper)",
    ),
    "reward list": (
        (GOOD, [1.0, 2.0], False, False, {}),
        "an array of shape (2,) as reward; expected one number for one objective (weigh several in a wrapper)",
    ),
    "no reward": ((GOOD, None, False, False, {}), "None as reward; expected one number"),
    "empty reward": ((GOOD, np.zeros(0), False, False, {}), "an array of shape (0,) as reward; expected one number"),
    "text reward": ((GOOD, "3", False, False, {}), "'3' as reward; expected one number"),
    "dict reward": ((GOOD, {"a": 1}, False, False, {}), "a dict of 1 as reward; expected one number"),
    "nan reward": ((GOOD, np.nan, False, False, {}), "reward = nan; expected finite numbers"),
    "inf reward": ((GOOD, -np.inf, False, False, {}), "reward = -inf; expected finite numbers"),
    "end text": ((GOOD, 1.0, "no", False, {}), "'no' as terminated; expected True or False"),
    "end none": ((GOOD, 1.0, None, False, {}), "None as terminated; expected True or False"),
    "end half": ((GOOD, 1.0, 0.5, False, {}), "0.5 as terminated; expected True or False"),
    "ends": (
        (GOOD, 1.0, np.zeros(2, bool), False, {}),
        "an array of shape (2,) as terminated; expected True or False",
    ),
    "cut dict": ((GOOD, 1.0, False, {"TimeLimit": 1}, {}), "a dict of 1 as truncated; expected True or False"),
    "info none": ((GOOD, 1.0, False, False, None), "None as info; expected a dict"),
    "info list": ((GOOD, 1.0, False, False, [1]), "a list of 1 as info; expected a dict"),
    "nan": ((GOOD * np.nan, 1.0, False, False, {}), "observation[0] = nan; expected finite numbers"),
    "inf": (
        (np.array([0, 0, np.inf], np.float32), 1.0, False, False, {}),
        "observation[2] = inf; expected finite numbers",
    ),
}
"""Results of `step` that cannot be used, and what is said of them."""
RESETS: dict[str, tuple[Any, str]] = {
    "old": (
        GOOD,
        "an array of shape (3,); expected (observation, info), as gymnasium has it, and gym before 0.26 had not",
    ),
    "old pair": (
        GOOD[:2],
        "an array of shape (2,); expected (observation, info), as gymnasium has it, and gym before 0.26 had not",
    ),
    "nothing": (None, "None; expected (observation, info), as gymnasium has it, and gym before 0.26 had not"),
    "three": (
        (GOOD, {}, 1),
        "3 values; expected (observation, info), as gymnasium has it, and gym before 0.26 had not",
    ),
    "info": ((GOOD, None), "None as info; expected a dict"),
    "shape": ((GOOD[:2], {}), f"an array of shape (2,) as observation; {EXPECTED}"),
    "nan": ((GOOD * np.nan, {}), "observation[0] = nan; expected finite numbers"),
}
"""Results of `reset` that cannot be used, and what is said of them."""
HARMLESS: dict[str, tuple[spaces.Space[Any], Any]] = {
    "float32 reward": (BOX, (GOOD, np.float32(1), False, False, {})),
    "float64 reward": (BOX, (GOOD, np.float64(1), False, False, {})),
    "float16 reward": (BOX, (GOOD, np.float16(1), False, False, {})),
    "int reward": (BOX, (GOOD, 1, False, False, {})),
    "bool reward": (BOX, (GOOD, True, False, False, {})),
    "reward of no axis": (BOX, (GOOD, np.array(1.0), False, False, {})),
    "reward of one": (BOX, (GOOD, np.array([1.0], np.float32), False, False, {})),
    "np.bool": (BOX, (GOOD, 1.0, np.False_, np.False_, {})),
    "array of bool": (BOX, (GOOD, 1.0, np.array([False]), np.array(False), {})),
    "int ends": (BOX, (GOOD, 1.0, 0, 0, {})),
    "list": (BOX, [[0.5, -0.5, 0.25], 1.0, False, False, {}]),
    "float64": (BOX, (GOOD.astype(np.float64), 1.0, False, False, {})),
    "integers": (BOX, (np.array([1, 0, -1]), 1.0, False, False, {})),
    "int64 bytes": (BYTES, (np.array([1, 255, 0]), 1.0, False, False, {})),
    "float bytes": (BYTES, (np.array([1.0, 255.0, 0.0]), 1.0, False, False, {})),
    "array of choice": (COUNT, (np.array([3]), 1.0, False, False, {})),
    "further key": (PAIR, ({"mode": 1, "position": [0, 1], "more": None}, 1.0, False, False, {})),
}
"""Spaces, and results of `step` that are odd, and that can be understood without a loss."""


class Odd(gymnasium.Env[Any, Any]):
    """Environment with one fault, `kind name`, from its third step on or, of resets, in the second; four steps an episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, fault: str, table: dict[Any, Any] | None = None) -> None:
        assert fault
        assert table is None or {type(key) for key in table} == {int, str}, "its keys are of two types"
        self.kind, _, self.name = fault.partition(" ")
        tables: dict[str, Any] = {"observation": OBSERVATIONS, "harmless": HARMLESS}
        self.observation_space = tables[self.kind][self.name][0] if self.kind in tables else BOX
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time, self.resets = 0, self.resets + 1
        if self.kind == "reset" and self.resets == 2:
            return RESETS[self.name][0]
        return self._good(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        if self.time == 3 and self.kind in ("observation", "step", "harmless"):
            if self.kind == "observation":
                return OBSERVATIONS[self.name][1], 1.0, False, False, {}
            return STEPS[self.name][0] if self.kind == "step" else HARMLESS[self.name][1]
        if self.time == 3 and self.kind == "raise":
            self._fail()
        return self._good(), 1.0, False, self.time == 4, {}

    def _good(self) -> Any:
        return GOOD.copy() if self.observation_space is BOX else self.observation_space.sample()

    def _fail(self) -> None:
        empty: dict[str, int] = {}
        if self.name == "key":
            empty["x"]
        if self.name == "assert":
            assert self.time < 0
        if self.name == "exit":
            raise SystemExit
        np.linalg.inv(np.zeros((2, 2)))


gymnasium.register("plexp-tests/Odd-v0", f"{__name__}:Odd")
