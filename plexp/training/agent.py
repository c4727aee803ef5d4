"""The agent: actor, critic, target critic, observation normaliser."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from plexp.config.fields import ActionBounds, LogStd, PositiveInt
from plexp.errors import ConfigError, Problem
from plexp.nn.compile import Compiled
from plexp.nn.distributions import ActionDistribution, Categorical
from plexp.nn.networks import Critic, CriticKind, Network, PolicyHead
from plexp.nn.normalization import ObservationNormalizer
from plexp.training.progress import Profile
from plexp.training.types import AgentOutput, Minibatch, Rollout

CHUNK = 4096  # rows of one forward pass over a rollout: keeps the memory of large image rollouts flat


class Agent(nn.Module):
    """What acts and what judges. `normalizer` belongs to it: saved with it, frozen in evaluation.

    Args:
        net: the actor's network; `critic_net` the critic's, by default the actor's.
        log_std: of a Gaussian policy: `free` of the state (one learnt number a dimension), of the `state`, or `identity`
            (σ = 1, fixed, as in plain policy-gradient texts).
        log_std_init: where log σ starts; 0 is σ = 1.
        bounds: how actions are kept within a Box: `clip` what the environment gets, or `tanh` in the policy.
        action_samples: with Q(s, a) over continuous actions, Σ_a π(a|s) Q(s, a) is the mean over so many sampled actions.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        distribution: ActionDistribution,
        net: Network,
        critic_net: Network | None,
        critic_kind: CriticKind,
        normalizer: ObservationNormalizer | None,
        rng: np.random.Generator,
        *,
        log_std: LogStd,
        log_std_init: float,
        bounds: ActionBounds,
        action_samples: PositiveInt,
    ) -> None:
        super().__init__()
        self.distribution, self.critic_kind, self.normalizer, self.rng = distribution, critic_kind, normalizer, rng
        self.bounds, self.action_samples = bounds, action_samples
        if net.share_trunk and critic_net is not None:
            cause = "a shared trunk leaves no room for a network of the critic's own"
            raise ConfigError(
                Problem("net.share_trunk", True, cause, "give net.share_trunk=false or leave out net@critic_net")
            )
        self.trunk, features = net.trunk(shape)
        self.head = PolicyHead(net, features, distribution, log_std, log_std_init)
        shared = (self.trunk, features) if net.share_trunk else None
        self.shares_trunk = shared is not None and critic_kind != "none"
        self.critic = (
            None if critic_kind == "none" else Critic(critic_net or net, shape, critic_kind, distribution, shared)
        )
        self.target_critic: Critic | None = None

    def add_target_critic(self) -> None:
        """From now on rollouts are appraised by a copy of the critic that follows it (Mnih et al. 2015)."""
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)  # type: ignore[union-attr]

    def compile(self, profile: Profile) -> None:
        """From now on acting and appraising are compiled code."""
        self._sample = Compiled(self._sample, "acting", on_compile=profile.count_compiling)  # type: ignore[assignment, method-assign]
        if self.critic is None or not self.critic.takes_actions:  # which draws noise
            self._judge = Compiled(self._judge, "appraising", on_compile=profile.count_compiling)  # type: ignore[assignment, method-assign]

    def normalize(self, observations: Tensor) -> Tensor:
        """[B, *obs] as the networks see them."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def policy(self, observations: Tensor) -> Tensor:
        """Normalised observations [B, *obs] -> the distribution's parameters [B, P]."""
        parameters: Tensor = self.head(self.trunk(observations))
        return parameters

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Observations [N, *obs] as the environment gave them -> sampled actions [N, *act]."""
        return self._sample(observations, noise)[0]

    @torch.no_grad()
    def _sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor]:
        return (self.distribution.sample(self.policy(self.normalize(observations)), noise),)

    @torch.inference_mode()
    def act_greedily(self, observations: Tensor) -> Tensor:
        """Observations [N, *obs] as the environment gave them -> the mode of the policy [N, *act]."""
        return self.distribution.mode(self.policy(self.normalize(observations)))

    def evaluate(self, minibatch: Minibatch) -> AgentOutput:
        """What today's networks say of a minibatch, with gradients; one pass through a shared trunk."""
        features = self.trunk(minibatch.observations)
        log_probs, entropy = self.distribution.evaluate(self.head(features), minibatch.actions)
        if self.critic is None or minibatch.value_targets is None:
            return AgentOutput(log_probs, entropy, None)
        predictions = self.predict(minibatch, features if self.shares_trunk else None)
        return AgentOutput(log_probs, entropy, predictions)

    def predict(self, minibatch: Minibatch, features: Tensor | None = None) -> Tensor:
        """[B] what the critic is trained on: V(s), or Q(s, a) of the action that was taken."""
        critic = self.critic
        assert critic is not None
        if critic.takes_actions:
            return self._action_values(critic, minibatch.observations, minibatch.actions)
        output = critic(minibatch.observations) if features is None else critic.on_features(features)
        return output if not critic.per_action else output.gather(-1, minibatch.actions.unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def evaluate_rollout(self, rollout: Rollout, *, fresh: bool) -> Rollout:
        """The rollout with the values of today's critic (the target critic, if there is one) filled in.

        `fresh`: today's policy is the one that acted, so `log_probs` are filled in too; otherwise `log_ratios` are.
        """
        steps, envs = rollout.rewards.shape
        rows, every, actions = steps * envs, rollout.observations.flatten(0, 1), rollout.actions.flatten(0, 1)
        if self.critic is not None:
            every = torch.cat([every, rollout.last_observations, rollout.final_observations])
            actions = torch.cat([actions, actions.new_zeros(len(every) - rows, *actions.shape[1:])])
        log_probs, values, action_values = self._judge_in_chunks(every, actions)
        log_probs, action_values = log_probs[:rows].view(steps, envs), action_values[:rows].view(steps, envs)
        changed = {"log_probs": log_probs} if fresh else {"log_ratios": log_probs - rollout.log_probs}
        if self.critic is None:
            return replace(rollout, **changed)
        next_values = values[envs : rows + envs]
        if len(rollout.final_index):
            next_values = next_values.index_copy(0, rollout.final_index, values[rows + envs :])
        return replace(
            rollout,
            values=values[:rows].view(steps, envs),
            next_values=next_values.view(steps, envs),
            action_values=action_values,
            **changed,
        )

    def _judge_in_chunks(self, observations: Tensor, actions: Tensor) -> list[Tensor]:
        number, device = -(-len(observations) // CHUNK), next(self.parameters()).device
        if number == 1:
            return [each.cpu() for each in self._judge(observations.to(device), actions.to(device))]
        parts = zip(observations.tensor_split(number), actions.tensor_split(number), strict=True)
        chunks = [self._judge(part.to(device), acted.to(device)) for part, acted in parts]
        return [torch.cat(column).cpu() for column in zip(*chunks, strict=True)]

    def _judge(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log π(a|s), V(s) and Q(s, a) of each row [B]; zeros where there is no such critic."""
        observations = self.normalize(observations)
        features = self.trunk(observations)
        parameters = self.head(features)
        log_probs, _ = self.distribution.evaluate(parameters, actions)
        nothing, critic = torch.zeros_like(log_probs), self.target_critic or self.critic
        if critic is None:
            return log_probs, nothing, nothing
        if self.critic_kind == "v":
            shared = self.shares_trunk and self.target_critic is None
            return log_probs, critic.on_features(features) if shared else critic(observations), nothing
        if isinstance(self.distribution, Categorical):
            q = critic(observations)
            values = (self.distribution.probabilities(parameters) * q).sum(-1)
            return log_probs, values, q.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        samples = []
        for _ in range(self.action_samples):
            noise = torch.from_numpy(self.distribution.draw_noise(self.rng, len(observations))).to(observations.device)
            samples.append(self._action_values(critic, observations, self.distribution.sample(parameters, noise)))
        return log_probs, torch.stack(samples).mean(0), self._action_values(critic, observations, actions)

    def _action_values(self, critic: Critic, observations: Tensor, actions: Tensor) -> Tensor:
        values: Tensor = critic(torch.cat([observations, self.distribution.encode(actions)], -1))
        return values


class GreedyPolicy(nn.Module):
    """What is handed on: observations [B, *obs] as the environment gives them -> actions as it takes them."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, observations: Tensor) -> Tensor:
        agent = self.agent
        parameters = agent.policy(agent.normalize(observations))
        return agent.distribution.to_environment(agent.distribution.mode(parameters))
