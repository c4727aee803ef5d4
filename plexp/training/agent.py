"""The agent of on-policy algorithms: a policy with a critic and a target critic."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from plexp.config.fields import ActionBounds, LogStd, PositiveInt
from plexp.errors import ConfigError, Problem
from plexp.nn.compile import Compiled
from plexp.nn.distributions import ActionDistribution, Categorical
from plexp.nn.layout import VECTOR, ObservationReader, Observations
from plexp.nn.networks import Critic, CriticKind, Network, make_trunk, policy_head
from plexp.nn.recurrent import Inputs, Recurrent, Sequences, features_of, read_by
from plexp.training.frames import whole_observations
from plexp.training.policy import Policy
from plexp.training.progress import Profile
from plexp.training.sequences import unroll
from plexp.training.types import AgentOutput, Minibatch, Rollout, Trajectory

CHUNK_ROWS = 4096
"""Rows of one forward pass over a trajectory; a larger number needs more memory for images."""


class Agent(Policy):
    """Actor and critic.

    Args:
        reader: gives observations as the networks take them.
        net: network of the actor.
        critic_net: network of the critic; None: the actor's.
        critic_kind: kind of critic that the advantage estimator needs.
        rng: source of the noise for Σ_a π(a|s) Q(s, a) over continuous actions.
        log_std, log_std_init: see `PolicyHead`.
        bounds: how actions are kept within a Box: `clip` what the environment gets, or `tanh` in the policy.
        observes, critic_observes: names of the parts of observations that actor and critic see; None: all.
        action_samples: number of sampled actions whose mean Q(s, a) stands for Σ_a π(a|s) Q(s, a), if actions are
            continuous.
    """

    def __init__(
        self,
        reader: ObservationReader,
        distribution: ActionDistribution,
        net: Network,
        critic_net: Network | None,
        critic_kind: CriticKind,
        rng: np.random.Generator,
        *,
        log_std: LogStd,
        log_std_init: float,
        bounds: ActionBounds,
        action_samples: PositiveInt,
        observes: Sequence[str] | None = None,
        critic_observes: Sequence[str] | None = None,
    ) -> None:
        if net.share_trunk and critic_net is not None:
            cause = "a shared trunk leaves no room for a network of the critic's own"
            remedy = "give net.share_trunk=false or leave out net@critic_net"
            raise ConfigError(Problem("net.share_trunk", True, cause, remedy))
        if net.share_trunk and observes != critic_observes:
            cause = "actor and critic see different parts of the observations"
            raise ConfigError(Problem("net.share_trunk", True, cause, "give net.share_trunk=false"))
        trunk, features = make_trunk(net, reader, observes)
        super().__init__(distribution, reader, trunk, policy_head(net, features, distribution, log_std, log_std_init))
        self.distribution: ActionDistribution = distribution
        self.critic_kind, self.rng, self.bounds, self.action_samples = critic_kind, rng, bounds, action_samples
        shared = (self.trunk, features) if net.share_trunk else None
        self.shares_trunk = shared is not None and critic_kind != "none"
        self.critic = (
            None
            if critic_kind == "none"
            else Critic(critic_net or net, reader, critic_kind, distribution, shared, critic_observes)
        )
        self.target_critic: Critic | None = None
        if self.critic is not None and self.critic.trunk is not trunk and isinstance(self.critic.trunk, Recurrent):
            self.critic.trunk.first = self.state_size  # its state stands behind the actor's
            self.state_size += self.critic.trunk.state_size

    def add_target_critic(self) -> None:
        """Add a copy of the critic, which evaluates rollouts and follows the critic slowly (Mnih et al. 2015)."""
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)  # type: ignore[union-attr]

    def compile(self, profile: Profile) -> None:
        """Compile acting and evaluating; `profile` gets the seconds that it takes."""
        super().compile(profile)
        draws_noise = self.critic is not None and self.critic.takes_actions
        if not draws_noise and not self.state_size:
            count = partial(profile.count, "compiling")
            self._evaluate = Compiled(self._evaluate, "evaluating", on_compile=count)  # type: ignore[assignment, method-assign]

    def evaluate(self, minibatch: Minibatch) -> AgentOutput:
        """Return what the current networks say of a minibatch, with gradients; a shared trunk runs once."""
        features = features_of(self.trunk, minibatch.observations)
        parameters = self.parameters_of(features, minibatch.observations)
        log_probs, entropy = self.distribution.evaluate(parameters, minibatch.actions)
        if self.critic is None or minibatch.value_targets is None:
            return AgentOutput(log_probs, entropy, None)
        return AgentOutput(log_probs, entropy, self.predict(minibatch, features if self.shares_trunk else None))

    def predict(self, minibatch: Minibatch, features: Tensor | None = None) -> Tensor:
        """Return what the critic is trained on [B]: V(s), or Q(s, a) of the actions taken.

        `features` are those of a shared trunk, if they are known already.
        """
        critic = self.critic
        assert critic is not None
        if critic.takes_actions:
            return self._action_values(critic, minibatch.observations, minibatch.actions)
        output = critic(minibatch.observations) if features is None else critic.from_features(features)
        return output if not critic.per_action else output.gather(-1, minibatch.actions.unsqueeze(-1)).squeeze(-1)

    def remember(self, observations: Observations, state: Tensor) -> Tensor:
        trunk = None if self.critic is None else self.critic.trunk
        return trunk.step(observations, state)[1] if isinstance(trunk, Recurrent) and trunk is not self.trunk else state

    @torch.no_grad()
    def evaluate_trajectory(self, trajectory: Trajectory, old_log_probs: Tensor | None = None) -> Rollout:
        """Return the trajectory with log-probabilities and values: those of the target critic, if there is one.

        Args:
            trajectory: T steps of N environments.
            old_log_probs: [T, N] log π_old(a|s) of the policy that acted; None: the current policy did.
        """
        steps, envs = trajectory.rewards.shape
        rows = steps * envs
        observations, actions = whole_observations(trajectory).flatten(0, 1), trajectory.actions.flatten(0, 1)
        if self.critic is not None:
            observations = torch.cat([observations, trajectory.last_observations, trajectory.final_observations])
            actions = torch.cat([actions, actions.new_zeros(len(observations) - rows, *actions.shape[1:])])
        evaluate = self._evaluate_sequences if self.state_size else self._evaluate_in_chunks
        log_probs, values, action_values = evaluate(trajectory, observations, actions)
        log_probs = log_probs[:rows].view(steps, envs)
        zeros = torch.zeros_like(trajectory.rewards)
        if self.critic is None:
            values = next_values = action_values = zeros
        else:
            next_values = values[envs : rows + envs]
            if len(trajectory.final_index):
                next_values = next_values.index_copy(0, trajectory.final_index, values[rows + envs :])
            values, next_values = values[:rows].view(steps, envs), next_values.view(steps, envs)
            action_values = action_values[:rows].view(steps, envs)
        return Rollout(
            **trajectory.given(),
            log_probs=log_probs if old_log_probs is None else old_log_probs,
            log_ratios=zeros if old_log_probs is None else log_probs - old_log_probs,
            values=values,
            next_values=next_values,
            action_values=action_values,
        )

    def _evaluate_sequences(self, trajectory: Trajectory, observations: Tensor, actions: Tensor) -> list[Tensor]:
        """Return what `_evaluate` says of each row, unrolled over each episode from the state that it has in the rollout."""
        rows, batch_sizes, states = unroll(trajectory, with_successors=self.critic is not None)
        device = self.device
        sequences = Sequences(observations[rows].to(device), batch_sizes, states.to(device))
        columns = self._evaluate_read(read_by(self.read, sequences), actions[rows].to(device))
        return [column.new_zeros(len(observations)).index_copy(0, rows, column) for column in map(Tensor.cpu, columns)]

    def _evaluate_in_chunks(self, trajectory: Trajectory, observations: Tensor, actions: Tensor) -> list[Tensor]:
        number, device = -(-len(observations) // CHUNK_ROWS), self.device
        if number == 1:
            return [column.cpu() for column in self._evaluate(observations.to(device), actions.to(device))]
        pairs = zip(observations.tensor_split(number), actions.tensor_split(number), strict=True)
        chunks = [self._evaluate(part.to(device), taken.to(device)) for part, taken in pairs]
        return [torch.cat(column).cpu() for column in zip(*chunks, strict=True)]

    def _evaluate(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log π(a|s), V(s) and Q(s, a) of each row [B]; zeros where there is no such critic."""
        return self._evaluate_read(self.read(rows), actions)

    def _evaluate_read(self, observations: Inputs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = features_of(self.trunk, observations)
        parameters = self.parameters_of(features, observations)
        log_probs, _ = self.distribution.evaluate(parameters, actions)
        zeros, critic = torch.zeros_like(log_probs), self.target_critic or self.critic
        if critic is None:
            return log_probs, zeros, zeros
        if self.critic_kind == "v":
            shared = self.shares_trunk and self.target_critic is None
            return log_probs, critic.from_features(features) if shared else critic(observations), zeros
        if isinstance(self.distribution, Categorical):
            q = critic(observations)
            values = (self.distribution.probabilities(parameters) * q).sum(-1)
            return log_probs, values, q.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        samples = []
        for _ in range(self.action_samples):
            noise = torch.from_numpy(self.distribution.draw_noise(self.rng, len(actions))).to(actions.device)
            samples.append(self._action_values(critic, observations, self.distribution.sample(parameters, noise)))
        return log_probs, torch.stack(samples).mean(0), self._action_values(critic, observations, actions)

    def _action_values(self, critic: Critic, observations: Inputs, actions: Tensor) -> Tensor:
        if isinstance(observations, Sequences):
            observations = observations.rows()
        vector = observations[VECTOR] if isinstance(observations, dict) else observations
        values: Tensor = critic(torch.cat([vector, self.distribution.encode(actions)], -1))
        return values
