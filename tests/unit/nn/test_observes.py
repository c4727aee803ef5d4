"""Tests of actor and critic that see different parts of the observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from plexp.errors import ConfigError

Build = Callable[..., Any]
ANY = (
    *("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Any2Any-v0", "+env.kwargs.sees=pictures"),
    *("+env.kwargs.acts=discrete", "compile=false", "env.num_envs=2", "net.width=8"),
)
ACTOR, CRITIC = ("speed", "inner/1"), ("mode", "speed")
CHOSEN = (f"policy.observes=[{','.join(ACTOR)}]", f"policy.critic_observes=[{','.join(CRITIC)}]")


@pytest.mark.parametrize("net", ["mlp", "multi"])
def test_each_sees_its_parts_and_no_others(net: str, build: Build) -> None:
    """Change one part at a time, and see what changes."""
    with build(*ANY, f"net={net}", *CHOSEN, "env.normalize_observations=false") as experiment:
        agent, layout = experiment.agent, experiment.agent.reader.layout
        rows = experiment.trainer.collector.collect().observations[:, 0]
        with torch.no_grad():
            policy, values = agent.policy(agent.read(rows)), agent.critic(agent.read(rows))
            for name, part in layout.parts.items():
                other = rows.clone()
                other[:, part.start : part.stop] = rows.roll(1, 0)[:, part.start : part.stop]
                assert torch.equal(agent.policy(agent.read(other)), policy) is (name not in ACTOR), name
                assert torch.equal(agent.critic(agent.read(other)), values) is (name not in CRITIC), name


@pytest.mark.parametrize(
    "algo", [("algo=ppo", "algo.num_steps=16", "algo.num_minibatches=2"), ("algo=a2c",)], ids=" ".join
)
@pytest.mark.parametrize("net", ["mlp", "multi"])
def test_both_learn(algo: tuple[str, ...], net: str, build: Build) -> None:
    with build(*ANY, *algo, f"net={net}", *CHOSEN, "total_timesteps=96") as experiment:
        before = {name: p.clone() for name, p in experiment.agent.named_parameters()}
        experiment.trainer.run([])
        changed = {n.partition(".")[0] for n, p in experiment.agent.named_parameters() if not torch.equal(before[n], p)}
        assert changed == {"trunk", "head", "critic"}


WRONG = {
    (
        *ANY,
        "policy.observes=[radar]",
    ): "policy.observes=['radar']: names what is no part of the observations; give some of camera, ",
    (
        *ANY,
        "policy.critic_observes=[]",
    ): "policy.critic_observes=[]: a network must see something; give some of camera, ",
    ("policy.observes=[speed]",): "policy.observes=['speed']: the observations have no parts; leave it out",
    (*ANY, *CHOSEN, "net.share_trunk=true"): "net.share_trunk=True: actor and critic see different parts",
}


@pytest.mark.parametrize("overrides", WRONG, ids=" ".join)
def test_what_does_not_fit_is_refused_in_one_line(overrides: tuple[str, ...], build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build(*overrides)
    assert str(raised.value).startswith(WRONG[overrides]) and "\n" not in str(raised.value)
