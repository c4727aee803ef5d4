"""Tests of the learner against plain torch on separate parameters, and of what it does with each row and setting."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from plexp.plugins.advantage.gae import GAE
from torch import Tensor, nn

from plexp.nn.normalization import ObservationNormalizer
from plexp.nn.optimizer import FlatAdam, Terms
from plexp.nn.pytree import flatten
from plexp.training import losses
from plexp.training.types import Minibatch
from tests.support.builders import (
    Spy,
    fresh_rollout,
    make_agent,
    make_learner,
    random_rollout,
    score_loss,
    weights,
)

ESTIMATOR = GAE(gamma=0.9, gae_lambda=0.8)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("share_trunk", [False, True])
@pytest.mark.parametrize(("critic_rate", "max_grad_norm"), [(3e-2, 0.05), (None, 1e6), (1e-3, None)])
def test_fitting_is_plain_adam_on_clipped_gradients(
    critic_rate: float | None, max_grad_norm: float | None, share_trunk: bool
) -> None:
    agent, settings = make_agent(share_trunk=share_trunk), {"max_grad_norm": max_grad_norm, "ent_coef": 0.1}
    twin = copy.deepcopy(agent)
    learner = make_learner(agent, ESTIMATOR, critic_learning_rate=critic_rate, **settings)
    rng, critic = np.random.default_rng(0), twin.critic.head if share_trunk else twin.critic
    groups = [{"params": [*twin.trunk.parameters(), *twin.head.parameters()], "lr": 1e-2}]
    groups.append({"params": list(critic.parameters()), "lr": critic_rate or 1e-2})
    optimizer = torch.optim.Adam(groups, eps=1e-5)
    for seed in range(3):
        rollout = fresh_rollout(agent, seed)
        targets = ESTIMATOR(rollout)
        learner.fit(rollout, score_loss(learner), 0.0, epochs=2, num_minibatches=3)
        x, a = rollout.observations.flatten(0, 1), rollout.actions.flatten()
        for _ in range(2):
            for rows in np.array_split(rng.permutation(36), 3):
                log_probs = twin.policy(x[rows]).log_softmax(-1)
                score = log_probs[torch.arange(12), a[rows]] * targets.advantages.flatten()[rows]
                entropy = -(log_probs.exp() * log_probs).sum(-1)
                errors = (twin.critic(x[rows]) - targets.value_targets.flatten()[rows]) ** 2
                optimizer.zero_grad()
                (-score.mean() - 0.1 * entropy.mean() + 0.5 * 0.5 * errors.mean()).backward()
                norm = nn.utils.clip_grad_norm_(twin.parameters(), max_grad_norm or float("inf"))
                assert max_grad_norm != 0.05 or norm > 0.05
                optimizer.step()
        for ours, plain in zip(agent.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, plain, **EXACT)


def test_metrics_are_means_over_the_minibatches() -> None:
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR, learning_rate=1e-15)
    rollout = fresh_rollout(agent, 0)
    targets, parameters = ESTIMATOR(rollout), agent.policy(rollout.observations.flatten(0, 1)).detach()
    log_probs, entropy = agent.distribution.evaluate(parameters, rollout.actions.flatten())
    metrics = learner.fit(rollout, score_loss(learner), 0.0, num_minibatches=4)
    assert metrics["policy_loss"] == pytest.approx(float(-(log_probs * targets.advantages.flatten()).mean()), rel=1e-9)
    assert metrics["entropy"] == pytest.approx(float(entropy.mean()), rel=1e-9)
    assert metrics["value_loss"] == pytest.approx(float(0.5 * (rollout.values - targets.value_targets).square().mean()))
    explained = losses.explained_variance(rollout.values, targets.value_targets)
    assert metrics["explained_variance"] == pytest.approx(float(explained))
    assert metrics["learning_rate"] == 1e-15 and metrics["grad_norm"] > 0


def test_gradient_step_uses_one_norm_over_all_parameters_and_returns_it() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1))
    step = FlatAdam(nn.ParameterList([a, b]), [([a], 0.1), ([b], 0.2)], eps=1e-8, max_grad_norm=1.0)
    leaves, spec = flatten(Minibatch(*[torch.zeros(1)] * 6))
    step.prepare(lambda minibatch: (3 * a.sum() + 4 * b.sum(), {}), spec, 1.0, {})
    assert step(leaves).tolist() == pytest.approx([34**0.5]) and step.names == ["grad_norm"]
    assert a.grad.tolist() == pytest.approx([3 / 34**0.5] * 2, abs=1e-6) and float(b.grad) == pytest.approx(4 / 34**0.5)
    assert a.tolist() == pytest.approx([-0.1] * 2) and b.item() == pytest.approx(-0.2), "Adam's first step is the rate"


@pytest.mark.parametrize("anneals", [True, False])
def test_both_rates_fall_linearly_to_zero_if_they_are_annealed(anneals: bool) -> None:
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR, critic_learning_rate=4e-2, anneal_learning_rate=anneals)
    for progress in (0.0, 0.25, 0.5, 1.0):
        before, metrics = weights(agent), learner.fit(fresh_rollout(agent, 0), score_loss(learner), progress)
        left = 1 - progress if anneals else 1.0
        assert metrics["learning_rate"] == pytest.approx(1e-2 * left)
        assert learner.optimizers[0].learning_rates == pytest.approx([1e-2 * left, 4e-2 * left])
    assert torch.equal(weights(agent), before) is anneals


@pytest.mark.parametrize(("target_kl", "passes"), [(0.06, 1), (0.125, 2), (0.25, 4), (None, 4)])
def test_no_epoch_begins_once_the_mean_divergence_of_one_exceeds_the_target(
    target_kl: float | None, passes: int
) -> None:
    agent, divergences = make_agent(), iter([0.0, 0.2, 0.25, 0.25, 0.25, 0.25, 9.0, 9.0])
    learner = make_learner(agent, ESTIMATOR)

    def loss(minibatch: Minibatch) -> tuple[Tensor, Terms]:
        total, terms = score_loss(learner)(minibatch)
        return total, {**terms, "approx_kl": torch.tensor(next(divergences))}

    learner.fit(fresh_rollout(agent, 0), loss, 0.0, epochs=4, num_minibatches=2, target_kl=target_kl)
    assert len(list(divergences)) == 8 - 2 * passes


@pytest.mark.parametrize("same_step", [True, False])
def test_each_epoch_uses_every_valid_row_once_in_another_order(same_step: bool) -> None:
    agent = make_agent()
    spy, rollout = Spy(make_learner(agent, ESTIMATOR)), fresh_rollout(agent, 2, same_step=same_step)
    assert bool(rollout.valid.all()) is same_step
    spy.learner.fit(rollout, spy, 0.0, epochs=3, num_minibatches=5)
    sizes = [len(minibatch.advantages) for minibatch in spy.minibatches]
    assert len(sizes) == 15 and max(sizes) - min(sizes) <= 1
    targets, expected, orders = ESTIMATOR(rollout), rollout.observations[rollout.valid], []
    for epoch in (spy.minibatches[:5], spy.minibatches[5:10], spy.minibatches[10:]):
        columns = {name: torch.cat([getattr(m, name) for m in epoch]) for name in vars(epoch[0])}
        order = torch.cdist(columns["observations"], expected).argmin(1)
        assert sorted(order.tolist()) == list(range(rollout.num_valid))
        orders.append(order.tolist())
        assert torch.equal(columns["observations"], expected[order])
        for name, table in [("advantages", targets.advantages), ("value_targets", targets.value_targets)]:
            assert torch.equal(columns[name], table[rollout.valid][order])
        for name in ("actions", "log_probs", "values"):
            assert torch.equal(columns[name], getattr(rollout, name)[rollout.valid][order])
        assert (columns["importance_weights"] == 1).all()
    assert orders[0] != orders[1] != orders[2]


def test_observations_enter_the_loss_normalised() -> None:
    agent = make_agent(normalizer=ObservationNormalizer((4,)))
    agent.normalizer.update(torch.randn(50, 4) * 3 + 1)
    spy, rollout = Spy(make_learner(agent, ESTIMATOR)), fresh_rollout(agent, 0)
    spy.learner.fit(rollout, spy, 0.0)
    assert torch.equal(spy.minibatches[0].observations, agent.normalizer(rollout.observations).flatten(0, 1))


@pytest.mark.parametrize("scope", ["off", "minibatch", "rollout", "episode"])
def test_advantages_are_standardised_over_their_scope(scope: str) -> None:
    agent = make_agent()
    spy = Spy(make_learner(agent, ESTIMATOR, standardize_advantages=scope))
    rollout = fresh_rollout(agent, 3, same_step=False)
    spy.learner.fit(rollout, spy, 0.0, num_minibatches=3 if scope == "minibatch" else 1)
    raw, done = ESTIMATOR(rollout).advantages, rollout.terminated | rollout.truncated
    seen = [minibatch.advantages for minibatch in spy.minibatches]
    if scope == "minibatch":
        for part in seen:
            assert (float(part.mean()), float(part.std())) == pytest.approx((0, 1), abs=1e-6)
    else:
        episodes = losses.standardize_episodes(raw, done, rollout.valid)[rollout.valid]
        kept = raw[rollout.valid]
        expected = {"off": kept, "rollout": (kept - kept.mean()) / kept.std(), "episode": episodes}[scope]
        torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=1e-6)


def test_the_advantage_of_a_single_row_is_not_standardised() -> None:
    agent = make_agent()
    spy = Spy(make_learner(agent, ESTIMATOR, standardize_advantages="minibatch"))
    rollout = agent.evaluate_trajectory(random_rollout(0, steps=1, envs=1))
    spy.learner.fit(rollout, spy, 0.0, num_minibatches=4)
    assert [m.advantages.tolist() for m in spy.minibatches] == [ESTIMATOR(rollout).advantages.flatten().tolist()]
