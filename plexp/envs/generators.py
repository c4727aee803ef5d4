"""The global generators of Python, NumPy and torch, for environments that draw from them instead of `self.np_random`.

An episode must be its seed and its actions, whatever else runs in the process. So such an environment gets generators of its
own, seeded from the seed of each episode, which stand in the place of the global ones while it is reset and stepped. That
takes time, so a run watches only the first calls of its environments, and goes on with those that were drawn from.
"""

from __future__ import annotations

import logging
import multiprocessing
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import gymnasium
import numpy as np
import torch

T = TypeVar("T")
States: TypeAlias = dict[str, Any]
"""State of each global generator by name, of arrays, tensors and numbers."""

log = logging.getLogger("plexp")


def states() -> States:
    """Return the states of the global generators."""
    version, words, gauss = random.getstate()
    python = {"version": version, "words": np.array(words, np.int64), "gauss": gauss}
    return {"random": python, "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}


def restore(saved: States) -> None:
    """Set the states of the global generators."""
    python = saved["random"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])


def seed(sequence: np.random.SeedSequence) -> None:
    """Seed the global generators."""
    python, numpy, torchs = _numbers(sequence)
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(torchs)


def _numbers(sequence: np.random.SeedSequence) -> list[int]:
    """Return a seed for each global generator."""
    return [int(number) for number in sequence.generate_state(len(KINDS), np.uint32)]


class _Generator(Protocol):
    """A generator that can stand in the place of a global one; it is made from a seed."""

    def __init__(self, seed: int) -> None: ...

    def enter(self) -> None:
        """Take the global generator's place."""
        ...

    def leave(self) -> None:
        """Give the place back."""
        ...

    def was_drawn_from(self) -> bool:
        """Return whether it was drawn from since the last time that this was asked."""
        ...


class _ByState:
    """Generator that takes the place of a global one by its state, which a subclass says how to read, write and compare."""

    read: staticmethod[[], Any]
    write: staticmethod[[Any], None]
    is_equal: staticmethod[[Any, Any], bool]

    def __init__(self, state: Any) -> None:
        self.state = self.asked = state

    def enter(self) -> None:
        self.outer = self.read()
        self.write(self.state)

    def leave(self) -> None:
        self.state = self.read()
        self.write(self.outer)

    def was_drawn_from(self) -> bool:
        before, self.asked = self.asked, self.state
        return not self.is_equal(before, self.state)


class _Python(_ByState):
    """Generator in the place of that of `random`."""

    read, write = staticmethod(random.getstate), staticmethod(random.setstate)
    is_equal = staticmethod(operator.eq)

    def __init__(self, seed: int) -> None:
        super().__init__(random.Random(seed).getstate())


class _NumPy:
    """Generator in the place of that of `numpy.random`; a normal number that it has in store does not outlive a call."""

    def __init__(self, seed: int) -> None:
        self.own = np.random.MT19937(seed)
        self.asked: Any = self.own.state["state"]

    def enter(self) -> None:
        self.outer = np.random.get_bit_generator()  # type: ignore[attr-defined]
        np.random.set_bit_generator(self.own)  # type: ignore[attr-defined]

    def leave(self) -> None:
        np.random.set_bit_generator(self.outer)  # type: ignore[attr-defined]

    def was_drawn_from(self) -> bool:
        before, self.asked = self.asked, self.own.state["state"]
        return bool(before["pos"] != self.asked["pos"] or (before["key"] != self.asked["key"]).any())


class _Torch(_ByState):
    """Generator in the place of torch's for the CPU."""

    read, write = staticmethod(torch.get_rng_state), staticmethod(torch.set_rng_state)
    is_equal = staticmethod(torch.equal)

    def __init__(self, seed: int) -> None:
        super().__init__(torch.Generator().manual_seed(seed).get_state())


KINDS: dict[str, type[_Generator]] = {"random": _Python, "numpy.random": _NumPy, "torch": _Torch}


class GlobalUse:
    """Record of the global generators that the environments of a run draw from.

    Args:
        watched: number of resets and steps, of all environments together, in which they are watched.
        warns: whether a generator that is found is logged.
    """

    WATCHED: ClassVar = 500
    """Usual number of calls that are watched; larger: finds rarer draws, and takes longer (0.1 ms each)."""

    def __init__(self, watched: int = WATCHED, *, warns: bool = True) -> None:
        self.left, self.constructed = watched, 0
        self.warns = warns
        self.names: set[str] = set()
        """Generators that they draw from, by their names in `KINDS`."""
        self.is_idle = watched <= 0
        """True if nothing needs to be watched or swapped."""

    @property
    def swapped(self) -> Iterable[str]:
        """Names of the generators that are swapped in a call."""
        return KINDS if self.left > 0 else self.names

    def note(self, generators: Mapping[str, _Generator], env: gymnasium.Env[Any, Any]) -> None:
        """Find out which generators the environment has drawn from, and warn of those that are new.

        There is no warning in a process of gymnasium's AsyncVectorEnv, where the environment is alone.
        """
        drawn = {name for name, generator in generators.items() if generator.was_drawn_from()} - self.names
        self.names |= drawn
        self.is_idle = self.left <= 0 and not self.names
        if drawn and self.warns and not multiprocessing.current_process().name.startswith("Worker<"):
            log.warning(
                "the environment %s draws from the global generator of %s: it gets its own, seeded for each episode (and "
                "alike for each constructor), which slows it down; draw from self.np_random",
                env.unwrapped.spec.id if env.unwrapped.spec else type(env.unwrapped).__name__,
                " and ".join(sorted(drawn)),
            )


class OwnGenerators:
    """Generators of one environment, in the place of the global ones while it is called, as far as it draws from them.

    Args:
        use: record of the generators that such environments draw from.
    """

    def __init__(self, use: GlobalUse) -> None:
        self.use = use
        self.generators: dict[str, _Generator] = {}

    def seed(self, seed: int) -> None:
        """Seed them for a new episode."""
        if not self.use.is_idle:
            numbers = dict(zip(KINDS, _numbers(np.random.SeedSequence(seed)), strict=True))
            self.generators = {name: KINDS[name](numbers[name]) for name in self.use.swapped}

    def call(self, env: gymnasium.Env[Any, Any], function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return what a method of the environment returns."""
        use = self.use
        if use.is_idle:
            return function(*arguments, **options)
        generators = {name: self.generators[name] for name in use.swapped if name in self.generators}
        with _in_place(generators):
            result = function(*arguments, **options)
        if use.left > 0:
            use.left -= 1
            use.note(generators, env)
        return result


@contextmanager
def _in_place(generators: Mapping[str, _Generator]) -> Iterator[None]:
    for generator in generators.values():
        generator.enter()
    try:
        yield
    finally:
        for generator in generators.values():
            generator.leave()


def construct(make: Callable[[], gymnasium.Env[Any, Any]]) -> gymnasium.Env[Any, Any]:
    """Return a new environment, made with the global generators in a fixed state, so that all are alike.

    Draws in the first construction of a run are not reported: those are of the imports too.
    """
    generators = {name: kind(0) for name, kind in KINDS.items()}
    with _in_place(generators):
        env = make()
    if env.has_wrapper_attr("own_generators"):
        use: GlobalUse = env.get_wrapper_attr("own_generators").use
        use.constructed += 1
        if use.constructed > 1:
            use.note(generators, env)
    return env
