"""Tests of what algorithms with a replay buffer share: action spaces, observations, and the step as a function."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plexp.config import registry
from plexp.errors import ConfigError, TrainingError
from plexp.training.progress import TrainingProgress
from tests.support.off_policy import Make, experiments
from tests.unit.nn.test_optimizer import Plain

ANY = (
    "env=gymnasium",
    "env.id=tests.support.environments:plexp-tests/Any2Any-v0",
    "env.num_envs=2",
    "total_timesteps=96",
)
DISCRETE = ("discrete", "discrete of 32 bits")
CONTINUOUS = ("box", "doubles", "halves", "far", "narrow", "partly fixed", "matrix")
OTHERS = ("multidiscrete", "multibinary", "few integers", "unbounded")
ALGORITHMS = {
    "dqn": DISCRETE,
    "qr_dqn": DISCRETE,
    "td3": CONTINUOUS,
    "ddpg": CONTINUOUS,
    "sac": (*DISCRETE, *CONTINUOUS),
}


@pytest.fixture
def make() -> Iterator[Make]:
    with experiments() as function:
        yield function


def spaces(sees: str, acts: str) -> tuple[str, ...]:
    return (*ANY, f"+env.kwargs.sees={sees}", f"+env.kwargs.acts='{acts}'")


@pytest.mark.parametrize(
    ("algo", "acts"), [(algo, acts) for algo, all_spaces in ALGORITHMS.items() for acts in all_spaces]
)
def test_every_algorithm_learns_in_the_action_spaces_that_it_is_for(algo: str, acts: str, make: Make) -> None:
    experiment = make(f"algo={algo}", *spaces("box", acts))
    progress = experiment.trainer.run([], TrainingProgress())
    assert progress.steps == 96 and experiment.trainer.algorithm.learner.count == 72
    assert all(torch.isfinite(p).all() for p in experiment.agent.parameters())


@pytest.mark.parametrize(
    ("algo", "acts"),
    [(algo, acts) for algo, able in ALGORITHMS.items() for acts in ("discrete", "box", *OTHERS) if acts not in able],
)
def test_other_action_spaces_are_refused_with_what_to_use_instead(algo: str, acts: str, make: Make) -> None:
    with pytest.raises(ConfigError) as error:
        make(f"algo={algo}", *spaces("box", acts))
    (line,) = str(error.value).splitlines()
    instead = {"discrete": "dqn or sac", "box": "sac or td3"}.get(acts, "ppo")
    assert line.startswith("algo=") and line.endswith(f"give algo={instead}")


@pytest.mark.parametrize("algo", ["dqn", "qr_dqn", "sac"])
def test_images_are_kept_as_bytes_and_learnt_from(algo: str, make: Make) -> None:
    experiment = make(f"algo={algo}", *spaces("image", "discrete"), "net=cnn", "net.width=16")
    experiment.trainer.run([], TrainingProgress())
    assert experiment.memory is not None and experiment.memory.buffer.observations.dtype == "uint8"
    assert experiment.trainer.algorithm.learner.count == 72


@pytest.mark.parametrize(
    "overrides",
    [
        ("algo=dqn", "env=cartpole", "replay=prioritized", "algo.anneal_learning_rate=true"),
        ("algo=qr_dqn", "env=cartpole", "algo.dueling=true", "algo.max_grad_norm=0.01"),
        ("algo=td3", "env=pendulum", "algo.noise=ornstein_uhlenbeck", "replay=prioritized"),
        ("algo=sac", "env=pendulum", "algo.max_grad_norm=0.1", "env.normalize_observations=true"),
        ("algo=sac", "env=cartpole", "algo.n_steps=3"),
    ],
    ids=" ".join,
)
def test_the_step_as_a_function_equals_the_plain_step(
    overrides: tuple[str, ...], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare all networks, targets and metrics after several updates."""
    monkeypatch.setattr("plexp.nn.optimizer.Compiled", Plain)
    monkeypatch.setattr("plexp.training.policy.Compiled", Plain)
    states, metrics = [], []
    for compiled in ("false", "true"):
        experiment = make(*overrides, "env.num_envs=2", f"compile={compiled}")
        progress = TrainingProgress()
        while experiment.trainer.algorithm.learner.count < 30:
            metrics.append(experiment.trainer.iterate(progress))
        states.append(experiment.trainer.algorithm.learner.state_dict())
    half = len(metrics) // 2
    for plain, function in zip(metrics[:half], metrics[half:], strict=True):
        assert plain == {name: pytest.approx(value, rel=1e-3, abs=1e-5) for name, value in function.items()}
    for name in ("vectors", "optimizers"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.compiler
@pytest.mark.parametrize(
    "overrides",
    [("algo=dqn", "env=cartpole"), ("algo=sac", "env=pendulum"), ("algo=td3", "env=pendulum")],
    ids=" ".join,
)
def test_compiled_code_computes_what_the_plain_step_does(
    overrides: tuple[str, ...], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLEXP_CACHE", str(tmp_path))
    states = []
    for compiled in ("false", "true"):
        experiment = make(*overrides, "env.num_envs=2", f"compile={compiled}")
        learner = experiment.trainer.algorithm.learner
        while learner.count < 20:
            experiment.trainer.iterate(TrainingProgress())
        states.append(learner.state_dict()["vectors"])
        steps = [each.adam.compiled for each in learner.optimizers]
        assert [step is not None and step.enabled for step in steps] == [compiled == "true"] * len(steps)
    assert len(list(tmp_path.glob("*.pt2"))) == len(steps) + 1  # each optimizer's step, and acting
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-4)


def test_a_critic_net_is_the_critics_alone_and_dqn_refuses_it(make: Make) -> None:
    experiment = make("algo=sac", "env=pendulum", "net@critic_net=mlp", "critic_net.width=24")
    assert [p.shape[0] for p in experiment.trainer.algorithm.critics.parameters()][:2] == [24, 24]
    assert next(experiment.agent.trunk.parameters()).shape[0] == 8
    with pytest.raises(ConfigError, match="critic_net=mlp: algo=dqn has no critic beside its policy"):
        make("algo=dqn", "env=cartpole", "net@critic_net=mlp")


def test_a_trunk_cannot_be_shared_with_critics(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"net\.share_trunk=True: the critics of algo=td3 have networks of their own"):
        make("algo=td3", "env=pendulum", "net.share_trunk=true")


@pytest.mark.parametrize("fault", ["nan reward", "inf reward", "nan observation"])
def test_a_number_that_is_not_finite_never_reaches_the_buffer(fault: str, make: Make) -> None:
    faulty = ("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Faulty-v0", "env.num_envs=2")
    experiment = make("algo=dqn", *faulty, f"+env.kwargs.fault='{fault}'", "+env.kwargs.at=7")
    with pytest.raises(TrainingError) as error:
        experiment.trainer.run([], TrainingProgress())
    assert len(str(error.value).splitlines()) == 1
    assert (
        experiment.memory is not None
        and np.isfinite(experiment.memory.buffer.rewards[: experiment.memory.buffer.added * 2]).all()
    )


def test_an_off_policy_algorithm_without_a_policy_is_reported_in_one_line(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = registry.find("algo", "dqn")
    original = cls.__init__

    @functools.wraps(original)
    def without_policy(self: Any, *positional: Any, **named: Any) -> None:
        original(self, *positional, **named)
        del self.policy

    monkeypatch.setattr(cls, "__init__", without_policy)
    with pytest.raises(ConfigError) as error:
        make("algo=dqn", "env=cartpole")
    assert str(error.value) == (
        "algo=dqn: DQN takes networks, and has no policy that acts; "
        "set self.policy in its __init__, as to networks.q_policy(…)"
    )
