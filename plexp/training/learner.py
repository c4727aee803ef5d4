"""Gradient descent for on-policy algorithms: targets, epochs, minibatches, target critic and replayed trajectories."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plexp.config.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from plexp.nn.optimizer import FlatAdam, Loss, Terms
from plexp.training import losses
from plexp.training.agent import Agent
from plexp.training.batches import RowBatch, Standardization, make_batch
from plexp.training.interfaces import AdvantageEstimator
from plexp.training.progress import Profile
from plexp.training.sequences import SequenceBatch
from plexp.training.types import AgentOutput, Metrics, Minibatch, Trajectory


class Learner:
    """Fits an agent to trajectories. Its parameters are part of the configuration of the algorithm that uses it.

    Args:
        agent: the agent to fit.
        advantage: estimator of the policy gradient's weights and of the critic's targets.
        rng: source of the order of minibatches.
        compiled: whether the gradient step is compiled.
        profile: gets the seconds spent estimating and compiling.

    The meaning of the keyword-only parameters stands in conf/learner/default.yaml.
    """

    configured_with_owner = True
    refused: ClassVar = {
        "batch_size": "it learns from whole rollouts; use algo.num_minibatches, or algo=dqn",
        "gradient_steps": "it learns from whole rollouts; use algo.update_epochs, or algo=dqn",
        "learning_starts": "it learns from its first rollout on; use algo=dqn",
        "train_every": "it learns after each rollout; use algo.num_steps",
        "n_steps": "its estimator sums rewards; use advantage=n_step",
    }

    def __init__(
        self,
        agent: Agent,
        advantage: AdvantageEstimator,
        rng: np.random.Generator,
        compiled: bool = False,
        profile: Profile | None = None,
        *,
        learning_rate: PositiveFloat,
        critic_learning_rate: PositiveFloat | None,
        anneal_learning_rate: bool,
        adam_eps: PositiveFloat,
        max_grad_norm: PositiveFloat | None,
        ent_coef: NonNegativeFloat,
        vf_coef: PositiveFloat,
        clip_value: PositiveFloat | None,
        critic_epochs: PositiveInt | None,
        standardize_advantages: Standardization,
        target_update_every: PositiveInt | None,
        target_tau: PositiveFraction,
        replay_rollouts: NonNegativeInt,
        sequence_length: PositiveInt,
    ) -> None:
        self.agent, self.advantage, self.rng, self.profile = agent, advantage, rng, profile or Profile()
        self.anneal_learning_rate, self.ent_coef, self.vf_coef = anneal_learning_rate, ent_coef, vf_coef
        self.clip_value, self.critic_epochs = clip_value, critic_epochs
        self.standardize_advantages: Standardization = standardize_advantages
        self.target_update_every, self.target_tau, self.updates = target_update_every, target_tau, 0
        self.sequence_length = sequence_length
        self.replay: deque[tuple[Trajectory, Tensor]] = deque(maxlen=replay_rollouts)
        """Replayed trajectories, with log π_old(a|s) [T, N] of the policy that acted."""
        if target_update_every is not None:
            agent.add_target_critic()
        actor = [*agent.trunk.parameters(), *agent.head.parameters()]
        shared = set(actor)
        critic = [p for p in agent.critic.parameters() if p not in shared] if agent.critic else []
        groups = [(actor, learning_rate), (critic, critic_learning_rate or learning_rate)]
        if critic_epochs is None and critic_learning_rate is None:
            groups = [(actor + critic, learning_rate)]
        separate = [groups] if critic_epochs is None else [groups[:1], groups[1:]]
        self.optimizers = [
            FlatAdam(
                agent,
                part,
                eps=adam_eps,
                max_grad_norm=max_grad_norm,
                transform=self.standardized,
                compiled=compiled and not agent.state_size,  # the kernels over time cannot be traced
                watched=[self],
                on_compile=self._count_compiling,
            )
            for part in separate
        ]
        """One optimizer for all parameters, or one for the actor and one for the critic with epochs of its own."""

    def fit(
        self,
        trajectory: Trajectory,
        loss: Loss,
        progress: float,
        *,
        arguments: Mapping[str, float] | None = None,
        epochs: int = 1,
        num_minibatches: int = 1,
        target_kl: float | None = None,
    ) -> Metrics:
        """Learn from a trajectory, and from those that are replayed; return metrics, averaged over the minibatches.

        Args:
            trajectory: T steps of N environments under the current policy.
            loss: function of a minibatch that returns what is minimised, and its terms.
            progress: share of the training budget that has been used, 0…1, for annealing the learning rate.
            arguments: numbers that the loss takes by name; what changes from update to update must be one of them.
            epochs: passes over the batch.
            num_minibatches: gradient steps in each pass.
            target_kl: no further pass begins once the mean approx_kl of one exceeds it, in nats; None: never.

        Raises TrainingError for a loss or gradient that is not finite, before a parameter is touched.
        """
        started = self.profile.start()
        rollout = self.agent.evaluate_trajectory(trajectory)
        replayed = [self.agent.evaluate_trajectory(old, log_probs) for old, log_probs in self.replay]
        batch = make_batch(self.agent, self.advantage, [rollout, *replayed], self.standardize_advantages)
        self.profile.stop("estimating", started)
        if not len(batch.advantages):
            return {}
        rate_factor = 1 - progress if self.anneal_learning_rate else 1.0
        trajectories = [trajectory, *(old for old, _ in self.replay)]
        policy_batch = batch if self.critic_epochs is None else replace(batch, value_targets=None)
        optimizer = self.optimizers[0]
        metrics = self._descend(
            *(optimizer, loss, self._cut(policy_batch, trajectories), rate_factor, arguments or {}),
            *(epochs, num_minibatches, target_kl),
        )
        if self.critic_epochs is not None:
            critic_metrics = self._descend(
                *(self.optimizers[1], self.critic_loss, self._cut(batch, trajectories), rate_factor, {}),
                *(self.critic_epochs, num_minibatches, None),
            )
            metrics |= {"value_loss": critic_metrics["value_loss"], "critic_grad_norm": critic_metrics["grad_norm"]}
        self.replay.append((trajectory, rollout.log_probs))
        self._update_target_critic()
        metrics["learning_rate"] = optimizer.learning_rates[0]
        if batch.value_targets is not None:
            metrics["explained_variance"] = float(losses.explained_variance(batch.values, batch.value_targets))
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    def total_loss(
        self,
        policy_losses: Tensor,
        output: AgentOutput,
        minibatch: Minibatch,
        weight: float | Tensor | None = None,
        **terms: Tensor,
    ) -> tuple[Tensor, Terms]:
        """Return policy loss − c₁·entropy + c₂·value loss, each a mean over the minibatch, and its terms.

        Args:
            policy_losses: [B] the algorithm's own loss of each row.
            output: what the agent says of the minibatch.
            weight: factor of policy loss and entropy; None: 1.
            terms: further numbers to record.
        """
        policy_loss, entropy = policy_losses.mean(), output.entropy.mean()
        terms |= {"policy_loss": policy_loss, "entropy": entropy}
        if output.predictions is not None:
            terms["value_loss"] = self._value_loss(output.predictions, minibatch)
        total = losses.combined_loss(
            policy_loss, entropy, terms.get("value_loss"), ent_coef=self.ent_coef, vf_coef=self.vf_coef, weight=weight
        )
        return total, terms

    def critic_loss(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        """Return the loss of a critic that has epochs of its own."""
        loss = self._value_loss(self.agent.predict(minibatch), minibatch)
        return loss, {"value_loss": loss}

    def standardized(self, minibatch: Minibatch) -> Minibatch:
        """Return the minibatch with standardized advantages, if that is done by the minibatch."""
        if self.standardize_advantages != "minibatch":
            return minibatch
        return replace(minibatch, advantages=losses.standardize(minibatch.advantages))

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers beside the agent: optimizers, number of updates, replayed trajectories."""
        replay = [{"trajectory": trajectory.given(), "log_probs": log_probs} for trajectory, log_probs in self.replay]
        return {"updates": self.updates, "steps": [each.state_dict() for each in self.optimizers], "replay": replay}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.updates = state_dict["updates"]
        for optimizer, state in zip(self.optimizers, state_dict["steps"], strict=True):
            optimizer.load_state_dict(state)
        self.replay.clear()
        self.replay.extend((Trajectory(**entry["trajectory"]), entry["log_probs"]) for entry in state_dict["replay"])

    def _value_loss(self, predictions: Tensor, minibatch: Minibatch) -> Tensor:
        """Return the mean of ½ (prediction − target)², clipped if `clip_value` says so."""
        targets = minibatch.value_targets
        assert targets is not None
        if self.clip_value is None:
            return losses.squared_error(predictions, targets).mean()
        return losses.clipped_squared_error(predictions, minibatch.values, targets, self.clip_value).mean()

    def _cut(self, batch: Minibatch, trajectories: list[Trajectory]) -> RowBatch | SequenceBatch:
        """Return what makes minibatches of a batch: of single rows, or of sequences for recurrent networks."""
        return SequenceBatch(batch, trajectories, self.sequence_length) if self.agent.state_size else RowBatch(batch)

    def _descend(
        self,
        optimizer: FlatAdam,
        loss: Loss,
        batch: RowBatch | SequenceBatch,
        rate_factor: float,
        arguments: Mapping[str, float],
        epochs: int,
        num_minibatches: int,
        target_kl: float | None,
    ) -> dict[str, float]:
        """Take the steps of all passes, and return the means of what they recorded."""
        optimizer.prepare(loss, batch.spec, rate_factor, arguments)
        records: list[Tensor] = []
        for _ in range(epochs):
            epoch = [optimizer(part) for part in batch.minibatches(num_minibatches, self.rng)]
            records += epoch
            if target_kl is not None and _means(optimizer, epoch)["approx_kl"] > target_kl:
                break
        return _means(optimizer, records)

    @torch.no_grad()
    def _update_target_critic(self) -> None:
        """Move the target critic towards the critic, if there is one and it is due."""
        self.updates += 1
        target, critic = self.agent.target_critic, self.agent.critic
        if target is not None and critic is not None and self.updates % (self.target_update_every or 1) == 0:
            for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                slow.lerp_(fast, self.target_tau)

    def _count_compiling(self, seconds: float) -> None:
        self.profile.count("compiling", seconds)


def _means(optimizer: FlatAdam, records: list[Tensor]) -> dict[str, float]:
    return dict(zip(optimizer.names, torch.stack(records).mean(0).tolist(), strict=True))
