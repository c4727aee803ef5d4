"""Checks of one kind of plugin each, for plexp/testing/contract.py: shapes, ends of episodes, the device.

A check takes a tiny experiment with the plugin, and the plugin's class, and yields one line for each fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from torch import Tensor, nn

from plexp.envs.checked import abridged
from plexp.envs.environment import Environment
from plexp.envs.generators import GlobalUse
from plexp.envs.packing import PackedSpace, choices
from plexp.envs.seeding import EpisodeSeeds
from plexp.envs.spaces import described, layout_of
from plexp.errors import ConfigError
from plexp.execution.callbacks.default import default_callbacks
from plexp.execution.experiment import Experiment, make
from plexp.nn.layout import LEGAL, ObservationReader, Observations
from plexp.nn.networks import Network
from plexp.nn.recurrent import Recurrent, Sequences, state_size_of
from plexp.testing.fixtures import Parts, _random_rollout
from plexp.training.evaluation import EvaluationResult
from plexp.training.interfaces import AdvantageEstimator
from plexp.training.types import Targets

Check: TypeAlias = Callable[[Experiment, type], Iterator[str]]
STEPS = 2000
"""Number of random steps in an environment; a larger one finds rarer faults, and takes longer."""


def _shapes_of_targets(experiment: Experiment, cls: type) -> Iterator[str]:
    estimator: AdvantageEstimator = make(cls, experiment.config.advantage)
    rollout = _random_rollout()
    before = {name: value.clone() for name, value in vars(rollout).items()}
    targets = estimator(rollout)
    if not isinstance(targets, Targets):
        yield f"it returns {type(targets).__name__}, not Targets"
        return
    for name, value in vars(targets).items():
        if value is not None and value.shape != rollout.rewards.shape:
            yield f"{name} has the shape {list(value.shape)}, not [T, N] = {list(rollout.rewards.shape)}"
        elif value is not None and not value.isfinite().all():
            yield f"{name} is not finite"
    if (estimator.critic == "none") != (targets.value_targets is None):
        yield f'critic = "{estimator.critic}", and value_targets is {"None" if targets.value_targets is None else "given"}'
    if any(not torch.equal(value, before[name]) for name, value in vars(rollout).items()):
        yield "it changes the rollout that it is given"


def _ends_of_episodes(experiment: Experiment, cls: type) -> Iterator[str]:
    estimator: AdvantageEstimator = make(cls, experiment.config.advantage)
    rollout = _random_rollout()
    plain, later = estimator(rollout), torch.zeros(6, 2, dtype=torch.bool)
    later[3:, 0] = later[4:, 1] = True  # rows of the episodes that begin within the rollout
    other = _random_rollout(seed=1)

    def changed(where: Tensor, names: tuple[str, ...]) -> Targets:
        values = {name: torch.where(where, getattr(other, name), getattr(rollout, name)) for name in names}
        return estimator(replace(rollout, **values))

    everything = changed(later, ("rewards", "values", "next_values", "action_values"))
    if not torch.allclose(everything.advantages[~later], plain.advantages[~later]):
        yield "the next episode leaks into the advantages of the one before: stop at terminated and at truncated"
    if not _same(changed(rollout.terminated, ("next_values",)), plain):
        yield "a terminated step looks at next_values: multiply them by (1 − terminated)"
    if estimator.critic == "v" and _same(changed(rollout.truncated, ("next_values",)), plain):
        yield "a truncated step does not look at next_values: bootstrap where an episode is cut off"


def _same(one: Targets, other: Targets) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(x is None or torch.allclose(x, y) for x, y in pairs)


PARTS = PackedSpace(Parts.observation_space, "none", ()).layout.of_floats()
"""Layout of the observations that networks which take parts are tried with."""


def _shapes_of_networks(experiment: Experiment, cls: type) -> Iterator[str]:
    net: Network = make(cls, experiment.config.net)
    if not isinstance(getattr(net, "label", None), str) or not isinstance(getattr(net, "share_trunk", None), bool):
        yield "it needs label (a short name for runs) and share_trunk (true or false)"
        return
    vectors = [ObservationReader((4,)), ObservationReader((36, 40, 3))]
    parts = ObservationReader((PARTS.size,), layout=PARTS, by_parts=True)
    for reader in [parts] if getattr(net, "by_parts", False) else vectors:
        inputs: Any = reader.inputs
        try:
            torch.manual_seed(0)
            trunk, features = net.trunk(inputs)
        except ConfigError:  # vectors or images only
            continue
        head = net.head(features, 3, gain=0.01)
        rows = 200 * torch.rand(7, PARTS.size) if reader is parts else torch.rand(7, *inputs)
        what = "parts" if reader is parts else inputs
        if state_size_of(trunk) != getattr(net, "state_size", 0):
            own, given = state_size_of(trunk), getattr(net, "state_size", 0)
            yield f"its state_size is {given}, and its trunk's {own}: a recurrent network returns a plexp.Recurrent"
        if isinstance(trunk, Recurrent):
            yield from _steps_as_a_whole(trunk, reader(rows))
            trunk = _FirstSteps(trunk)
        for number in (1, 2, 7):
            body = trunk(reader(rows[:number]))
            if body.shape != (number, features):
                yield f"trunk({what}) gives {list(body.shape)} for {number} observations, not [B, {features}]"
            elif head(body).shape != (number, 3):
                yield f"head({features}, 3) gives {list(head(body).shape)} for {number} rows, not [B, 3]"
        yield from _rows_alone(trunk, reader(rows), reader(rows[2:3]))


class _FirstSteps(nn.Module):
    """A recurrent trunk on first observations of episodes alone, which is a network without a state."""

    def __init__(self, trunk: Recurrent) -> None:
        super().__init__()
        self.trunk, self.state_size = trunk, trunk.state_size

    def forward(self, observations: Observations) -> Tensor:
        first = observations if isinstance(observations, Tensor) else next(iter(observations.values()))
        states = torch.zeros(len(first), self.state_size)
        features: Tensor = self.trunk(Sequences(observations, torch.tensor([len(first)]), states))
        return features


def _steps_as_a_whole(trunk: Recurrent, observations: Observations) -> Iterator[str]:
    """Compare what a recurrent trunk says of whole sequences, as in training, with its steps one by one, as in acting."""
    sizes, states = torch.tensor([2, 2, 2, 1]), torch.rand(2, trunk.state_size)
    whole, state, stepped = trunk(Sequences(observations, sizes, states)), states, []
    for begin, size in zip((0, 2, 4, 6), sizes.tolist(), strict=True):
        rows = Sequences(observations, sizes, states, torch.arange(begin, begin + size)).rows()
        features, state = trunk.step(rows, state[:size])
        stepped.append(features)
    if not torch.allclose(torch.cat(stepped), whole, atol=1e-4):
        yield "its steps one by one give other features than the sequence as a whole: step and run must be one function"


def _rows_alone(trunk: nn.Module, observations: Observations, third: Observations) -> Iterator[str]:
    whole, alone = trunk(observations), trunk(third)
    if whole.ndim == alone.ndim == 2 and not torch.allclose(whole[2:3], alone, atol=1e-5):
        yield "its features of an observation depend on the others of the batch, or on chance"


def _steps_of_environments(experiment: Experiment, cls: type) -> Iterator[str]:
    environment: Environment = make(cls, experiment.config.env)
    names = ("num_envs", "normalize_observations", "scale_rewards", "solved_return", "label", "make")
    if missing := [name for name in names if not hasattr(environment, name)]:
        yield f"it needs {', '.join(missing)}: see plexp.Environment"
        return
    use = GlobalUse(watched=10 * STEPS, warns=False)
    rounds = [_step_randomly(environment, EpisodeSeeds(seed, (), use)) for seed in (0, 0, 1)]
    yield from dict.fromkeys(fault for faults, _ in rounds for fault in faults)
    if not np.array_equal(rounds[0][1], rounds[1][1], equal_nan=True):
        yield "the same seeds and actions give other episodes: draw from self.np_random only, and forget all in reset"
    if use.names:
        yield f"it draws from the global generator of {' and '.join(sorted(use.names))}: draw from self.np_random only"


def _legal(env: Any, observations: Any, actions: Any, rng: np.random.Generator) -> Any:
    """Return random actions [N, *act]: the given ones, or legal ones where the environment has masks."""
    layout, space = layout_of(env.single_observation_space), env.single_action_space
    part = None if layout is None else layout.parts.get(LEGAL)
    if part is None:
        return actions
    for row, legal in enumerate(np.asarray(observations)[:, part.start : part.stop] > 0):
        parts = np.split(legal, np.cumsum(choices(space))[:-1])
        taken = np.array([rng.choice(np.flatnonzero(each)) for each in parts])
        actions[row] = taken.reshape(space.shape) + space.start
    return actions


def _step_randomly(environment: Environment, seeds: EpisodeSeeds) -> tuple[list[str], Any]:
    """Return the faults that random actions meet, and all that was observed and rewarded."""
    env = environment.make(2, seeds)
    space, mode, faults, rows, ended = env.single_observation_space, env.metadata.get("autoreset_mode"), [], [], 0
    try:
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            faults.append('metadata["autoreset_mode"] is neither SAME_STEP nor NEXT_STEP')
        env.action_space.seed(seeds.entropy)
        rng = np.random.default_rng(seeds.entropy)
        observations, _ = env.reset()
        for step in range(STEPS):
            actions = _legal(env, observations, env.action_space.sample(), rng)
            observations, rewards, terminated, truncated, info = env.step(actions)
            rows.append(np.concatenate([np.ravel(observations), rewards, terminated, truncated]).astype(np.float64))
            if not np.isfinite(rewards).all():
                faults.append(f"the reward {abridged(rewards)} in step {step} is not finite")
            if outside := [x for x in observations if not space.contains(np.asarray(x, space.dtype))]:
                shown = abridged(np.asarray(outside[0]))
                faults.append(f"an observation is outside its space {described(space)}: {shown}")
            done = terminated | truncated
            ended += int(done.sum())
            if mode == AutoresetMode.SAME_STEP and done.any() and "final_obs" not in info:
                faults.append('an episode ended, and info has no "final_obs", the true last observation')
            if faults:
                break
    finally:
        env.close()
    if not ended and not faults:
        faults.append(f"no episode ended in {STEPS} random steps: give it a time limit")
    return faults, np.array(rows)


def _updates_of_algorithms(experiment: Experiment, cls: type) -> Iterator[str]:
    algorithm = experiment.trainer.algorithm
    if not isinstance(getattr(algorithm, "num_steps", None), int):
        yield "it needs num_steps: steps of each environment in a rollout"
    if not isinstance(getattr(algorithm, "complete_episodes", None), bool):
        yield "it needs complete_episodes: whether rollouts are whole episodes"
    trajectory = experiment.trainer.collector.collect()
    before = {name: value.clone() for name, value in trajectory.given().items()}
    metrics = algorithm.update(trajectory, 0.0)
    if not isinstance(metrics, Mapping):
        yield f"update returns {type(metrics).__name__}, not its metrics by name"
    elif odd := [name for name, value in metrics.items() if not isinstance(value, int | float)]:
        yield f"update returns {', '.join(odd)} as no number"
    if any(not torch.equal(value, before[name]) for name, value in trajectory.given().items()):
        yield "update changes the rollout that it is given"


def _draws_of_replays(experiment: Experiment, cls: type) -> Iterator[str]:
    memory = experiment.memory
    assert memory is not None
    buffer = memory.buffer
    for _ in range(3):
        memory.add(experiment.trainer.collector.collect())
    if not len(buffer):
        yield "nothing can be drawn after three trajectories were added"
        return
    indices = buffer.draw(np.random.default_rng(0), 64)
    again = buffer.draw(np.random.default_rng(0), 64)
    if not np.array_equal(indices, again):
        yield "the same generator draws other transitions: draw from rng only"
    batch = buffer.transitions(indices, 1, 0.9)
    if any(len(column) != 64 for column in vars(batch).values() if column is not None):
        yield "it does not return as many transitions as indices"


def _leaves_training_alone(experiment: Experiment, cls: type) -> Iterator[str]:
    if missing := [event for event in ("on_start", "on_iteration", "on_end") if not hasattr(cls, event)]:
        yield f"it needs {', '.join(missing)}: see plexp.TrainingCallback"
        return
    logged: dict[str, float] = {}
    result = EvaluationResult(np.ones(1), np.ones(1, np.int64))
    callbacks = default_callbacks(
        experiment,
        lambda metrics, step: logged.update(metrics),
        lambda tags: None,
        Console(quiet=True),
        play=lambda index, episodes: result,
    )
    before = torch.random.get_rng_state()
    experiment.trainer.run(list(callbacks))
    if not torch.equal(before, torch.random.get_rng_state()):
        yield "it draws from torch's own stream, which is the training's: use a generator of its own"
    for key, value in logged.items():
        if key.startswith("callbacks/") and (not isinstance(value, int | float) or not np.isfinite(value)):
            yield f"it logs {key} = {value}, which is no finite number"


def on_another_device(overrides: tuple[str, ...]) -> Iterator[str]:
    """Train on a fake device (plexp/testing/fake_device.py) in another process, and yield what went wrong."""
    command = [sys.executable, "-m", "plexp.testing.fake_device", " ".join(overrides)]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if process.returncode:
        yield f"on another device: {(process.stderr.strip().splitlines() or ['it failed'])[-1]}"


CHECKS: dict[str, dict[str, Check]] = {
    "algo": {"updates": _updates_of_algorithms},
    "advantage": {"shapes": _shapes_of_targets, "termination and truncation": _ends_of_episodes},
    "net": {"shapes": _shapes_of_networks},
    "env": {"steps, termination and truncation": _steps_of_environments},
    "replay": {"draws": _draws_of_replays},
    "callbacks": {"leaves the training alone": _leaves_training_alone},
}
