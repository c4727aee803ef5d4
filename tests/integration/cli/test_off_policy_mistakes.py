"""Tests of mistakes with algorithms that have a replay buffer: one line, and exit status 2 before a run exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import plexp.execution.run
from tests.integration.cli.test_cli import Main, main

__all__ = ["main"]
ANY = "env=gymnasium env.id=tests.support.environments:plexp-tests/Any2Any-v0 env.num_envs=2 env.kwargs.sees=box"
IMAGES = ANY.replace("box", "image")
BOUNDED, ONE_OF_N = "needs actions of a Box of floats with finite bounds, and", "needs actions of a Discrete space, and"
MISTAKES = {
    # spaces
    "algo=dqn env=pendulum": f"algo=dqn: {ONE_OF_N} these are Box(…, …, (1,), float32); give algo=sac or td3",
    "algo=qr_dqn env=pendulum": f"algo=qr_dqn: {ONE_OF_N} these are Box(…, …, (1,), float32); give algo=sac or td3",
    "algo=td3 env=cartpole": f"algo=td3: {BOUNDED} these are Discrete(2); give algo=dqn or sac",
    f"algo=dqn {ANY} env.kwargs.acts=multidiscrete": f"algo=dqn: {ONE_OF_N} these are MultiDiscrete([2 3], start=[ 1 -1]); "
    "give algo=ppo",
    f"algo=sac {ANY} env.kwargs.acts=multibinary": f"algo=sac: {BOUNDED} these are MultiBinary(4); give algo=ppo",
    f"algo=td3 {ANY} env.kwargs.acts=multibinary": f"algo=td3: {BOUNDED} these are MultiBinary(4); give algo=ppo",
    f"algo=sac {ANY} env.kwargs.acts=unbounded": f"algo=sac: {BOUNDED} these are Box(-inf, inf, (2,), float32); "
    "give algo=ppo",
    f"algo=sac {IMAGES} env.kwargs.acts=box net=cnn": "algo=sac: its critics take the action beside the observation, "
    "which is an image; give algo=ppo, or vector observations",
    # numbers of steps and transitions
    "algo=dqn algo.batch_size=2000 replay.capacity=1000": "replay.capacity=1000: it holds fewer transitions than "
    "algo.batch_size=2000; give replay.capacity=2000 or more",
    "algo=dqn replay.capacity=500": "replay.capacity=500: it holds fewer transitions than algo.learning_starts=1000; "
    "give replay.capacity=1000 or more",
    "algo=dqn env.num_envs=3 algo.train_every=9 replay.capacity=1001": "replay.capacity=1001: it holds fewer transitions "
    "than algo.learning_starts=1000; give replay.capacity=1002 or more",
    "algo=dqn algo.train_every=20": "algo.train_every=20: the 8 environments make a step each at once, so it must be a "
    "multiple of them; give algo.train_every=24 or another env.num_envs",
    "algo=sac env.num_envs=3": "algo.train_every=8: the 3 environments make a step each at once, so it must be a multiple "
    "of them; give algo.train_every=9 or another env.num_envs",
    "algo=dqn total_timesteps=500": "algo.learning_starts=1000: the training ends after total_timesteps=500, before the "
    "first gradient step; give algo.learning_starts=50 or so",
    "algo=dqn replay.capacity=1e12": "replay.capacity=1000000000000: needs 29 TB, ",
    # parts and keys of the other family
    "algo=ppo replay=uniform": "replay=uniform: algo=ppo learns from the rollouts of its own policy; leave it out, or give "
    "algo=dqn",
    "algo=ppo replay.capacity=100": "replay.capacity: there is no such key; algorithms with a replay buffer have it, such "
    "as algo=dqn",
    "algo=sac env=pendulum policy.bounds=tanh": "policy.bounds: there is no such key; it is for algorithms that learn from "
    "their own rollouts, such as algo=ppo",
    "algo=ppo policy=null": "policy=null: this is a section, not a value; give policy.KEY=…, or leave it out",
    "algo=dqn replay=null": "replay=null: a group needs an option; there are prioritized, uniform",
    "algo=dqn replay.alpha=0.5": "replay.alpha: replay=uniform has no such parameter; it is a parameter of prioritized",
    "algo=td3 advantage=gae": "advantage=gae: algo=td3 learns from past transitions, without advantages; give advantage=none",
    "algo=dqn advantage.gae_lambda=0.9": "advantage.gae_lambda: advantage=none has no such parameter; targets sum "
    "algo.n_steps rewards",
    "algo=ppo advantage=none": "advantage=none: algo=ppo weighs its policy gradient by advantages; give an estimator, such "
    "as advantage=gae",
    "algo=dqn algo.num_steps=8": "algo.num_steps: algo=dqn has no such parameter; between updates there are "
    "algo.train_every steps of all environments together",
    "algo=dqn algo.clip_eps=0.2": "algo.clip_eps: algo=dqn has no such parameter; it has no ratio to clip; use algo=ppo",
    "algo=td3 algo.update_epochs=4": "algo.update_epochs: algo=td3 has no such parameter; an update has "
    "algo.gradient_steps steps on algo.batch_size transitions each",
    "algo=sac algo.ent_coef=0.01": "algo.ent_coef: algo=sac has no such parameter; the weight of its entropy is algo.alpha",
    "algo=ppo algo.batch_size=64": "algo.batch_size: algo=ppo has no such parameter; it learns from whole rollouts; use "
    "algo.num_minibatches, or algo=dqn",
    "algo=ppo algo.epsilon_end=0.1": "algo.epsilon_end: algo=ppo has no such parameter; it is a parameter of dqn, qr_dqn",
    "algo=dqn algo.buffer_size=1e5": "algo.buffer_size: there is no such key; ",
    # networks
    "algo=dqn net@critic_net=mlp": "critic_net=mlp: algo=dqn has no critic beside its policy; leave out net@critic_net",
    "algo=sac critic_net.width=9": "critic_net.width: there is no such key; give net@critic_net=mlp, or another network",
    "algo=sac net.share_trunk=true": "net.share_trunk=True: the critics of algo=sac have networks of their own; give "
    "net.share_trunk=false",
    "algo=td3 env=pendulum tuned=none net.share_trunk=true": "net.share_trunk=True: the critics of algo=td3 have networks of "
    "their own; give net.share_trunk=false",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_refused_in_one_line_before_there_is_a_run(
    line: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plexp.execution.run, "run", lambda *_: pytest.fail("a run was started"))
    status, lines = main(*line.split())
    assert status == 2
    (only,) = lines
    assert only.startswith(MISTAKES[line]) and "; " in only
    assert not (tmp_path / "mlflow.db").exists() and not list(tmp_path.glob("state/*"))


FAULTY = (
    *("env=gymnasium", "env.id=tests.support.environments:plexp-tests/Faulty-v0", "env.num_envs=2"),
    *("env.kwargs.fault='nan reward'", "env.kwargs.at=9", "net.width=8", "total_timesteps=200", "compile=false"),
    *("algo.learning_starts=16", "algo.batch_size=8", "evaluation.every=null", "tracker.log_model=false"),
)


@pytest.mark.parametrize("algo", ["dqn", "sac"])
def test_a_reward_that_is_not_finite_fails_the_run_in_one_line(algo: str, main: Main, tmp_path: Path) -> None:
    status, lines = main(f"algo={algo}", *FAULTY)
    assert status == 1
    line = lines[-1]
    assert line.startswith("environment ") and "nan" in line, lines
    (result,) = tmp_path.glob("runs/*/*/result.json")
    assert json.loads(result.read_text())["status"] == "FAILED"
