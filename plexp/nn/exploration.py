"""Rules from a network's output to an action for policies that are no distribution: exploration is added from outside."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from plexp.nn.distributions import Array, Categorical


class EpsilonGreedy(nn.Module):
    """Takes the action of the largest value, and with probability ε any action (Watkins 1989; Mnih et al. 2015).

    It is drawn with the noise whether a step explores, and with which action, so that acting is a function of tensors.

    Args:
        actions: the n actions.
    """

    epsilon: Tensor
    """ε, saved with the policy."""

    def __init__(self, actions: Categorical) -> None:
        super().__init__()
        self.actions = actions
        self.num_parameters = self.num_features = actions.num_parameters
        self.register_buffer("epsilon", torch.ones((), dtype=torch.float64))

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        """Return the action of each step that explores, and -1 for the others, [*shape], float32."""
        explores = rng.random(shape) < float(self.epsilon)
        return np.where(explores, rng.integers(self.num_parameters, size=shape), -1).astype(np.float32)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return an action of each row [B], for values [B, n]."""
        explored = noise.long()
        return torch.where(explored < 0, parameters.argmax(-1), explored)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the action of the largest value, [B]."""
        return parameters.argmax(-1)

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log π(a|s) [B] and the entropy of π(·|s) [B], both in nats."""
        n, epsilon = self.num_parameters, self.epsilon.to(parameters.dtype)
        greedy = nn.functional.one_hot(parameters.argmax(-1), n)
        probabilities = greedy * (1 - epsilon) + epsilon / n
        log_probs = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), -(probabilities * log_probs).sum(-1)

    def encode(self, actions: Tensor) -> Tensor:
        """Return actions [B] as vectors [B, n], float32."""
        return self.actions.encode(actions)

    def to_environment(self, actions: Tensor) -> Tensor:
        """Return actions as the environment takes them."""
        return self.actions.to_environment(actions)
