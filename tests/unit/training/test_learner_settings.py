"""Tests of the learner's settings: epochs, targets and clips of the critic, replay, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from plexp.plugins.advantage.gae import GAE
from plexp.plugins.advantage.q import Q
from plexp.plugins.advantage.vtrace import VTrace
from torch import Tensor, nn

from plexp.errors import TrainingError
from plexp.nn.optimizer import Terms
from plexp.training.types import Minibatch
from tests.support.builders import (
    Spy,
    actor_of,
    fresh_rollout,
    make_agent,
    make_learner,
    random_rollout,
    score_loss,
    weights,
)

ESTIMATOR = GAE(gamma=0.9, gae_lambda=0.8)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def test_a_critic_with_epochs_of_its_own_is_trained_separately() -> None:
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR, critic_epochs=4, critic_learning_rate=3e-2)
    policy = Spy(learner)
    critic = learner.critic_loss = Spy(learner, learner.critic_loss)  # type: ignore[method-assign]
    metrics = learner.fit(fresh_rollout(agent, 0), policy, 0.0, epochs=2, num_minibatches=3)
    assert (len(policy.minibatches), len(critic.minibatches)) == (2 * 3, 4 * 3)
    assert all(torch.equal(now, policy.critics[0]) for now in policy.critics), (
        "the policy's passes leave the critic alone"
    )
    assert all(torch.equal(now, actor_of(agent)) for now in critic.actors), "and the critic's passes the actor"
    assert not torch.equal(policy.actors[0], policy.actors[-1]) and not torch.equal(
        critic.critics[0], critic.critics[-1]
    )
    assert all(minibatch.value_targets is None for minibatch in policy.minibatches)
    assert metrics["value_loss"] > 0 and metrics["learning_rate"] == 1e-2


def test_a_critic_with_epochs_of_its_own_takes_plain_adam_steps() -> None:
    agent = make_agent()
    twin = copy.deepcopy(agent.critic)
    learner, rollout = make_learner(agent, ESTIMATOR, critic_epochs=5, max_grad_norm=0.1), fresh_rollout(agent, 0)
    learner.fit(rollout, score_loss(learner), 0.0)
    optimizer, targets = torch.optim.Adam(twin.parameters(), 1e-2, eps=1e-5), ESTIMATOR(rollout).value_targets
    for _ in range(5):
        optimizer.zero_grad()
        (0.5 * (twin(rollout.observations.flatten(0, 1)) - targets.flatten()).square().mean()).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        optimizer.step()
    torch.testing.assert_close(weights(agent.critic), weights(twin), **EXACT)


def test_clip_value_keeps_the_critic_near_the_predictions_of_the_rollout() -> None:
    agent = make_agent()
    spy, rollout = Spy(make_learner(agent, ESTIMATOR, clip_value=0.05)), fresh_rollout(agent, 0)
    metrics = spy.learner.fit(rollout, spy, 0.0, epochs=3)
    (minibatch, *_), total = spy.minibatches, 0.0
    for now in spy.critics:
        with torch.no_grad():
            twin = copy.deepcopy(agent.critic)
            nn.utils.vector_to_parameters(now, twin.parameters())
            predictions = twin(minibatch.observations).tolist()
        for v, old, target in zip(
            predictions, rollout.values.flatten().tolist(), minibatch.value_targets.tolist(), strict=True
        ):
            near = min(max(v, old - 0.05), old + 0.05)
            total += max(0.5 * (v - target) ** 2, 0.5 * (near - target) ** 2)
    assert metrics["value_loss"] == pytest.approx(total / 36 / 3, rel=1e-9)


def test_with_a_q_critic_predictions_and_old_values_are_those_of_the_action_taken() -> None:
    agent = make_agent("q")
    spy, rollout = Spy(make_learner(agent, Q(gamma=0.9))), fresh_rollout(agent, 0)
    spy.learner.fit(rollout, spy, 0.0)
    assert torch.equal(spy.minibatches[0].values, rollout.action_values.flatten())
    torch.testing.assert_close(
        agent.evaluate_trajectory(rollout).action_values.flatten(), agent.predict(spy.minibatches[0]).detach()
    )


@pytest.mark.parametrize(("every", "tau"), [(1, 1.0), (3, 1.0), (1, 0.1), (2, 0.25)])
def test_the_target_critic_follows_the_critic_on_its_schedule(every: int, tau: float) -> None:
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR, target_update_every=every, target_tau=tau)
    expected = weights(agent.critic)
    assert torch.equal(weights(agent.target_critic), expected)
    for update in range(1, 7):
        learner.fit(fresh_rollout(agent, update), score_loss(learner), 0.0)
        if update % every == 0:
            expected = (1 - tau) * expected + tau * weights(agent.critic)
        torch.testing.assert_close(weights(agent.target_critic), expected, **EXACT)
    assert tau == 1.0 or not torch.allclose(expected, weights(agent.critic))


def test_replayed_rollouts_are_evaluated_by_the_current_agent() -> None:
    agent, estimator = make_agent(), VTrace(gamma=0.9, gae_lambda=1.0, rho_bar=1.0, c_bar=1.0)
    spy, rollouts = Spy(make_learner(agent, estimator, learning_rate=0.1, replay_rollouts=2)), []
    for seed in range(4):
        rollouts.append(fresh_rollout(agent, seed, same_step=False))
        today = copy.deepcopy(agent)
        spy.learner.fit(rollouts[-1], spy, 0.0)
    used = [rollouts[3], rollouts[1], rollouts[2]]
    batch = spy.minibatches[-1]
    assert torch.equal(batch.observations, torch.cat([r.observations[r.valid] for r in used]))
    assert torch.equal(batch.log_probs, torch.cat([r.log_probs[r.valid] for r in used])), "of the policy that acted"
    expected = []
    for rollout in used:
        log_probs = today.policy(rollout.observations).detach().log_softmax(-1)
        ratios = log_probs.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1) - rollout.log_probs
        values = today.critic(torch.cat([rollout.observations, rollout.last_observations[None]])).detach()
        now = replace(rollout, log_ratios=ratios, values=values[:-1], next_values=values[1:])
        expected.append((estimator(now), rollout.valid))
    for name in ("advantages", "value_targets", "importance_weights"):
        wanted = torch.cat([getattr(targets, name)[valid] for targets, valid in expected])
        torch.testing.assert_close(getattr(batch, name), wanted, **EXACT)
    first = rollouts[3].num_valid
    assert (batch.importance_weights[:first] == 1).all() and batch.importance_weights[first:].min() < 0.99


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_any_parameter_changes(where: str, bad: float) -> None:
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR)

    def loss(minibatch: Minibatch) -> tuple[Tensor, Terms]:
        score = agent.evaluate(minibatch).log_probs.mean()
        return score * bad if where == "gradient" else score + bad, {"policy_loss": score.detach() * bad}

    before = weights(agent)
    with pytest.raises(TrainingError, match=r"not finite.*learning_rate"):
        learner.fit(fresh_rollout(agent, 0), loss, 0.0)
    assert torch.equal(weights(agent), before)
    learner.fit(fresh_rollout(agent, 0), score_loss(learner), 0.0)
    assert weights(agent).isfinite().all()


def test_a_rollout_without_a_valid_row_teaches_nothing() -> None:
    """One step of one NEXT_STEP environment is such a rollout when it only resets."""
    agent = make_agent()
    learner, rollout = make_learner(agent, ESTIMATOR), random_rollout(0, steps=1, envs=1)
    before = weights(agent)
    learner.fit(replace(rollout, valid=torch.zeros(1, 1, dtype=torch.bool)), score_loss(learner), 0.0)
    assert torch.equal(weights(agent), before)
