"""Builders of agents, learners and rollouts that several test files share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from plexp.plugins.net.mlp import MLP
from torch import Tensor, nn

from plexp.nn.distributions import ActionDistribution, Categorical
from plexp.nn.layout import ObservationReader
from plexp.nn.normalization import ObservationNormalizer
from plexp.nn.optimizer import Terms
from plexp.training.agent import Agent
from plexp.training.learner import Learner
from plexp.training.types import Minibatch, Rollout

NET: dict[str, Any] = {
    "layers": 1,
    "width": 8,
    "activation": "tanh",
    "layer_norm": False,
    "initialization": "default",
    "share_trunk": False,
}
POLICY: dict[str, Any] = {"log_std": "free", "log_std_init": 0.0, "bounds": "clip", "action_samples": 4}
LEARNER: dict[str, Any] = {
    "learning_rate": 1e-2,
    "critic_learning_rate": None,
    "anneal_learning_rate": False,
    "adam_eps": 1e-5,
    "max_grad_norm": None,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "clip_value": None,
    "critic_epochs": None,
    "standardize_advantages": "off",
    "target_update_every": None,
    "target_tau": 1.0,
    "replay_rollouts": 0,
    "sequence_length": 16,
}


HOLDS = """
import sys
from pathlib import Path
from plexp.execution.state import RunFolder

folder = RunFolder(Path(sys.argv[1]))
assert folder.acquire()
folder.begin(name="theirs", store=sys.argv[2] or None)
print("holds", flush=True)
sys.stdin.readline()
folder.is_settled = True
folder.release()
print("released", flush=True)
sys.stdin.readline()
"""
"""Program that holds a run's folder until it reads a line; arguments: the folder, and the URI of the store (or '')."""


def make_agent(
    critic: str = "v",
    distribution: ActionDistribution | None = None,
    *,
    shape: tuple[int, ...] = (4,),
    normalizer: ObservationNormalizer | None = None,
    seed: int = 0,
    policy: dict[str, Any] | None = None,
    **net: Any,
) -> Agent:
    """Return a small agent in double precision, so that tolerances can be tight; by default it has three actions."""
    torch.manual_seed(seed)
    distribution = distribution or Categorical(3)
    network, rng = MLP(**{**NET, **net}), np.random.default_rng(seed)
    reader = ObservationReader(shape)
    reader.normalizer = normalizer
    agent = Agent(reader, distribution, network, None, critic, rng, **{**POLICY, **(policy or {})})
    return agent.double()


def make_learner(agent: Agent, advantage: Any, seed: int = 0, **changes: Any) -> Learner:
    return Learner(agent, advantage, np.random.default_rng(seed), **{**LEARNER, **changes})


def make_rollout(
    rewards: Any,
    values: Any = 0.0,
    next_values: Any = 0.0,
    *,
    terminated: Any = (),
    truncated: Any = (),
    invalid: Any = (),
    **others: Tensor,
) -> Rollout:
    """Return a float64 rollout of [T, N] tables; `terminated`, `truncated` and `invalid` list (t, n) pairs."""
    reward_table = torch.tensor(rewards, dtype=torch.float64)

    def table(numbers: Any) -> Tensor:
        return torch.as_tensor(numbers, dtype=torch.float64).expand(reward_table.shape).clone()

    def marks(places: Any) -> Tensor:
        flags = torch.zeros(reward_table.shape, dtype=torch.bool)
        for t, n in places:
            flags[t, n] = True
        return flags

    zeros = torch.zeros_like(reward_table)
    rollout = Rollout(
        observations=torch.zeros(*reward_table.shape, 4, dtype=torch.float64),
        actions=torch.zeros(reward_table.shape, dtype=torch.int64),
        log_probs=zeros,
        rewards=reward_table,
        values=table(values),
        next_values=table(next_values),
        action_values=zeros,
        log_ratios=zeros,
        terminated=marks(terminated),
        truncated=marks(truncated),
        valid=~marks(invalid),
        last_observations=torch.zeros(reward_table.shape[1], 4, dtype=torch.float64),
        final_observations=torch.zeros(0, 4, dtype=torch.float64),
        final_index=torch.zeros(0, dtype=torch.int64),
    )
    return replace(rollout, **others)


def random_rollout(
    seed: int, steps: int = 12, envs: int = 3, *, same_step: bool = True, actions: Tensor | None = None
) -> Rollout:
    """Return a rollout whose episodes end at random: terminated, truncated, or both.

    SAME_STEP: the row after an end is the next episode's first; V of the true successor is in `next_values` alone.
    NEXT_STEP (`same_step=False`): the row after an end holds the true last observation and is not valid.
    """
    rng = np.random.default_rng(seed)
    ends = rng.choice(4, size=(steps, envs), p=[0.7, 0.12, 0.12, 0.06])  # continues, terminated, truncated, both
    valid = np.ones((steps, envs), np.bool_)
    rewards, values = rng.normal(size=(steps, envs)), rng.normal(size=(steps + 1, envs))
    if not same_step:
        for t in range(1, steps):
            valid[t] = ~(valid[t - 1] & (ends[t - 1] > 0))
        ends, rewards = ends * valid, rewards * valid
    next_values = np.where((ends > 0) & same_step, rng.normal(size=(steps, envs)), values[1:])
    observations = torch.from_numpy(rng.normal(size=(steps + 1, envs, 4)))
    final_index = torch.from_numpy(np.flatnonzero((ends > 0) & same_step))
    drawn = torch.from_numpy(rng.integers(0, 3, size=(steps, envs)))
    rollout = make_rollout(rewards, values[:-1], next_values)
    return replace(
        rollout,
        observations=observations[:-1],
        last_observations=observations[-1],
        final_observations=torch.from_numpy(rng.normal(size=(len(final_index), 4))),
        final_index=final_index,
        actions=drawn if actions is None else actions,
        action_values=torch.from_numpy(rng.normal(size=(steps, envs))),
        log_ratios=torch.from_numpy(rng.normal(size=(steps, envs))),
        terminated=torch.from_numpy(ends % 2 == 1),
        truncated=torch.from_numpy(ends >= 2),
        valid=torch.from_numpy(valid),
    )


def fresh_rollout(agent: Agent, seed: int, **kind: Any) -> Rollout:
    """Return a random rollout that `agent` has evaluated, as if the agent had just played it."""
    return agent.evaluate_trajectory(random_rollout(seed, **kind))


def score_loss(learner: Learner) -> Any:
    """Return the policy-gradient loss, −A log π, written as an algorithm would write it."""

    def loss(minibatch: Minibatch) -> tuple[Tensor, Terms]:
        output = learner.agent.evaluate(minibatch)
        return learner.total_loss(-minibatch.advantages * output.log_probs, output, minibatch)

    return loss


def weights(module: nn.Module | None) -> Tensor:
    """Return a copy of all parameters, concatenated into one vector."""
    assert module is not None
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).clone()


def actor_of(agent: Agent) -> Tensor:
    return torch.cat([weights(agent.trunk), weights(agent.head)])


class Spy:
    """Loss that records its minibatches and the parameters with which it was computed."""

    def __init__(self, learner: Learner, loss: Any = None) -> None:
        self.learner, self.loss = learner, loss or score_loss(learner)
        self.minibatches: list[Minibatch] = []
        self.actors: list[Tensor] = []
        self.critics: list[Tensor] = []

    def __call__(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        self.minibatches.append(minibatch)
        self.actors.append(actor_of(self.learner.agent))
        if self.learner.agent.critic is not None:
            self.critics.append(weights(self.learner.agent.critic))
        return self.loss(minibatch)


def play_side_by_side(ours: Any, theirs: Any, draw: Any, steps: int = 40) -> int:
    """Check that two SAME_STEP vector environments give the same; return the number of episodes that ended.

    Both are reset a second time halfway.

    Args:
        draw: function without arguments that returns the actions of a step.
    """
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    ended = 0
    for step in range(steps):
        if step in (0, steps // 2):
            np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
        actions = draw()
        (*given, info), (*expected, their_info) = ours.step(actions), theirs.step(actions)
        for a, b in zip(given, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        done = np.flatnonzero(given[2] | given[3])
        assert ("final_obs" in info) == bool(len(done))
        for i in done:
            np.testing.assert_array_equal(info["final_obs"][i], their_info["final_obs"][i])
        ended += len(done)
    return ended
