"""Tests of advantage estimators against a table worked by hand, and their definitions as sums over episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plexp.plugins.advantage.baseline import Baseline
from plexp.plugins.advantage.gae import GAE
from plexp.plugins.advantage.n_step import NStep
from plexp.plugins.advantage.q import Q
from plexp.plugins.advantage.q_baseline import QBaseline
from plexp.plugins.advantage.returns import Returns
from plexp.plugins.advantage.td import TD
from plexp.plugins.advantage.vtrace import VTrace
from torch import Tensor

from plexp.training.types import Rollout
from tests.support.builders import make_rollout, random_rollout

EXACT = {"rtol": 1e-12, "atol": 1e-12}
NAN = float("nan")  # a row that is not valid


def estimators(gamma: float, gae_lambda: float = 0.75, n: int = 3) -> dict[str, Any]:
    return {
        "returns": Returns(gamma=gamma),
        "baseline": Baseline(gamma=gamma),
        "q_baseline": QBaseline(gamma=gamma),
        "q": Q(gamma=gamma),
        "td": TD(gamma=gamma),
        "n_step": NStep(gamma=gamma, n=n),
        "gae": GAE(gamma=gamma, gae_lambda=gae_lambda),
        "vtrace": VTrace(gamma=gamma, gae_lambda=gae_lambda, rho_bar=1.5, c_bar=1.0),
    }


NAMES = list(estimators(1.0))

# Environment 0: an episode terminates at t=1 (its V' of 99 is not used), one is truncated at t=3, t=4 is a reset
# row, t=5 is where the rollout ends. Environment 1: one episode that continues.
#             t=0         t=1         t=2         t=3         t=4         t=5
TABLE_R = [[1.0, 8.0], [2.0, 8.0], [3.0, 8.0], [4.0, 8.0], [0.0, 8.0], [5.0, 8.0]]
TABLE_V = [[2.0, 0.0], [4.0, 8.0], [6.0, 16.0], [8.0, 0.0], [10.0, 8.0], [12.0, 16.0]]
TABLE_V_NEXT = [[4.0, 8.0], [99.0, 16.0], [8.0, 0.0], [10.0, 8.0], [12.0, 16.0], [14.0, 32.0]]
TABLE_RATIO = [[2.0, 2.0], [0.5, 0.5], [2.0, 1.0], [0.5, 4.0], [7.0, 0.25], [1.0, 1.0]]
ADVANTAGES = {  # γ = ½, λ = ½ (V-trace: 1, as in its paper), n = 2; Q = 3 everywhere
    "returns": [[2, 15.75], [2, 15.5], [5, 15], [4, 14], [NAN, 12], [5, 8]],
    "baseline": [[0, 16.25], [-2, 8.5], [1.5, 1], [1, 18], [NAN, 12], [0, 8]],
    "q_baseline": [[-1, 13.25], [-1, 13.5], [4.5, 14], [6, 15], [NAN, 17], [9, 21]],
    "q": [[1, 3], [-1, -5], [-3, -13], [-5, 3], [NAN, -5], [-9, -13]],
    "td": [[1, 12], [-2, 8], [1, -8], [1, 12], [NAN, 8], [0, 8]],
    "n_step": [[0, 16], [-2, 4], [1.5, -2], [1, 16], [NAN, 12], [0, 8]],
    "gae": [[0.5, 13.7265625], [-2, 6.90625], [1.25, -4.375], [1, 14.5], [NAN, 10], [0, 8]],
    "vtrace": [[0.5, 14.21875], [-2, 8.875], [1.25, 1.75], [1, 13.5], [NAN, 12], [0, 8]],
}
VALUE_TARGETS = {
    "baseline": [[2, 16.25], [2, 16.5], [7.5, 17], [9, 18], [NAN, 20], [12, 24]],
    "q_baseline": [[2, 16.25], [2, 16.5], [7.5, 17], [9, 18], [NAN, 20], [12, 24]],
    "q": [[3, 12], [2, 16], [7, 8], [9, 12], [NAN, 16], [12, 24]],
    "td": [[3, 12], [2, 16], [7, 8], [9, 12], [NAN, 16], [12, 24]],
    "n_step": [[2, 16], [2, 12], [7.5, 14], [9, 16], [NAN, 20], [12, 24]],
    "gae": [[2.5, 13.7265625], [2, 14.90625], [7.25, 11.625], [9, 14.5], [NAN, 18], [12, 24]],
    "vtrace": [[3, 20.21875], [3, 12.4375], [7.75, 17.75], [8.5, 19.5], [NAN, 11], [12, 24]],
}


def table(gamma: float = 0.5) -> tuple[Rollout, dict[str, Any]]:
    ratios = torch.tensor(TABLE_RATIO, dtype=torch.float64)
    more = {"log_ratios": ratios.log(), "action_values": torch.full_like(ratios, 3.0)}
    ends = {"terminated": [(1, 0)], "truncated": [(3, 0)], "invalid": [(4, 0)]}
    made = estimators(gamma, 0.5, 2)
    made["vtrace"] = VTrace(gamma=gamma, gae_lambda=1.0, rho_bar=1.5, c_bar=1.0)
    return make_rollout(TABLE_R, TABLE_V, TABLE_V_NEXT, **ends, **more), made


def assert_close(rollout: Rollout, actual: Tensor, expected: Any) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)[rollout.valid]
    torch.testing.assert_close(actual[rollout.valid], wanted, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_gives_the_table_worked_by_hand(name: str) -> None:
    rollout, made = table()
    targets = made[name](rollout)
    assert_close(rollout, targets.advantages, ADVANTAGES[name])
    if made[name].critic == "none":
        assert targets.value_targets is None
    else:
        assert_close(rollout, targets.value_targets, VALUE_TARGETS[name])


def test_vtrace_returns_its_truncated_importance_weights() -> None:
    rollout, made = table()
    weights = [[1.5, 1.5], [0.5, 0.5], [1.5, 1.0], [0.5, 1.5], [NAN, 0.25], [1.0, 1.0]]
    assert_close(rollout, made["vtrace"](rollout).importance_weights, weights)
    assert all(made[name](rollout).importance_weights is None for name in NAMES if name != "vtrace")


@pytest.mark.parametrize("name", ["baseline", "td", "n_step", "gae", "vtrace"])
def test_with_gamma_zero_only_the_reward_counts(name: str) -> None:
    rollout, made = table(gamma=0.0)
    assert_close(rollout, made[name](rollout).advantages, rollout.rewards - rollout.values)


def test_with_gamma_one_the_return_is_the_plain_sum() -> None:
    rollout, made = table(gamma=1.0)
    returns = [[3, 48], [2, 40], [7, 32], [4, 24], [NAN, 16], [5, 8]]
    bootstrapped = [[3, 80], [2, 72], [17, 64], [14, 56], [NAN, 48], [19, 40]]
    assert_close(rollout, made["returns"](rollout).advantages, returns)
    assert_close(rollout, made["baseline"](rollout).value_targets, bootstrapped)


@pytest.mark.parametrize("name", ["baseline", "td", "n_step", "gae", "vtrace"])
def test_over_one_step_every_estimator_is_the_td_error(name: str) -> None:
    ends = {"terminated": [(0, 0), (0, 3)], "truncated": [(0, 1), (0, 3)]}
    rollout = make_rollout([[1.0, 1, 1, 1]], [[4.0, 4, 4, 4]], [[8.0, 8, 8, 8]], **ends)
    assert_close(rollout, estimators(0.5)[name](rollout).advantages, [[-3.0, 1.0, 1.0, -3.0]])


# A plain implementation of the definitions, one episode at a time


def episodes(rollout: Rollout) -> Iterator[tuple[int, list[int], float]]:
    """Yield environment, rows, and the value after the last row, of every (piece of an) episode in a rollout."""
    steps, envs = rollout.rewards.shape
    for n in range(envs):
        rows: list[int] = []
        for t in (t for t in range(steps) if rollout.valid[t, n]):
            rows.append(t)
            if rollout.terminated[t, n] or rollout.truncated[t, n] or t == steps - 1:
                yield n, rows, 0.0 if rollout.terminated[t, n] else float(rollout.next_values[t, n])
                rows = []


def n_step_return(r: list[float], v: list[float], rest: float, t: int, n: int, gamma: float) -> float:
    end = min(t + n, len(r))
    tail = v[end] if end < len(r) else rest
    return sum(gamma ** (k - t) * r[k] for k in range(t, end)) + gamma ** (end - t) * tail


def lambda_return(r: list[float], v: list[float], rest: float, t: int, gamma: float, lam: float) -> float:
    """Return (1 − λ) Σ λ^(n−1) G^(n), where the whole return takes all that is left of the weight."""
    left = len(r) - t
    mixed = sum((1 - lam) * lam ** (n - 1) * n_step_return(r, v, rest, t, n, gamma) for n in range(1, left))
    return mixed + lam ** (left - 1) * n_step_return(r, v, rest, t, left, gamma)


def vtrace_target(
    r: list[float], v: list[float], rest: float, w: list[float], t: int, gamma: float, lam: float
) -> float:
    """Return IMPALA's eq. 1: V(s) + Σ_k γ^(k−t) (Π c) ρ_k δ_k."""
    after = [*v[1:], rest]
    total = v[t]
    for k in range(t, len(r)):
        traces = np.prod([lam * min(1.0, w[i]) for i in range(t, k)])
        total += gamma ** (k - t) * traces * min(1.5, w[k]) * (r[k] + gamma * after[k] - v[k])
    return float(total)


def plain_targets(name: str, rollout: Rollout, gamma: float, lam: float, n: int) -> tuple[Tensor, Tensor]:
    advantages, targets = torch.full((2, *rollout.rewards.shape), NAN, dtype=torch.float64)
    for env, rows, rest in episodes(rollout):
        r, v, q = (x[rows, env].tolist() for x in (rollout.rewards, rollout.values, rollout.action_values))
        w = rollout.log_ratios[rows, env].exp().tolist()
        for t, row in enumerate(rows):
            whole, one = (n_step_return(r, v, rest, t, steps, gamma) for steps in (len(r), 1))
            base, target = (
                v[t],
                {"td": one, "q": one, "n_step": n_step_return(r, v, rest, t, n, gamma)}.get(name, whole),
            )
            if name == "returns":
                base, target = 0.0, n_step_return(r, v, 0.0, t, len(r), gamma)
            elif name == "gae":
                target = lambda_return(r, v, rest, t, gamma, lam)
            advantage = target - (q[t] if name == "q_baseline" else base)
            if name == "q":
                advantage = q[t] - v[t]
            elif name == "vtrace":
                target, last = vtrace_target(r, v, rest, w, t, gamma, lam), t + 1 == len(r)
                following = 0.0 if last else vtrace_target(r, v, rest, w, t + 1, gamma, lam) - v[t + 1]
                advantage = one - v[t] + gamma * lam * following
            advantages[row, env], targets[row, env] = advantage, target
    return advantages, targets


@pytest.mark.parametrize("same_step", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_random_rollouts_agree_with_the_sums_over_single_episodes(name: str, same_step: bool) -> None:
    for seed, (gamma, lam, n) in enumerate(
        [(0.875, 0.75, 3), (1.0, 0.5, 2), (0.5, 1.0, 99), (0.75, 0.0, 1), (0.0, 0.5, 4)]
    ):
        rollout = random_rollout(seed, steps=14, same_step=same_step)
        targets = estimators(gamma, lam, n)[name](rollout)
        advantages, value_targets = plain_targets(name, rollout, gamma, lam, n)
        assert_close(rollout, targets.advantages, advantages)
        if targets.value_targets is not None:
            assert_close(rollout, targets.value_targets, value_targets)


@pytest.mark.parametrize("same_step", [True, False])
def test_estimators_coincide_in_known_cases(same_step: bool) -> None:
    rollout = random_rollout(7, steps=16, same_step=same_step)
    on_policy = replace(rollout, log_ratios=torch.zeros_like(rollout.rewards))
    for fast, known, of in [
        (GAE(gamma=0.875, gae_lambda=0.0), TD(gamma=0.875), rollout),
        (GAE(gamma=0.875, gae_lambda=1.0), Baseline(gamma=0.875), rollout),
        (NStep(gamma=0.875, n=1), TD(gamma=0.875), rollout),
        (NStep(gamma=0.875, n=16), Baseline(gamma=0.875), rollout),
        (NStep(gamma=0.875, n=500), Baseline(gamma=0.875), rollout),
        (VTrace(gamma=0.875, gae_lambda=0.75, rho_bar=1.0, c_bar=1.0), GAE(gamma=0.875, gae_lambda=0.75), on_policy),
    ]:
        assert_close(of, fast(of).advantages, known(of).advantages)
        assert_close(of, fast(of).value_targets, known(of).value_targets)


@pytest.mark.parametrize("same_step", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_leaks_between_episodes_or_environments(name: str, same_step: bool) -> None:
    rollout, estimator = random_rollout(3, same_step=same_step), estimators(0.875)[name]
    before = estimator(rollout).advantages
    for env, rows, _ in episodes(rollout):
        rewards, values = rollout.rewards.clone(), rollout.values.clone()
        rewards[rows, env] += 100
        values[rows, env] -= 100
        after = estimator(replace(rollout, rewards=rewards, values=values)).advantages
        others = rollout.valid.clone()
        others[rows, env] = False
        assert torch.equal(after[others], before[others])
        assert not torch.equal(after[rows, env], before[rows, env])


def test_q_baseline_has_expectation_zero_under_an_exact_q() -> None:
    """Action a pays a, then a coin pays ±1 and the episode ends, so Q(s₀, a) = a and Q(s₁, ·) = 0."""
    rng, envs = np.random.default_rng(0), 200_000
    actions, coins = rng.integers(0, 2, envs), rng.choice([-1.0, 1.0], envs)
    exact = torch.tensor(np.stack([actions, np.zeros(envs)]), dtype=torch.float64)
    ends = torch.tensor([[False], [True]]).expand(2, envs)
    rollout = make_rollout(np.stack([actions, coins]), action_values=exact, terminated=())
    advantages = QBaseline(gamma=0.5)(replace(rollout, terminated=ends)).advantages[0]
    for action in (0, 1):
        of_action = advantages[torch.from_numpy(actions == action)]
        assert of_action.std() > 0.4, "only noise is left"
        assert abs(of_action.mean()) < 4 * of_action.std() / len(of_action) ** 0.5
