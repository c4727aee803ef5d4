"""Tests of whole runs on the fake device of plexp/testing/fake_device.py.

They run in a process of their own, because the device stays registered.
"""

from __future__ import annotations

import pytest

from tests.support import forks

RUNS = (
    "env=cartpole algo.num_steps=16",
    "env=pendulum algo.num_steps=16 policy.bounds=tanh policy.log_std=state algo.critic_epochs=2 algo.clip_value=0.2",
    "env=lunarlander_continuous algo.num_steps=16 algo.num_minibatches=4 net.share_trunk=true net.layer_norm=true",
    "env=cartpole algo=reinforce",
    "env=cartpole algo=a2c advantage=vtrace algo.replay_rollouts=2 algo.standardize_advantages=episode",
    "env=pendulum algo=a2c advantage=q_baseline algo.target_update_every=2",
)


@pytest.mark.parametrize("runs", [RUNS[1:2], pytest.param(RUNS, marks=pytest.mark.slow)], ids=["one", "all"])
def test_runs_on_another_device_keep_tensors_there_and_give_the_same_weights(runs: tuple[str, ...]) -> None:
    code = "import runpy; runpy.run_module('plexp.testing.fake_device', run_name='__main__', alter_sys=True)"
    result = forks.run(runs, code=code)
    assert result.returncode == 0, f"{result.stdout}{result.stderr[-2000:]}"
    assert result.stdout.splitlines() == [f"equal {run}" for run in runs]
