"""Fuzz test of the command line: is each random one refused (status 2) or run to its end (status 0)?

It also fails on a traceback, a long refusal, credentials in the output, and a run left behind by a refusal or unfinished.

python tests/integration/faults/fuzz.py [--examples 500] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from plexp.cli import main as cli
from plexp.config.paths import CONF

TINY = (
    *("total_timesteps=16", "env.num_envs=2", "env.max_episode_steps=5", "net.width=8", "compile=false", "algo=ppo"),
    *("algo.num_steps=4", "algo.num_minibatches=2", "algo.update_epochs=1", "evaluation.final_episodes=1"),
    *("evaluation.episodes=1", "tracker.log_model=false"),
)
KEYS = (
    *(
        "seed",
        "gamma",
        "total_timesteps",
        "total_episodes",
        "device",
        "compile",
        "torch_threads",
        "objective",
        "outputs",
    ),
    *("resume", "rerun", "policy", "policy.log_std", "policy.log_std_init", "policy.bounds", "policy.action_samples"),
    *("evaluation", "evaluation.every", "evaluation.episodes", "evaluation.stop_when_solved", "checkpoint.every"),
    *(
        "tracker.uri",
        "tracker.experiment",
        "tracker.every",
        "env.id",
        "env.kwargs",
        "env.kwargs.gravity",
        "env.backend",
    ),
    *("env.vectorization", "env.step_timeout", "env.normalize_observations", "env.solved_return"),
    *(
        "net.layers",
        "net.width",
        "net.activation",
        "net.layer_norm",
        "net.initialization",
        "net.share_trunk",
        "net.plugin",
    ),
    *(
        "advantage.gae_lambda",
        "advantage.gamma",
        "advantage.plugin",
        "algo.clip_eps",
        "algo.learning_rate",
        "algo.plugin",
    ),
    *(
        "algo.num_steps",
        "algo.num_minibatches",
        "algo.update_epochs",
        "algo.target_kl",
        "algo.ent_coef",
        "algo.vf_coef",
    ),
    *("algo.max_grad_norm", "algo.critic_epochs", "algo.target_update_every", "algo.replay_rollouts", "algo._target_"),
    *("algo.batch_size", "algo.train_every", "algo.learning_starts", "replay", "replay.capacity", "replay.plugin"),
    *("critic_net", "critic_net.width", "env._target_", "hydra.job.name", "algo.learner", "nothing", "sede", ""),
)
GROUPS = (
    "algo",
    "advantage",
    "net",
    "net@critic_net",
    "env",
    "replay",
    "experiment",
    "ablation",
    "tuned",
    "hydra/launcher",
    "nogroup",
)
OPTIONS = [
    file.stem for group in ("algo", "advantage", "net", "env", "replay") for file in (CONF / group).glob("*.yaml")
]
SLOW = {"mountaincar_continuous", "bipedalwalker"}
VALUES = (
    *(
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        "1.0",
        "1e-9",
        "1e3",
        "-0.0",
        "nan",
        "inf",
        "-inf",
        "true",
        "false",
        "null",
    ),
    *(
        "''",
        "x",
        "os.system",
        "[1,2]",
        "[]",
        "{}",
        "{a: 1}",
        "'a b'",
        "${gamma}",
        "${nothing}",
        "${oc.env:HOME}",
        "???",
    ),
    *(
        "../../x",
        "é",
        "'#'",
        "%s",
        "\\",
        "auto",
        "never",
        "minibatch",
        "CartPole-v1",
        "Acrobot-v1",
        "a:b:c",
        "sync",
        "async",
    ),
    *(
        "http://u:p@127.0.0.1:9",
        "sqlite://",
        "tanh",
        "1,2",
        "{",
        "[1",
        "'",
        "$",
        "1_000",
        "0x10",
        "cpu",
        "cuda",
        "meta",
    ),
)
keyed = st.builds(lambda sign, key, value: f"{sign}{key}={value}", st.sampled_from(["", "", "", "+", "++", "~"]),
                  st.sampled_from(KEYS), st.sampled_from(VALUES))  # fmt: skip
chosen = st.builds(lambda group, option: f"{group}={option}", st.sampled_from(GROUPS),
                   st.sampled_from([*sorted(set(OPTIONS) - SLOW), "nothing", "null", "../algo/ppo", ""]))  # fmt: skip
junk = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12).filter(
    lambda text: not text.startswith("-")  # options are handled by argparse
)
PLAUSIBLE = (
    *(
        "seed=3",
        "gamma=0.9",
        "total_episodes=1",
        "torch_threads=2",
        "objective=eval/return",
        "resume=never",
        "rerun=true",
    ),
    *(
        "policy.log_std=state",
        "policy.bounds=tanh",
        "policy.action_samples=2",
        "evaluation.every=8",
        "evaluation.every=null",
    ),
    *("evaluation.stop_when_solved=true", "checkpoint.every=4", "checkpoint.every=null", "tracker.experiment=../../x"),
    *(
        "tracker.experiment='é #%'",
        "tracker.every=1",
        "env.vectorization=async",
        "env.step_timeout=9",
    ),
    *("env.solved_return=1", "env.scale_rewards=false", "net.layers=1", "net.activation=relu", "net.layer_norm=true"),
    *(
        "net.share_trunk=true",
        "net@critic_net=mlp",
        "advantage=td",
        "advantage=n_step",
        "advantage=vtrace",
        "advantage=returns",
    ),
    *("advantage=q", "advantage=q_baseline", "env=pendulum", "env=acrobot", "env=lunarlander", "algo.clip_eps=null"),
    *("algo.critic_epochs=2", "algo.target_update_every=1", "algo.replay_rollouts=1", "algo.num_minibatches=1"),
    *("algo.target_kl=0.1", "algo.anneal_clip=true", "algo.clip_value=0.1", "+env.kwargs.sutton_barto_reward=true"),
)
command_lines = st.one_of(
    st.lists(st.sampled_from(PLAUSIBLE), min_size=1, max_size=4, unique=True),
    st.lists(st.one_of(st.sampled_from(PLAUSIBLE), keyed, chosen, junk), min_size=1, max_size=3),
)


def run_command_line(arguments: list[str]) -> tuple[int, list[str]]:
    """Run a command line in this process; return its exit status and the lines it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
    return status, [line for line in (out.getvalue() + err.getvalue()).splitlines() if line.strip()]


def faults(line: list[str], outputs: Path) -> tuple[int, list[str]]:
    """Run a command line; return its exit status, and all that is wrong with it."""
    before = {file: file.stat().st_mtime_ns for file in outputs.glob("state/*/run.json")}
    status, lines = run_command_line([*TINY, f"outputs={outputs}", *line])
    found = [] if status in (0, 2) else [f"status {status}"]
    found += ["a traceback"] if any("Traceback" in each for each in lines) else []
    if status == 2:
        found += [f"{len(lines)} lines for {len(line)} overrides"] if not 1 <= len(lines) <= 2 * len(line) + 1 else []
        found += ["credentials"] if any("u:p@" in each for each in lines) else []
    new = [file for file in outputs.glob("state/*/run.json") if before.get(file) != file.stat().st_mtime_ns]
    records = [json.loads(file.read_text()) for file in new]
    objective = any(each.lstrip("+").startswith("objective") for each in line)  # is checked after the run
    if status == 2 and records and not objective:
        found.append(f"refused, and yet there is a run: {[(r['name'], r['status']) for r in records]}")
    found += [f"a run that is {record['status']}" for record in records if record["status"] != "FINISHED"]
    return status, found + ([] if not found else lines[-3:])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[Any] = Counter()
    bad: list[tuple[list[str], list[str]]] = []
    os.environ["PLEXP_CACHE"] = tempfile.mkdtemp()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # for command lines that change `outputs`

        @seed(options.seed)
        @settings(max_examples=options.examples, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(command_lines)
        def fuzz(line: list[str]) -> None:
            status, found = faults(line, Path(folder) / "outputs")
            counts[status] += 1
            if found:
                bad.append((line, found))
                print("BAD", line, found, flush=True)

        fuzz()
    print(f"{sum(counts.values())} command lines: exit status {dict(counts)}; {len(bad)} not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
