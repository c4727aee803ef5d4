"""Tests of the gradient step as one function, against the plain step, and compiled, against both."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plexp.plugins.advantage.gae import GAE
from plexp.plugins.algo.ppo import PPO
from torch import Tensor

from plexp.errors import ConfigError, TrainingError
from plexp.execution.device import is_compiled
from plexp.nn import compile as compilation
from plexp.training.types import Minibatch
from tests.support.builders import fresh_rollout, make_agent, make_learner, weights

EXACT = {"rtol": 1e-9, "atol": 1e-9}
ESTIMATOR = GAE(gamma=0.9, gae_lambda=0.8)
SETTINGS: dict[str, Any] = {
    "num_steps": 12,
    "update_epochs": 3,
    "num_minibatches": 4,
    "clip_eps": 0.1,
    "anneal_clip": True,
    "target_kl": None,
}


class Plain:
    """Stand-in for a compiled function, which calls the function itself."""

    def __init__(self, function: Any, *_: Any, **__: Any) -> None:
        self.function, self.enabled = function, True

    def __call__(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)

    def check_reads(self) -> None: ...


@pytest.mark.parametrize("max_grad_norm", [None, 0.05, 1e6])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"critic_learning_rate": 3e-2, "anneal_learning_rate": True},
        {"critic_epochs": 2, "ent_coef": 0.01, "standardize_advantages": "minibatch"},
        {"clip_value": 0.1, "standardize_advantages": "rollout"},
    ],
)
def test_the_step_as_a_function_equals_the_plain_step(
    changes: dict[str, Any], max_grad_norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare weights, metrics and the state of Adam over three updates."""
    monkeypatch.setattr("plexp.nn.optimizer.Compiled", Plain)
    agents, learners, metrics = [make_agent(), make_agent()], [], []
    for agent, compiled in zip(agents, (False, True), strict=True):
        learner = make_learner(agent, ESTIMATOR, compiled=compiled, max_grad_norm=max_grad_norm, **changes)
        algorithm = PPO(agent, learner, **SETTINGS)
        metrics.append([algorithm.update(fresh_rollout(agent, seed), seed / 4) for seed in range(3)])
        learners.append(learner)
    for a, b in zip(*metrics, strict=True):
        assert a == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in b.items()}
    torch.testing.assert_close(weights(agents[0]), weights(agents[1]), **EXACT)
    for a, b in zip(learners[0].optimizers, learners[1].optimizers, strict=True):
        assert b.compiled is not None and a.count == b.count >= 6
        torch.testing.assert_close([a.means, a.squares], [b.means, b.squares], **EXACT)


@pytest.mark.parametrize("kind", ["a trunk of both", "tied weights"])
def test_shared_weights_learn_and_stay_shared(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cover one module under two names, and two modules with one parameter."""
    monkeypatch.setattr("plexp.nn.optimizer.Compiled", Plain)
    results = []
    for compiled in (False, True):
        agent = make_agent(share_trunk=kind == "a trunk of both", layers=2, width=4)
        if kind == "tied weights":
            layers = [layer for layer in agent.trunk.modules() if isinstance(layer, torch.nn.Linear)]
            layers[1].weight = layers[0].weight
        before, values = dict(agent.named_parameters()), weights(agent)
        algorithm = PPO(agent, make_learner(agent, ESTIMATOR, compiled=compiled), **SETTINGS)
        for seed in range(3):
            algorithm.update(fresh_rollout(agent, seed), seed / 4)
        assert all(parameter is before[name] for name, parameter in agent.named_parameters())
        assert kind != "tied weights" or layers[1].weight is layers[0].weight
        assert not torch.equal(weights(agent), values)
        results.append(weights(agent))
    torch.testing.assert_close(*results, **EXACT)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", ["value_loss", "policy_loss"])
def test_the_error_names_the_term_that_is_not_finite(bad: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plexp.nn.optimizer.Compiled", Plain)
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR, compiled=compiled)

    def loss(minibatch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        score = agent.evaluate(minibatch).log_probs.mean()
        terms = {"policy_loss": score.detach(), "value_loss": score.detach().square()}
        terms[bad] = terms[bad] * math.nan
        return score + terms[bad], terms

    before = weights(agent)
    with pytest.raises(
        TrainingError, match=rf"^the loss's {bad} is not finite \([^)]*{bad} nan[^)]*\); a smaller algo"
    ):
        learner.fit(fresh_rollout(agent, 0), loss, 0.0)
    assert torch.equal(weights(agent), before)


def test_the_step_as_a_function_changes_nothing_if_the_loss_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plexp.nn.optimizer.Compiled", Plain)
    agent = make_agent()
    learner = make_learner(agent, ESTIMATOR, compiled=True)

    def loss(minibatch: Minibatch, bad: float) -> tuple[Tensor, dict[str, Tensor]]:
        score = agent.evaluate(minibatch).log_probs.mean()
        return score * bad, {"policy_loss": score.detach()}

    before = weights(agent)
    with pytest.raises(TrainingError, match=r"not finite \(policy_loss -[\d.]+, grad_norm nan\)"):
        learner.fit(fresh_rollout(agent, 0), loss, 0.0, arguments={"bad": float("nan")})
    assert torch.equal(weights(agent), before) and not learner.optimizers[0].count
    learner.fit(fresh_rollout(agent, 0), loss, 0.0, arguments={"bad": 1.0})
    assert not torch.equal(weights(agent), before)


@pytest.mark.parametrize(
    ("algo", "env"),
    [
        *(("ppo", "pendulum"), ("a2c", "cartpole"), ("reinforce", "cartpole"), ("actor_critic", "pendulum")),
        *(pytest.param(algo, "pendulum", marks=pytest.mark.slow) for algo in ("a2c", "reinforce")),
        *(pytest.param(algo, "cartpole", marks=pytest.mark.slow) for algo in ("ppo", "actor_critic")),
        *(("sac", "cartpole"), ("qr_dqn", "cartpole"), ("td3", "pendulum")),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("sac", "pendulum"), ("dqn", "cartpole"))),
    ],
)
def test_every_algorithm_can_be_traced(
    algo: str, env: str, build: Any, small: Any, compose: Any, train: Any, monkeypatch: Any
) -> None:
    """Trace the loss, acting and evaluating to graphs that give the same: one for a single row, one for any number."""
    monkeypatch.setattr(compilation, "_library", lambda graph, *_: graph)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: None)
    seen: list[str] = []

    class Traced(compilation.Compiled):
        def _compile(self, inputs: Any) -> Callable[..., Any]:
            with torch.inference_mode(False), torch.no_grad():
                graph, lifted = compilation._trace(self.function, inputs, self.fixed)
            self._compare(lambda arguments: graph(*arguments, *lifted), inputs)
            seen.append(self.name)
            return lambda arguments: self.function(*arguments)

    for module in ("plexp.nn.optimizer", "plexp.training.policy", "plexp.training.agent"):
        monkeypatch.setattr(f"{module}.Compiled", Traced)
    monkeypatch.setattr(compilation, "_reason", lambda error: pytest.fail(f"{type(error).__name__}: {error}"))
    config = small(compose(f"algo={algo}", f"env={env}", "compile=true"))
    learns_from_replay = config.get("replay") is not None
    if learns_from_replay:
        config.algo.learning_starts, config.algo.batch_size = 8, 8
    experiment = build(config)
    train(experiment, 2)
    assert {"acting", *(() if learns_from_replay else ("evaluating",))} <= set(seen)
    assert seen.count("the gradient step") >= len(experiment.trainer.algorithm.learner.optimizers)


@pytest.mark.compiler
def test_a_compiled_run_is_reproducible_and_equals_the_plain_run_up_to_rounding(
    build: Any, small: Any, compose: Any, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLEXP_CACHE", str(tmp_path))
    runs = []
    for choice in ("false", "true", "true"):
        experiment = build(
            small(compose("algo=ppo", "env=lunarlander_continuous", f"compile={choice}", "algo.anneal_clip=true"))
        )
        metrics = train(experiment, 3)
        runs.append((weights(experiment.agent), metrics[-1]))
        assert (experiment.trainer.profile.compiling > 0) == (choice == "true")
        assert choice == "false" or experiment.agent._sample.enabled
    (plain, plain_metrics), (first, _), (second, _) = runs
    assert len(list(tmp_path.glob("*.pt2"))) == 3
    torch.testing.assert_close(first, plain, rtol=1e-3, atol=1e-4)
    assert not torch.equal(first, plain) and torch.equal(first, second)
    assert runs[1][1] == pytest.approx(plain_metrics, rel=0.02, abs=1e-3) and runs[1][1] == runs[2][1]


def test_auto_decides_by_the_number_of_gradient_steps_only(build: Any, compose: Any) -> None:
    expected = {
        ("env=lunarlander", "net.layers=3"): True,
        ("env=cartpole",): False,
        ("env=cartpole", "total_timesteps=1_000_000"): True,
        ("env=lunarlander", "total_timesteps=20_000"): False,
        ("env=cartpole", "algo=reinforce", "total_timesteps=10_000_000"): False,
        ("env=cartpole", "algo=actor_critic"): True,
        ("env=lunarlander", "compile=false"): False,
    }
    for overrides, compiled in expected.items():
        experiment = build(*overrides)
        assert experiment.trainer.algorithm.learner.optimizers[0].is_compiled is compiled, overrides


def test_auto_needs_no_more_of_a_plugin_than_the_protocols() -> None:
    """The schedule may be an attribute of instances only, and the config of the environment may have no num_envs."""

    def config(**algo: int) -> Any:
        classes = {"algo": type("Mine", (), {})}
        budget = {"total_timesteps": 10**9, "replay": None}
        return SimpleNamespace(compile="auto", device="cpu", algo=algo, classes=classes, **budget)

    environment: Any = SimpleNamespace(num_envs=2)
    assert not is_compiled(config(), ESTIMATOR, environment)
    assert is_compiled(config(num_steps=8), ESTIMATOR, environment)


def test_compiling_for_another_device_is_refused(build: Any, compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plexp.execution.experiment.device_of", torch.device)
    with pytest.raises(
        ConfigError, match=r"^compile=True: code is compiled for the CPU only; give device=cpu or compile=auto$"
    ):
        build("device=meta", "compile=true")
