"""From rollouts to minibatches: targets, standardised advantages, valid rows, a new order for every pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from plexp.errors import TrainingError
from plexp.training import losses
from plexp.training.agent import Agent
from plexp.training.interfaces import AdvantageEstimator
from plexp.training.types import Minibatch, Rollout, Targets

Standardization: TypeAlias = Literal["minibatch", "rollout", "episode", "off"]
"""Over what advantages are brought to mean 0 and deviation 1."""


@torch.no_grad()
def assemble(
    agent: Agent, advantage: AdvantageEstimator, rollouts: Sequence[Rollout], standardization: Standardization
) -> Minibatch:
    """All valid rows of the rollouts, normalised, with their targets, on the agent's device."""
    parts = [_rows(each, advantage, standardization, agent.critic_kind == "q") for each in rollouts]
    device = next(agent.parameters()).device
    fields = {name: [part[name] for part in parts] for name in parts[0]}
    columns = {name: (c[0] if len(c) == 1 else torch.cat(c)).to(device) for name, c in fields.items()}
    columns["observations"] = agent.normalize(columns["observations"])
    return Minibatch(**columns)


def minibatches(batch: Minibatch, number: int, rng: np.random.Generator) -> Iterator[Minibatch]:
    """The batch in a new order, in `number` parts of (almost) one size; in its own order if there is one part."""
    rows, fields = len(batch.advantages), batch.tensors()
    if number == 1:
        yield batch
        return
    order = torch.from_numpy(rng.permutation(rows)).to(batch.advantages.device)
    for parts in zip(*[field[order].tensor_split(min(number, rows)) for field in fields], strict=True):
        yield Minibatch(*parts)


def _checked(advantage: AdvantageEstimator, rollout: Rollout) -> Targets:
    """What the estimator makes of it. Raises TrainingError for another shape than [T, N], and for what is not finite."""
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


def _rows(
    rollout: Rollout, advantage: AdvantageEstimator, standardization: Standardization, critic_is_q: bool
) -> dict[str, Tensor]:
    """The fields of a Minibatch of the valid rows of one rollout; `value_targets` only if there is a critic."""
    targets, done = _checked(advantage, rollout), rollout.terminated | rollout.truncated
    advantages, valid = targets.advantages, rollout.valid
    if standardization == "episode":
        advantages = losses.standardize_episodes(advantages, done, valid)
    elif standardization == "rollout":
        advantages = advantages.masked_scatter(valid, losses.standardize(advantages[valid]))
    weights = torch.ones_like(advantages) if targets.importance_weights is None else targets.importance_weights
    fields = {
        "observations": rollout.observations,
        "actions": rollout.actions,
        "log_probs": rollout.log_probs,
        "advantages": advantages,
        "importance_weights": weights,
        "values": rollout.action_values if critic_is_q else rollout.values,
    }
    if targets.value_targets is not None:
        fields["value_targets"] = targets.value_targets
    whole = bool(valid.all())
    return {name: field.flatten(0, 1) if whole else field[valid] for name, field in fields.items()}
