"""Tests of what the commands do with recorded runs of algorithms that have a replay buffer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli.test_cli import Main, main
from tests.support.processes import runs

__all__ = ["main"]
SHORT = (
    *("compile=false", "net.width=8", "env.num_envs=4", "env.max_episode_steps=20", "total_timesteps=320"),
    *("algo.learning_starts=64", "algo.batch_size=16", "algo.n_steps=1", "algo.gradient_steps=2"),
    *("evaluation.every=160", "evaluation.episodes=2", "evaluation.final_episodes=3"),
)


@pytest.mark.parametrize(("algo", "env"), [("dqn", "cartpole"), ("sac", "pendulum"), ("td3", "pendulum")])
def test_a_run_is_exported_evaluated_reproduced_and_its_training_filmed(
    algo: str, env: str, main: Main, tmp_path: Path
) -> None:
    assert main(f"algo={algo}", f"env={env}", *SHORT)[0] == 0
    (run,) = runs(tmp_path)
    store = ("last", "--outputs", str(tmp_path))

    status, lines = main("export", *store)
    assert status == 0 and lines[0].endswith("actions on 455 observations, by 1, 2 and 7: equal")
    assert lines[1].endswith("play.py  plays an episode with it, without plexp")

    status, lines = main("evaluate", *store, "--episodes", "3", "--sampled")
    assert status == 0 and lines[0].startswith(f"{algo}-mlp2x8-{env}-s0 on {env}, 3 episodes, sampled")

    rows = (run["folder"] / "episodes.csv").read_text().splitlines()[1:]
    status, lines = main("film", *store, "--episode", str(len(rows)))
    assert status == 0 and len(lines) == 2, "a third line would report that the episode differs"
    assert f": return {float(rows[-1].split(',')[1]):.1f} in " in lines[0]

    status, lines = main("reproduce", *store)
    assert status == 0 and any(line.startswith("identical: ") and line.endswith("bit for bit") for line in lines), lines


def test_algorithms_of_both_families_are_compared(main: Main, tmp_path: Path) -> None:
    small = (
        "net.width=8",
        "compile=false",
        "total_timesteps=128",
        "evaluation.every=64",
        "evaluation.final_episodes=2",
    )
    short = ("hydra.launcher.n_jobs=1", "seed=0,1", "env.max_episode_steps=20", "tracker.log_model=false", *small)
    assert main("-m", "algo=dqn", "algo.learning_starts=64", *short)[0] == 0
    assert main("-m", "algo=ppo", *short)[0] == 0
    status, lines = main("compare", "--by", "algo", "--outputs", str(tmp_path))
    assert status == 0
    assert {line.split()[0] for line in lines if line.startswith(("dqn ", "ppo "))} == {"dqn", "ppo"}
    assert any(line.startswith("- ") and "exploratory: no verdict" in line for line in lines), "two seeds each"
