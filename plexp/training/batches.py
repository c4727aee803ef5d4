"""Makes minibatches of rollouts: targets, standardized advantages, valid rows, and a new order for every pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from plexp.errors import TrainingError
from plexp.nn.pytree import flatten
from plexp.training import losses
from plexp.training.agent import Agent
from plexp.training.frames import whole_observations
from plexp.training.interfaces import AdvantageEstimator
from plexp.training.types import Minibatch, Rollout, Targets

Standardization: TypeAlias = Literal["minibatch", "rollout", "episode", "off"]
"""Set of rows over which advantages are brought to mean 0 and standard deviation 1."""


@torch.no_grad()
def make_batch(
    agent: Agent, advantage: AdvantageEstimator, rollouts: Sequence[Rollout], standardization: Standardization
) -> Minibatch:
    """Return all valid rows of the rollouts, with normalized observations and their targets, on the agent's device."""
    parts = [_valid_rows(rollout, advantage, standardization, agent.critic_kind == "q") for rollout in rollouts]
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    device = agent.device  # looked up once: it walks the modules
    fields: dict[str, Any] = {name: (c[0] if len(c) == 1 else torch.cat(c)).to(device) for name, c in columns.items()}
    return Minibatch(**{**fields, "observations": agent.read(fields["observations"])})


class RowBatch:
    """Rows of rollouts from which minibatches are made.

    Args:
        batch: the rows.
    """

    def __init__(self, batch: Minibatch) -> None:
        self.leaves, self.spec = flatten(batch)

    def minibatches(self, number: int, rng: np.random.Generator) -> Iterator[list[Tensor]]:
        """Yield the tensors of `number` minibatches of (almost) one size, in a new random order.

        A single one keeps the batch's order. There are never more of them than rows.
        """
        if number == 1:
            yield self.leaves
            return
        rows = len(self.leaves[0])
        order = torch.from_numpy(rng.permutation(rows)).to(self.leaves[0].device)
        for parts in zip(*[leaf[order].tensor_split(min(number, rows)) for leaf in self.leaves], strict=True):
            yield list(parts)


def _estimate(advantage: AdvantageEstimator, rollout: Rollout) -> Targets:
    """Return the estimator's targets of a rollout.

    Raises TrainingError for another shape than [T, N], and for numbers that are not finite.
    """
    targets, shape = advantage(rollout), rollout.rewards.shape
    for name, value in vars(targets).items():
        if value is None:
            continue
        if value.shape != shape:
            wrong = f"has the shape {list(value.shape)}, not [T, N] = {list(shape)}"
        elif not value[rollout.valid].isfinite().all():
            wrong = "is not finite"
        else:
            continue
        raise TrainingError(f"the estimator {type(advantage).__name__} gives {name} that {wrong}")
    return targets


def _valid_rows(
    rollout: Rollout, advantage: AdvantageEstimator, standardization: Standardization, critic_is_q: bool
) -> dict[str, Tensor]:
    """Return the fields of a Minibatch for the valid rows of one rollout; `value_targets` only if there is a critic."""
    targets, done = _estimate(advantage, rollout), rollout.terminated | rollout.truncated
    advantages, valid = targets.advantages, rollout.valid
    if standardization == "episode":
        advantages = losses.standardize_episodes(advantages, done, valid)
    elif standardization == "rollout":
        advantages = advantages.masked_scatter(valid, losses.standardize(advantages[valid]))
    weights = torch.ones_like(advantages) if targets.importance_weights is None else targets.importance_weights
    fields = {
        "observations": whole_observations(rollout),
        "actions": rollout.actions,
        "log_probs": rollout.log_probs,
        "advantages": advantages,
        "importance_weights": weights,
        "values": rollout.action_values if critic_is_q else rollout.values,
    }
    if targets.value_targets is not None:
        fields["value_targets"] = targets.value_targets
    all_valid = bool(valid.all())
    return {name: field.flatten(0, 1) if all_valid else field[valid] for name, field in fields.items()}
