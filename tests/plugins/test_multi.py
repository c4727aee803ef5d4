"""Tests of net=multi: an encoder for each part of an observation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from plexp.envs.seeding import EpisodeSeeds
from plexp.errors import ConfigError
from plexp.training.evaluation import StepLimit, evaluate

Build = Callable[..., Any]
ANY = ("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Any2Any-v0", "compile=false", "env.num_envs=2")
BOTH = ("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Both-v0", "compile=false")
PICTURES = (*ANY, "net=multi", "+env.kwargs.sees=pictures", "+env.kwargs.acts=discrete", "net.image_width=16")


def test_each_part_has_the_encoder_of_its_kind(build: Build) -> None:
    agent = build(*PICTURES, "net.part_width=5").agent
    encoders = dict(zip(agent.trunk.names, agent.trunk.encoders, strict=True))
    assert encoders.keys() == {"camera", "speed", "mode", "inner/0", "inner/1"}
    assert sum(isinstance(layer, nn.Conv2d) for layer in encoders["camera"].modules()) == 3
    assert [p.shape for p in encoders["mode"].parameters()] == [(5, 3)]
    assert [p.shape for p in encoders["speed"].parameters()] == [(5, 3), (5,)]
    assert [p.shape for p in encoders["inner/1"].parameters()] == [(5, 4), (5,)]


def test_a_choice_gets_the_column_of_a_table(build: Build) -> None:
    agent = build(*PICTURES, "net.part_width=5").agent
    table = dict(zip(agent.trunk.names, agent.trunk.encoders, strict=True))["mode"]
    assert torch.equal(table(torch.eye(3)), table.weight.T)


def test_the_encoder_of_a_part_can_be_chosen(build: Build) -> None:
    chosen = ("net.encoders.camera=mlp", "net.encoders.speed=flat", "net.encoders.mode=flat", "net.part_width=5")
    agent = build(*PICTURES, *chosen, "net.width=7").agent
    encoders = dict(zip(agent.trunk.names, agent.trunk.encoders, strict=True))
    assert [p.shape for p in encoders["camera"].parameters()] == [(5, 36 * 40 * 3), (5,)]
    assert not [*encoders["speed"].parameters(), *encoders["mode"].parameters()]
    assert next(agent.trunk.trunk.parameters()).shape == (7, 5 + 3 + 3 + 5 + 5)


def test_what_is_seen_of_a_row_is_each_part_alone(build: Build) -> None:
    """Change one part at a time, and see which features change."""
    agent = build(*PICTURES, "env.normalize_observations=false").agent
    experiment_rows = torch.from_numpy(agent_rows(build))
    read = agent.read(experiment_rows)
    for name in agent.trunk.names:
        other = {**read, name: read[name].roll(1, 0)}
        parts = [encoder(read[n]) for n, encoder in zip(agent.trunk.names, agent.trunk.encoders, strict=True)]
        changed = [encoder(other[n]) for n, encoder in zip(agent.trunk.names, agent.trunk.encoders, strict=True)]
        differs = [not torch.equal(a, b) for a, b in zip(parts, changed, strict=True)]
        assert differs == [n == name for n in agent.trunk.names]


def agent_rows(build: Build) -> np.ndarray:
    with build(*PICTURES) as experiment:
        rows: np.ndarray = experiment.trainer.collector.collect().observations[:, 0].numpy()
        return rows


WRONG = {
    "net.encoders.radar=mlp": "net.encoders.radar: the observations have no such part; give one of camera, speed, mode",
    "net.encoders.mode=cnn": "net.encoders.mode=cnn: this is no encoder for choices of the shape [3]; give mlp, cnn (images)",
    "net.encoders.camera=flat": "net.encoders.camera=flat: this is no encoder for image of the shape [36, 40, 3]",
    "net.encoders.speed=rnn": "net.encoders.speed=rnn: this is no encoder for numbers of the shape [3]",
}


@pytest.mark.parametrize("override", WRONG)
def test_an_encoder_that_does_not_fit_is_refused_in_one_line(override: str, build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build(*PICTURES, override)
    assert str(raised.value).startswith(WRONG[override])


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_observations_without_parts_are_refused_in_one_line(algo: str, build: Build) -> None:
    with pytest.raises(ConfigError, match=r"it takes the parts of a Dict or Tuple observation, .* choose net=mlp"):
        build("net=multi", f"algo={algo}", "env=cartpole")


@pytest.mark.parametrize(("net", "other"), [("multi", "mlp"), ("mlp", "multi")])
@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_actor_and_critic_both_take_parts_or_neither(
    net: str, other: str, algo: str, compose: Any, build: Build
) -> None:
    chosen = [each for each in PICTURES if "net" not in each]
    with pytest.raises(ConfigError, match=r"critic_net=.*: one of actor and critic takes the parts of an observation"):
        build(*chosen, f"algo={algo}", f"net={net}", f"net@critic_net={other}")


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_critics_of_continuous_actions_are_refused_in_one_line(algo: str, build: Build) -> None:
    with pytest.raises(
        ConfigError, match=rf"algo={algo}: its critics take the action beside the observation, which has"
    ):
        build(*ANY, f"algo={algo}", "net=multi", "+env.kwargs.sees=dict", "+env.kwargs.acts=box")


@pytest.mark.parametrize(
    "overrides",
    [
        ("algo=ppo", "algo.num_steps=16", "algo.num_minibatches=2"),
        ("algo=ppo", "advantage=q", "algo.num_steps=16", "algo.num_minibatches=2"),
        ("algo=a2c", "net.share_trunk=true"),
        ("algo=reinforce",),
        ("algo=dqn", "algo.learning_starts=16", "algo.batch_size=4", "algo.train_every=8"),
        ("algo=qr_dqn", "replay=prioritized", "algo.learning_starts=16", "algo.batch_size=4", "algo.train_every=8"),
        ("algo=sac", "algo.learning_starts=16", "algo.batch_size=4", "algo.train_every=8"),
    ],
    ids=" ".join,
)
def test_every_algorithm_for_discrete_actions_learns_from_parts(overrides: tuple[str, ...], build: Build) -> None:
    with build(*PICTURES, *overrides, "total_timesteps=64") as experiment:
        before = [p.clone() for p in experiment.agent.parameters()]
        experiment.trainer.run([])
        assert any(not torch.equal(a, b) for a, b in zip(before, experiment.agent.parameters(), strict=True))


@pytest.mark.slow
def test_a_task_that_needs_image_and_number_is_solved_by_parts(build: Build) -> None:
    """Pay for a xor b, of which an image shows one and a number tells the other: by either alone 0.5 is paid."""
    learning = ("algo.num_steps=32", "algo.learning_rate=1e-3", "algo.num_minibatches=4", "gamma=0.9")
    with build(
        *BOTH, "net=multi", "net.image_width=32", *learning, "total_timesteps=8192", "env.num_envs=8"
    ) as experiment:
        experiment.trainer.run([])
        seeds = EpisodeSeeds(0, (9,))
        paid = evaluate(experiment.agent, experiment.environment, seeds, 200, limit=StepLimit(None)).returns.mean()
    assert paid > 0.95
