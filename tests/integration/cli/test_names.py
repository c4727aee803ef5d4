"""Tests of the names of runs, and of the tag that charts group them by."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli.test_cli import QUICK, Main, main
from tests.support.processes import runs

__all__ = ["main"]
TINY = (
    *("env=pendulum", "tuned=none", "total_timesteps=64", "env.num_envs=2", "env.max_episode_steps=20", "net.width=8"),
    *("algo.learning_starts=16", "algo.batch_size=8", "algo.gradient_steps=1", "evaluation.every=null"),
    *("evaluation.final_episodes=2", "tracker.log_model=false", "compile=false"),
)
NAMES = {
    "algo=td3": "td3-mlp2x8-pendulum",
    "algo=td3 advantage=none net=mlp_relu": "td3-mlp2x8-pendulum net=mlp_relu",
    "algo=ddpg": "ddpg-mlp2x8-pendulum",
}


@pytest.mark.parametrize("chosen", NAMES)
def test_runs_of_two_configs_of_one_plugin_are_not_averaged(chosen: str, main: Main, tmp_path: Path) -> None:
    assert main(*chosen.split(), *TINY)[0] == 0
    (run,) = runs(tmp_path)
    name, *shown = run["tags"]["group"].split(" ")
    assert [name, *(override for override in shown if override not in TINY)] == NAMES[chosen].split(" ")
    assert run["tags"]["mlflow.runName"] == f"{name}-s0"
    algo = name.partition("-")[0]
    assert run["tags"]["choice.algo"] == algo and run["tags"]["mlflow.note.content"].startswith(f"**{algo}** on")


@pytest.mark.parametrize(
    ("id", "option", "is_shown"), [("CartPole-v1", "cartpole", False), ("Acrobot-v1", "cartpole", True)]
)
def test_a_group_says_which_environment_a_config_was_changed_to(
    id: str, option: str, is_shown: bool, main: Main, tmp_path: Path
) -> None:
    assert main(*QUICK, f"env={option}", f"env.id={id}", "compile=false")[0] == 0
    (run,) = runs(tmp_path)
    assert (f"env={option}" in run["tags"]["group"].split(" ")) is is_shown
