"""An agent as others use it."""

from __future__ import annotations

from torch import Tensor, nn

from plexp.agent import Agent


class GreedyPolicy(nn.Module):
    """What is handed on: observations [B, *obs] as the environment gives them -> actions as it takes them."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, observations: Tensor) -> Tensor:
        agent = self.agent
        parameters = agent.policy(agent.normalize(observations))
        return agent.distribution.to_environment(agent.distribution.mode(parameters))
