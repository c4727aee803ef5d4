"""Gradient descent, once for all algorithms: replay, targets, epochs, minibatches, gradients, clipping, the optimiser."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plexp.config.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from plexp.errors import ConfigError, Problem
from plexp.nn.optimizer import FlatAdam, Loss, Terms
from plexp.training import losses
from plexp.training.agent import Agent
from plexp.training.batches import Standardization, assemble, minibatches
from plexp.training.interfaces import AdvantageEstimator
from plexp.training.progress import Profile
from plexp.training.types import AgentOutput, Metrics, Minibatch, Rollout


class Learner:
    """Fits an agent to rollouts. Its parameters stand in the sheet of the algorithm that uses it.

    Args:
        learning_rate: Adam's step size, of actor and critic; larger: faster, less steady.
        critic_learning_rate: the critic's own; null: the same.
        anneal_learning_rate: both fall linearly to 0 over the training budget.
        adam_eps: added to Adam's denominator; larger: smaller steps where gradients are small.
        max_grad_norm: gradients are scaled down to this L2 norm, of all parameters together; null: never.
        ent_coef: weight of the entropy bonus, in return per nat; larger: more exploration.
        vf_coef: weight of the critic's loss beside the policy's, where one step trains both.
        clip_value: keeps the critic within ± so much of its old predictions (`losses.clipped_squared_error`); null: off.
        critic_epochs: passes over the batch for the critic alone; null: it is trained in the policy's passes.
        standardize_advantages: to mean 0 and deviation 1 over each `minibatch`, `rollout` or `episode`, or `off`.
        target_update_every: updates between two moves of a target critic, from which values are then taken; null: no target.
        target_tau: how far it moves: target ← (1 − τ)·target + τ·critic; 1 is a hard copy, small with every=1 is Polyak's.
        replay_rollouts: so many of the last rollouts are learnt from again, appraised by today's critic; needs an
            estimator that corrects for the older policy.
    """

    configured_with_owner = True

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
    ) -> None:
        of_critic = {
            "critic_learning_rate": critic_learning_rate,
            "clip_value": clip_value,
            "critic_epochs": critic_epochs,
            "target_update_every": target_update_every,
        }
        _refuse(agent, advantage, of_critic, replay_rollouts)
        self.agent, self.advantage, self.rng, self.profile = agent, advantage, rng, profile or Profile()
        self.anneal_learning_rate, self.ent_coef, self.vf_coef = anneal_learning_rate, ent_coef, vf_coef
        self.clip_value, self.critic_epochs = clip_value, critic_epochs
        self.standardize_advantages: Standardization = standardize_advantages
        self.target_update_every, self.target_tau, self.updates = target_update_every, target_tau, 0
        self.replay: deque[Rollout] = deque(maxlen=replay_rollouts)
        if target_update_every is not None:
            agent.add_target_critic()
        actor = [*agent.trunk.parameters(), *agent.head.parameters()]
        shared = set(actor)
        critic = [p for p in agent.critic.parameters() if p not in shared] if agent.critic else []
        groups = [(actor, learning_rate), (critic, critic_learning_rate or learning_rate)]
        if critic_epochs is None and critic_learning_rate is None:
            groups = [(actor + critic, learning_rate)]
        apart = [groups] if critic_epochs is None else [groups[:1], groups[1:]]
        self.steps = [
            FlatAdam(
                agent,
                part,
                eps=adam_eps,
                max_grad_norm=max_grad_norm,
                transform=self.standardized,
                compiled=compiled,
                watched=[self],
                on_compile=self.profile.count_compiling,
            )
            for part in apart
        ]

    def fit(
        self,
        rollout: Rollout,
        loss: Loss,
        progress: float,
        *,
        arguments: Mapping[str, float] | None = None,
        epochs: int = 1,
        num_minibatches: int = 1,
        target_kl: float | None = None,
    ) -> Metrics:
        """Learn from a rollout (and those replayed); what it did, averaged over the minibatches.

        `arguments`: numbers that the loss takes by name; what changes from update to update must be one of them.
        `target_kl`: no further epoch begins once the mean approx_kl of one exceeds it, in nats.
        Raises TrainingError for a loss or gradient that is not finite, before it touches a parameter.
        """
        began = self.profile.now()
        rollouts = [rollout, *(self.agent.evaluate_rollout(old, fresh=False) for old in self.replay)]
        batch = assemble(self.agent, self.advantage, rollouts, self.standardize_advantages)
        self.profile.add("estimating", began)
        if not len(batch.advantages):
            return {}
        factor = 1 - progress if self.anneal_learning_rate else 1.0
        self.steps[0].prepare(loss, factor, arguments or {})
        policy_batch = batch if self.critic_epochs is None else replace(batch, value_targets=None)
        metrics = self._descend(self.steps[0], policy_batch, epochs, num_minibatches, target_kl)
        if self.critic_epochs is not None:
            self.steps[1].prepare(self.critic_alone, factor, {})
            alone = self._descend(self.steps[1], batch, self.critic_epochs, num_minibatches, None)
            metrics |= {"value_loss": alone["value_loss"], "critic_grad_norm": alone["grad_norm"]}
        self._after_update(rollout)
        metrics["learning_rate"] = self.steps[0].rates[0] * factor
        if batch.value_targets is not None:
            metrics["explained_variance"] = float(losses.explained_variance(batch.values, batch.value_targets))
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    def state_dict(self) -> dict[str, Any]:
        """What it remembers beside the agent: the optimiser, the count of updates, the rollouts to be replayed."""
        steps, replay = [step.state_dict() for step in self.steps], [vars(rollout) for rollout in self.replay]
        return {"updates": self.updates, "steps": steps, "replay": replay}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.updates = state_dict["updates"]
        for step, kept in zip(self.steps, state_dict["steps"], strict=True):
            step.load_state_dict(kept)
        self.replay.clear()
        self.replay.extend(Rollout(**kept) for kept in state_dict["replay"])

    def total(
        self,
        policy_losses: Tensor,
        evaluation: AgentOutput,
        minibatch: Minibatch,
        weight: float | Tensor | None = None,
        **terms: Tensor,
    ) -> tuple[Tensor, Terms]:
        """policy loss − ent_coef · entropy + vf_coef · value loss, each a mean over the minibatch, and the terms.

        policy_losses: [B]. `weight` multiplies the first two.
        """
        policy_loss, entropy = policy_losses.mean(), evaluation.entropy.mean()
        terms |= {"policy_loss": policy_loss, "entropy": entropy}
        total = policy_loss - self.ent_coef * entropy if self.ent_coef else policy_loss
        if weight is not None:
            total = weight * total
        if evaluation.predictions is not None:
            terms["value_loss"] = self.value_loss(evaluation.predictions, minibatch)
            total = total + self.vf_coef * terms["value_loss"]
        return total, {name: term.detach() for name, term in terms.items()}

    def standardized(self, minibatch: Minibatch) -> Minibatch:
        """With its advantages to mean 0 and deviation 1, if that is done by the minibatch."""
        if self.standardize_advantages != "minibatch":
            return minibatch
        return replace(minibatch, advantages=losses.standardize(minibatch.advantages))

    def critic_alone(self, minibatch: Minibatch) -> tuple[Tensor, Terms]:
        """The loss of a critic with epochs of its own."""
        loss = self.value_loss(self.agent.predict(minibatch), minibatch)
        return loss, {"value_loss": loss.detach()}

    def value_loss(self, predictions: Tensor, minibatch: Minibatch) -> Tensor:
        """Mean of ½ (prediction − target)², clipped if `clip_value` says so."""
        targets = minibatch.value_targets
        assert targets is not None
        if self.clip_value is None:
            return losses.squared_error(predictions, targets).mean()
        return losses.clipped_squared_error(predictions, minibatch.values, targets, self.clip_value).mean()

    def _descend(
        self, step: FlatAdam, batch: Minibatch, epochs: int, num_minibatches: int, target_kl: float | None
    ) -> dict[str, float]:
        """Steps of gradient descent; the means of what they recorded."""
        records: list[Tensor] = []
        for _ in range(epochs):
            epoch = [step(minibatch) for minibatch in minibatches(batch, num_minibatches, self.rng)]
            records += epoch
            if target_kl is not None and _means(step, epoch)["approx_kl"] > target_kl:
                break
        return _means(step, records)

    @torch.no_grad()
    def _after_update(self, rollout: Rollout) -> None:
        self.replay.append(rollout)
        self.updates += 1
        target, critic = self.agent.target_critic, self.agent.critic
        if target is not None and critic is not None and self.updates % (self.target_update_every or 1) == 0:
            for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                slow.lerp_(fast, self.target_tau)


def _means(step: FlatAdam, records: list[Tensor]) -> dict[str, float]:
    return dict(zip(step.names, torch.stack(records).mean(0).tolist(), strict=True))


def _refuse(
    agent: Agent, advantage: AdvantageEstimator, settings: dict[str, float | int | None], replay_rollouts: int
) -> None:
    """Raise ConfigError for what does not make sense with this agent and estimator, all at once."""
    name = type(advantage).__name__
    problems = []
    if agent.critic is None:
        for key, value in settings.items():
            if value is not None:
                remedy = f"give algo.{key}=null or an estimator with a critic, such as advantage=gae"
                problems.append(Problem(f"algo.{key}", value, f"there is no critic with the estimator {name}", remedy))
    if (epochs := settings["critic_epochs"]) is not None and agent.shares_trunk:
        remedy = "give net.share_trunk=false or algo.critic_epochs=null"
        problems.append(Problem("algo.critic_epochs", epochs, "actor and critic share a trunk", remedy))
    if settings["clip_value"] is not None and settings["target_update_every"] is not None:
        cause = "the values of the rollout are the target critic's, not the old critic's"
        remedy = "give algo.clip_value=null or algo.target_update_every=null"
        problems.append(Problem("algo.clip_value", settings["clip_value"], cause, remedy))
    if replay_rollouts and not advantage.off_policy:
        cause = f"the estimator {name} does not correct for the older policy of a replayed rollout"
        problems.append(
            Problem("algo.replay_rollouts", replay_rollouts, cause, "give advantage=vtrace or algo.replay_rollouts=0")
        )
    if problems:
        raise ConfigError(problems)
