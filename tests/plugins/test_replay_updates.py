"""Tests of whole updates of algorithms with a replay buffer, against plain torch and lists of episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn.utils import clip_grad_norm_

from plexp import Transitions
from plexp.training.progress import TrainingProgress
from tests.support.off_policy import Make, experiments, shake
from tests.support.replay_world import Array, World
from tests.unit.training.test_replay import expected

RATE, TAU = 0.01, 0.3


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments() as function:
        yield function


class SmallWorld(World):
    """World whose observations are of unit scale, as networks need them."""

    def observe(self) -> Array:
        return self.rng.normal(size=self.shape).astype(np.float32)


def value_after(algorithm: Any, observation: Tensor, noise: Tensor | None) -> float:
    """Return what the target bootstraps from at one observation [size]."""
    row = observation.unsqueeze(0)
    name = type(algorithm).__name__
    if name == "TD3":
        return float(algorithm.target_critics(row, algorithm.target_policy.policy(row).tanh()).min())
    if name == "SAC":
        alpha, parameters = float(algorithm.temperature.log.exp()), algorithm.policy.policy(row)[0]
        if noise is None:
            probabilities, values = parameters.softmax(-1), algorithm.target_critics(row)[:, 0].amin(0)
            return float((probabilities * (values - alpha * probabilities.log())).sum())
        u = parameters[0] + parameters[1].exp() * noise[0, 0]
        log_prob = float(Normal(parameters[0], parameters[1].exp()).log_prob(u)) - math.log(1 - math.tanh(u) ** 2)
        return float(algorithm.target_critics(row, u.tanh().view(1, 1)).min()) - alpha * log_prob
    values = [network.policy(row).reshape(2, -1).mean(-1) for network in (algorithm.policy, algorithm.target)]
    return float(values[1][int(values[0].argmax())])


def mean_value(algorithm: Any, observation: Tensor, action: Tensor) -> float:
    """Return Q(s, a), or the mean of the critics' values; SAC's actions of a Box are stored before tanh."""
    row, name = observation.unsqueeze(0), type(algorithm).__name__
    if name == "TD3" or (name == "SAC" and action.is_floating_point()):
        taken = action.tanh() if name == "SAC" else action
        return float(algorithm.critics(row, taken.unsqueeze(0)).mean())
    if name == "SAC":
        return float(algorithm.critics(row)[:, 0, int(action)].mean())
    return float(algorithm.policy.policy(row).reshape(2, -1).mean(-1)[int(action)])


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("same_step", [True, False])
@pytest.mark.parametrize(
    ("algo", "env"),
    [
        *(("dqn", "cartpole"), ("qr_dqn", "cartpole"), ("sac", "cartpole")),
        *(("sac", "pendulum"), ("td3", "pendulum"), ("ddpg", "pendulum")),
    ],
)
def test_targets_stop_at_termination_and_see_the_true_end_of_truncated_episodes(
    algo: str, env: str, same_step: bool, n_steps: int, make: Make
) -> None:
    """Compare the TD errors of drawn transitions with those of a list of episodes, whose steps know their successors."""
    smoothing = ("algo.target_noise=0",) if algo == "td3" else ()
    sizes = ("env.num_envs=2", "algo.batch_size=64", "algo.gradient_steps=1", "gamma=0.9", f"algo.n_steps={n_steps}")
    experiment = make(f"algo={algo}", f"env={env}", *sizes, *smoothing)
    size, shape, kind = (4, (), torch.int64) if env == "cartpole" else (3, (1,), torch.float32)
    world = SmallWorld(2, (size,), np.float32, shape, kind, same_step=same_step, p_end=0.4)
    trajectory = world.play(80)
    trajectory = replace(trajectory, actions=trajectory.actions % 2)
    algorithm, learner = experiment.trainer.algorithm, experiment.trainer.algorithm.learner
    shake(*learner.modules)
    state = deepcopy(learner.rng.bit_generator.state)
    batch = next(learner.batches(trajectory, 0.0, noise=getattr(algorithm, "noise", (1,))))
    with torch.no_grad():
        loss = getattr(algorithm, "critic_loss", None) or algorithm.loss
        errors = loss(batch)[1]["td_errors"]
    learner.rng.bit_generator.state = state
    indices, steps, ends = learner.memory.buffer.draw(learner.rng, 64).tolist(), world.newest(80), set()
    for b, index in enumerate(indices):
        step = steps[index]
        reward, discount, successor = expected(step, n_steps, 0.9)
        with torch.no_grad():
            noise = None if batch.noise is None else batch.noise[b]
            if successor is not None:
                reward += discount * value_after(algorithm, torch.from_numpy(successor), noise)
            action = torch.from_numpy(np.asarray(step.action)).to(kind) % 2
            value = mean_value(algorithm, torch.from_numpy(step.observation), action)
        assert float(errors[b]) == pytest.approx(reward - value, rel=1e-4, abs=1e-4)
        ends.add("goes on" if step.after else "terminated" if step.terminated else "truncated")
    assert ends == {"goes on", "terminated", "truncated"}


def one_by_one(critics: Any) -> list[nn.Sequential]:
    """Return critics as separate networks of linear layers with tanh between them."""
    separate = []
    for member in critics.members:
        layers: list[nn.Module] = []
        parameters = [p.detach().clone() for p in member.parameters()]
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight.data, layer.bias.data = weight, bias
            layers += [layer, nn.Tanh()]
        separate.append(nn.Sequential(*layers[:-1]))
    return separate


def plain_policy(algorithm: Any) -> nn.Module:
    """Return a copy of the policy's layers."""
    return nn.Sequential(deepcopy(algorithm.policy.trunk), deepcopy(algorithm.policy.head))


def parameters_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [p for module in modules for p in module.parameters()]


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def follow(targets: Iterable[nn.Module], networks: Iterable[nn.Module], tau: float) -> None:
    for target, p in zip(parameters_of(targets), parameters_of(networks), strict=True):
        target.data = (1 - tau) * target.data + tau * p.data


def half_mean_square(errors: Tensor) -> Tensor:
    return 0.5 * (errors**2).mean()


def plain_td3(algorithm: Any, delay: int, sigma: float, clip: float) -> Callable[[Sequence[Transitions]], list[Tensor]]:
    """Return the algorithm of Fujimoto et al. 2018 from the networks as they are now; targets move with the policy."""
    policy, critics = plain_policy(algorithm), one_by_one(algorithm.critics)
    target_policy, target_critics = deepcopy(policy), deepcopy(critics)
    policy_adam = torch.optim.Adam(policy.parameters(), lr=RATE)
    critic_adam = torch.optim.Adam(parameters_of(critics), lr=RATE)

    def run(batches: Sequence[Transitions]) -> list[Tensor]:
        for number, batch in enumerate(batches, 1):
            taken = torch.cat([batch.observations, batch.actions], -1)
            with torch.no_grad():
                noise = torch.clamp(sigma * batch.noise, -clip, clip) if batch.noise is not None else 0
                action = torch.clamp(torch.tanh(target_policy(batch.next_observations)) + noise, -1, 1)
                following = torch.cat([batch.next_observations, action], -1)
                least = torch.stack([critic(following) for critic in target_critics]).min(0).values
                target = batch.rewards.unsqueeze(-1) + batch.discounts.unsqueeze(-1) * least
            step(critic_adam, sum((half_mean_square(critic(taken) - target) for critic in critics), torch.zeros(())))
            if number % delay == 0:
                own = torch.cat([batch.observations, torch.tanh(policy(batch.observations))], -1)
                step(policy_adam, -critics[0](own).mean())
                follow([target_policy, *target_critics], [policy, *critics], TAU)
        return [*policy.parameters(), *parameters_of(critics), *parameters_of([target_policy, *target_critics])]

    return run


def plain_sac(algorithm: Any) -> Callable[[Sequence[Transitions]], list[Tensor]]:
    """Return the algorithm of Haarnoja et al. 2018 (version 2) from the networks as they are now, for a Box."""
    policy, critics = plain_policy(algorithm), one_by_one(algorithm.critics)
    target_critics, log_alpha = deepcopy(critics), algorithm.temperature.log.detach().clone().requires_grad_()
    policy_adam = torch.optim.Adam(policy.parameters(), lr=RATE)
    critic_adam = torch.optim.Adam(parameters_of(critics), lr=RATE)
    alpha_adam = torch.optim.Adam([log_alpha], lr=RATE)

    def least(of: list[nn.Sequential], observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = policy(observations).chunk(2, -1)
        squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
        action = torch.tanh(mean + log_std.exp() * noise)
        inputs = torch.cat([observations, action], -1)
        return torch.stack([critic(inputs) for critic in of]).min(0).values, squashed.log_prob(action)

    def run(batches: Sequence[Transitions]) -> list[Tensor]:
        for batch in batches:
            assert batch.noise is not None
            taken = torch.cat([batch.observations, torch.tanh(batch.actions)], -1)
            with torch.no_grad():
                value, log_prob = least(target_critics, batch.next_observations, batch.noise[:, 0])
                soft = value - log_alpha.exp() * log_prob
                target = batch.rewards.unsqueeze(-1) + batch.discounts.unsqueeze(-1) * soft
            step(critic_adam, sum((half_mean_square(critic(taken) - target) for critic in critics), torch.zeros(())))
            value, log_prob = least(critics, batch.observations, batch.noise[:, 1])
            step(policy_adam, (log_alpha.exp().detach() * log_prob - value).mean())
            step(alpha_adam, -(log_alpha * (log_prob.detach() - 1)).mean())  # the target entropy is −1
            follow(target_critics, critics, TAU)
        return [*policy.parameters(), log_alpha, *parameters_of([*critics, *target_critics])]

    return run


def plain_discrete_sac(algorithm: Any) -> Callable[[Sequence[Transitions]], list[Tensor]]:
    """Return the algorithm of Christodoulou 2019 from the networks as they are now."""
    policy, critics = plain_policy(algorithm), one_by_one(algorithm.critics)
    target_critics, log_alpha = deepcopy(critics), algorithm.temperature.log.detach().clone().requires_grad_()
    policy_adam = torch.optim.Adam(policy.parameters(), lr=RATE)
    critic_adam = torch.optim.Adam(parameters_of(critics), lr=RATE)
    alpha_adam = torch.optim.Adam([log_alpha], lr=RATE)

    def run(batches: Sequence[Transitions]) -> list[Tensor]:
        for batch in batches:
            rows = torch.arange(len(batch.rewards))
            with torch.no_grad():
                p = policy(batch.next_observations).softmax(-1)
                values = torch.stack([critic(batch.next_observations) for critic in target_critics]).min(0).values
                target = batch.rewards + batch.discounts * (p * (values - log_alpha.exp() * p.log())).sum(-1)
            errors = [critic(batch.observations)[rows, batch.actions] - target for critic in critics]
            step(critic_adam, sum(map(half_mean_square, errors), torch.zeros(())))
            p = policy(batch.observations).softmax(-1)
            values = torch.stack([critic(batch.observations) for critic in critics]).min(0).values.detach()
            step(policy_adam, (p * (log_alpha.exp().detach() * p.log() - values)).sum(-1).mean())
            gap = -(p.detach() * p.detach().log()).sum(-1) - 0.5 * math.log(2)
            step(alpha_adam, (log_alpha * gap).mean())
            follow(target_critics, critics, TAU)
        return [*policy.parameters(), log_alpha, *parameters_of([*critics, *target_critics])]

    return run


def plain_dqn(algorithm: Any) -> Callable[[Sequence[Transitions]], list[Tensor]]:
    """Return double DQN with Huber's error, clipped gradients and a target that is copied at every third step."""
    network = plain_policy(algorithm)
    target, adam = deepcopy(network), torch.optim.Adam(network.parameters(), lr=RATE)

    def run(batches: Sequence[Transitions]) -> list[Tensor]:
        for number, batch in enumerate(batches, 1):
            rows = torch.arange(len(batch.rewards))
            with torch.no_grad():
                following = target(batch.next_observations)[rows, network(batch.next_observations).argmax(-1)]
            value = network(batch.observations)[rows, batch.actions]
            loss = nn.functional.huber_loss(value, batch.rewards + batch.discounts * following)
            adam.zero_grad()
            loss.backward()
            clip_grad_norm_(network.parameters(), 0.05)
            adam.step()
            if number % 3 == 0:
                follow([target], [network], 1.0)
        return [*network.parameters(), *target.parameters()]

    return run


PLAIN: dict[str, tuple[tuple[str, ...], Callable[[Any], Callable[[Sequence[Transitions]], list[Tensor]]]]] = {
    "td3": (
        (
            "algo=td3",
            "env=pendulum",
            "algo.target_update_every=2",
            "algo.target_noise=0.3",
            "algo.target_noise_clip=0.2",
        ),
        lambda algorithm: plain_td3(algorithm, 2, 0.3, 0.2),
    ),
    "td3, delay 3": (
        ("algo=td3", "env=pendulum", "algo.target_update_every=3", "algo.policy_delay=3"),
        lambda algorithm: plain_td3(algorithm, 3, 0.2, 0.5),
    ),
    "ddpg": (("algo=ddpg", "env=pendulum"), lambda algorithm: plain_td3(algorithm, 1, 0.0, 0.0)),
    "sac": (("algo=sac", "env=pendulum", "algo.alpha=0.3"), plain_sac),
    "discrete sac": (("algo=sac", "env=cartpole", "algo.alpha=0.3"), plain_discrete_sac),
    "dqn": (
        ("algo=dqn", "env=cartpole", "algo.max_grad_norm=0.05", "algo.target_update_every=3", "algo.target_tau=1"),
        plain_dqn,
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_several_updates_are_those_of_plain_torch(name: str, make: Make) -> None:
    """Compare all networks and targets after 10 gradient steps on the same batches with torch's own Adam."""
    overrides, plain = PLAIN[name]
    shared = ("env.num_envs=2", "algo.gradient_steps=2", "algo.learning_starts=64")
    tau = () if name == "dqn" else (f"algo.target_tau={TAU}",)
    fixed = (f"algo.learning_rate={RATE}", "algo.anneal_learning_rate=false", "algo.batch_size=32")
    experiment = make(*overrides, *shared, *tau, *fixed)
    algorithm, learner, seen = experiment.trainer.algorithm, experiment.trainer.algorithm.learner, []
    run, draw = plain(algorithm), learner.batches

    def recorded(*arguments: Any, **named: Any) -> Iterator[Transitions]:
        for batch in draw(*arguments, **named):
            seen.append(batch)
            yield batch

    learner.batches = recorded
    before = torch.cat([each.vector for each in learner.vectors])
    while learner.count < 10:
        experiment.trainer.iterate(TrainingProgress())
    trained = {"td3": ["policy", "critics", "target_policy", "target_critics"], "dqn": ["policy", "target"]}
    trained["sac"] = ["policy", "temperature", "critics", "target_critics"]
    members = trained.get(type(algorithm).__name__.lower(), [])
    for module, values in zip(members, split(algorithm, members, run(seen)), strict=True):
        for ours, theirs in zip(getattr(algorithm, module).parameters(), values, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(seen) == 10 and (torch.cat([each.vector for each in learner.vectors]) != before).float().mean() > 0.9


def split(algorithm: Any, members: Sequence[str], values: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the plain parameters of each member of an algorithm."""
    rest = list(values)
    for member in members:
        count = len(list(getattr(algorithm, member).parameters()))
        part, rest = rest[:count], rest[count:]
        yield part


@pytest.mark.parametrize(
    "overrides",
    [("algo=td3", "env=pendulum"), ("algo=sac", "env=pendulum"), ("algo=sac", "env=cartpole")],
    ids=" ".join,
)
def test_a_step_of_the_policy_leaves_the_critics_as_they_are(overrides: tuple[str, ...], make: Make) -> None:
    experiment = make(*overrides, "env.num_envs=2", "algo.gradient_steps=1")
    algorithm = experiment.trainer.algorithm
    trajectories = [experiment.trainer.collector.collect() for _ in range(8)]
    for trajectory in trajectories:
        for batch in algorithm.learner.batches(trajectory, 0.0, noise=getattr(algorithm, "noise", (1,))):
            critics, policy = algorithm.critic_optimizer.adam, algorithm.policy_optimizer.adam
            before, count = [each.clone() for each in (critics.flat, critics.means, policy.flat)], critics.count
            algorithm.policy_optimizer.minimize(algorithm.policy_loss, batch)
            assert all(map(torch.equal, before[:2], (critics.flat, critics.means))) and critics.count == count
            assert not torch.equal(before[2], policy.flat)
            before = [policy.flat.clone(), critics.flat.clone()]
            algorithm.critic_optimizer.minimize(algorithm.critic_loss, batch)
            assert torch.equal(before[0], policy.flat) and not torch.equal(before[1], critics.flat)
    assert algorithm.learner.count > 3
