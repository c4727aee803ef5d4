"""Digests of what short runs of many configurations compute, to verify that a change alters no run.

python tests/support/oracle.py [--only NAME ...] [--jobs 2] [--against FILE] [--keep FOLDER]

It prints a line for each run, with digests of its final weights, its metrics (except times), its episodes, and of the
names it records: params with their values, tags, artifact files, time metrics. The output can be saved to a file. With
`--against FILE` each line that differs from that file is marked, and the exit status is 1. With `--keep FOLDER` the
outputs of each run stay there, with its names line by line in `names-RUN.txt`. A run that is interrupted and resumed
must have the digests of the one that was never interrupted.

It uses the command line, configuration keys and names in the MLflow store, but no module of plexp, so that it is the
same before and after a change. It runs the checkout that contains it. Digests depend on the machine and on the
versions of the libraries: compare only digests made with the same ones.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import os
import runpy
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import url2pathname

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 900.0
"""Time limit of one command; compiling for the first time takes most of it."""

COLUMNS = ("weights", "metrics", "episodes", "names")
CLOCK = ("time/", "eval/seconds", "speed/seconds_to_threshold")
"""Prefixes of the metrics that measure durations: two runs of one configuration differ in them."""
TAGS_WITH_VALUES = ("choice.", "group", "kind", "mlflow.runName", "stopped", "objective")
"""Prefixes of the tags whose values are digested; the others record time, place and code: only their names are."""

COMMON = (
    "total_timesteps=3000 evaluation.every=1000 evaluation.episodes=2 evaluation.final_episodes=3 tracker.every=500 "
    "tracker.log_model=false net.width=16 env=cartpole env.num_envs=4 compile=false"
)
SINGLE = "env.num_envs=1 total_timesteps=1500 evaluation.every=500"
PPO = "algo=ppo algo.num_steps=64 algo.num_minibatches=4 algo.update_epochs=4"
A2C = "algo=a2c"
CONTINUOUS = "env=pendulum policy.bounds=tanh"
TARGET = "algo.target_update_every=2 algo.target_tau=0.5"
REPLAY = "advantage=vtrace algo.replay_rollouts=3"
IMAGES = (
    "env=gymnasium env.id=oracle_environments:oracle/Pixels-v0 env.normalize_observations=false total_timesteps=1500 "
    "net=cnn net.width=32"
)
MIXED = "env=gymnasium env.id=oracle_environments:oracle/Mixed-v0"
LONG = "total_timesteps=12000 evaluation.every=3000 checkpoint.every=1000"

RUNS = {
    "reinforce": f"algo=reinforce {SINGLE}",
    "reinforce_baseline": f"algo=reinforce advantage=baseline {SINGLE}",
    "reinforce_q": f"algo=reinforce advantage=q {SINGLE}",
    "reinforce_q_baseline": f"algo=reinforce advantage=q_baseline {SINGLE}",
    "reinforce_vtrace_replay": f"algo=reinforce {REPLAY} {SINGLE}",
    "reinforce_continuous": f"algo=reinforce advantage=baseline env=lunarlander_continuous {SINGLE}",
    "reinforce_episodes": f"algo=reinforce total_episodes=25 {SINGLE} algo.standardize_advantages=off",
    "notebook_reinforce": f"+experiment=notebook_reinforce {SINGLE}",
    "actor_critic": f"algo=actor_critic {SINGLE}",
    "actor_critic_continuous": f"algo=actor_critic {CONTINUOUS} policy.log_std=state {SINGLE}",
    "notebook_actor_critic": f"+experiment=notebook_actor_critic {SINGLE}",
    "a2c": A2C,
    "a2c_seed": f"{A2C} seed=7",
    "a2c_td": f"{A2C} advantage=td",
    "a2c_n_step": f"{A2C} advantage=n_step advantage.n=3",
    "a2c_gae": f"{A2C} advantage=gae algo.ent_coef=0.01",
    "a2c_q": f"{A2C} advantage=q",
    "a2c_vtrace": f"{A2C} advantage=vtrace",
    "a2c_vtrace_replay": f"{A2C} {REPLAY}",
    "a2c_q_continuous": f"{A2C} advantage=q {CONTINUOUS}",
    "a2c_identity": f"{A2C} env=pendulum policy.log_std=identity",
    "a2c_lunarlander": f"{A2C} env=lunarlander",
    "a2c_critic_net": f"{A2C} net@critic_net=mlp critic_net.width=24 critic_net.layers=1 algo.critic_learning_rate=2e-3",
    "a2c_compiled": f"{A2C} compile=true",
    "a2c_vtrace_replay_compiled": f"{A2C} {REPLAY} compile=true",
    "ppo": PPO,
    "ppo_lunarlander": f"{PPO} env=lunarlander net.layers=3",
    "ppo_lunarlander_continuous": f"{PPO} env=lunarlander_continuous",
    "ppo_pendulum_tanh": f"{PPO} {CONTINUOUS}",
    "ppo_state_deviation": f"{PPO} {CONTINUOUS} policy.log_std=state policy.log_std_init=-0.5",
    "ppo_clipped_bounds": f"{PPO} env=pendulum",
    "ppo_n_step": f"{PPO} advantage=n_step",
    "ppo_vtrace_replay": f"{PPO} {REPLAY}",
    "ppo_q_continuous": f"{PPO} advantage=q {CONTINUOUS} policy.action_samples=4",
    "ppo_target_critic": f"{PPO} {TARGET}",
    "ppo_critic_epochs": f"{PPO} algo.critic_epochs=3",
    "ppo_shared_trunk": f"{PPO} net.share_trunk=true",
    "ppo_shared_trunk_target": f"{PPO} net.share_trunk=true {TARGET}",
    "ppo_critic_net": f"{PPO} net@critic_net=mlp critic_net.width=24",
    "ppo_clip_value": f"{PPO} algo.clip_value=0.2",
    "ppo_target_kl": f"{PPO} algo.target_kl=0.002 algo.update_epochs=10",
    "ppo_anneal_clip": f"{PPO} algo.anneal_clip=true algo.standardize_advantages=rollout algo.max_grad_norm=null",
    "ppo_unclipped": f"{PPO} algo.clip_eps=null algo.anneal_learning_rate=false",
    "ppo_network": f"{PPO} net.layers=1 net.activation=silu net.layer_norm=true net.initialization=default",
    "ppo_raw": f"{PPO} env.normalize_observations=false env.scale_rewards=false",
    "ppo_solved": f"{PPO} env.solved_return=30 evaluation.stop_when_solved=true",
    "ppo_patience": f"{PPO} callbacks=[patience] callbacks.patience.evaluations=2 callbacks.patience.min_delta=1000",
    "ppo_async": f"{PPO} env.vectorization=async",
    "ppo_model": f"{PPO} tracker.log_model=true",
    "ppo_film": f"{PPO} evaluation.film=true total_timesteps=1000 evaluation.every=500",
    "ppo_images": f"{PPO} {IMAGES}",
    "ppo_images_apart": f"{PPO} {IMAGES} net.share_trunk=false",
    "ppo_mixed_spaces": f"{PPO} {MIXED}",
    "ppo_compiled": f"{PPO} compile=true",
    "ppo_target_critic_compiled": f"{PPO} {TARGET} compile=true",
    "ppo_shared_trunk_compiled": f"{PPO} net.share_trunk=true compile=true",
    "ppo_tanh_compiled": f"{PPO} {CONTINUOUS} compile=true",
    "ablation_no_gae": f"+experiment=ablation ablation=no_gae {PPO}",
    "sweep": f"-m seed=0,1 {PPO}",
    "unbroken_ppo": f"{PPO} {LONG}",
    "unbroken_replay": f"{A2C} env=lunarlander {REPLAY} {LONG}",
    "unbroken_reinforce": f"algo=reinforce advantage=baseline {SINGLE} {LONG}",
}
"""Name of each run → its overrides, after those of `COMMON`; the last value of a key wins."""

INTERRUPTED = {
    "broken_ppo": ("unbroken_ppo", signal.SIGKILL),
    "broken_replay": ("unbroken_replay", signal.SIGINT),
    "broken_reinforce": ("unbroken_reinforce", signal.SIGKILL),
}
"""Name of each interrupted run → the run it must equal, and the signal it gets after its first checkpoint."""

ENVIRONMENTS = '''"""Environments of the oracle's runs."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Pixels(gymnasium.Env):
    """Images of a bright square in noise, left or right; the action of its side pays 1. Twelve steps an episode."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._picture(), {}

    def step(self, action):
        paid = float(int(action) == self.side)
        self.time += 1
        return self._picture(), paid, False, self.time == 12, {}

    def _picture(self):
        self.side = int(self.np_random.integers(2))
        picture = self.np_random.integers(0, 64, (36, 40, 3), dtype=np.uint8)
        picture[10:26, 4 + 20 * self.side : 16 + 20 * self.side] += 128
        return picture


class Mixed(gymnasium.Env):
    """Dict observations and MultiDiscrete actions; each choice that matches the mode pays 1. Ten steps at most."""

    observation_space = spaces.Dict(position=spaces.Box(-1, 1, (2,), np.float32), mode=spaces.Discrete(3))
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def step(self, action):
        paid = float(int(action[0]) == self.mode % 2) + float(int(action[1]) == self.mode)
        self.time += 1
        return self._seen(), paid, bool(self.np_random.random() < 0.05), self.time == 10, {}

    def _seen(self):
        self.mode = int(self.np_random.integers(3))
        return {"position": self.np_random.uniform(-1, 1, 2).astype(np.float32), "mode": self.mode}


for cls in (Pixels, Mixed):
    gymnasium.register(f"oracle/{cls.__name__}-v0", f"{__name__}:{cls.__name__}")
'''


@dataclass(frozen=True)
class Line:
    """Digests of one run, one for each of `COLUMNS`."""

    name: str
    digests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name:<30} {' '.join(self.digests)}"


class Failure(Exception):
    """Raised for a run that did not end, or did not end as it should."""


def command(name: str) -> list[str]:
    """Return the command-line arguments of a run, each key once."""
    chosen: dict[str, str] = {}
    for argument in f"{COMMON} {RUNS[name]}".split():
        chosen[argument.partition("=")[0]] = argument
    return sorted(chosen.values(), key=lambda argument: not argument.startswith("-"))  # options before values


def perform(name: str) -> list[Line]:
    """Run one configuration in the current folder; return its line, or those of a sweep's seeds. Raises Failure."""
    Path("oracle_environments.py").write_text(ENVIRONMENTS, encoding="utf-8")
    uninterrupted, sent = INTERRUPTED.get(name, (name, None))
    arguments = command(uninterrupted)
    if sent is not None:
        process = fork(lambda: plexp(arguments))
        wait(process, until=lambda: any(Path("outputs/state").rglob("step-*.safetensors")))
        with suppress(ProcessLookupError):
            os.kill(process, sent)
        if wait(process) == 0:
            raise Failure("it had ended before the signal came")
    if (status := wait(fork(lambda: plexp(arguments)))) != 0:
        raise Failure(f"exit status {status}")
    runs = read_runs(Path("outputs"))
    if len(runs) != (2 if "-m" in arguments else 1):
        raise Failure(f"{len(runs)} runs in the store")
    if sent is not None and "resume.steps" not in runs[0]["tags"]:
        raise Failure("it started from scratch after the signal, not from its checkpoint")
    if ("compile=true" in arguments) != any(k == "time/compiling" and v > 0 for k, _, v in runs[0]["metrics"]):
        raise Failure("whether it was compiled is not as it should be")
    named = {f"{name}_s{run['params']['seed']}" if len(runs) > 1 else name: run for run in runs}
    for each, run in named.items():
        names = "".join(f"{' '.join(map(str, name))}\n" for name in names_of(run))
        Path(f"names-{each}.txt").write_text(names, encoding="utf-8")
    return [Line(each, digests_of(run)) for each, run in sorted(named.items())]


def plexp(arguments: Sequence[str]) -> int:
    """Run `python -m plexp` in this process, and return its exit status."""
    places = [str(CHECKOUT), str(Path.cwd())]
    sys.path[:] = [*places, *(place for place in sys.path if place not in places)]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)  # for the processes that it starts
    sys.argv = ["plexp", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    try:
        runpy.run_module("plexp", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def fork(work: Callable[[], int]) -> int:
    """Fork a child that does the work and exits with its result; return the child's process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    if process := os.fork():
        return process
    _end_with(work)


def _end_with(work: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        status = work()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def wait(process: int, until: Callable[[], bool] = lambda: False) -> int | None:
    """Wait until a child ends, and return its exit status (−n after signal n), or None once `until()` is true.

    Raises Failure after `SECONDS`, with the child killed.
    """
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        found = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if until():
            return None
        if found is not None:
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise Failure(f"no end within {SECONDS:.0f} s")


def read_runs(outputs: Path) -> list[dict[str, Any]]:
    """Return every run of a store: name, status, experiment, files, params, tags, metrics as (name, step, value)."""
    with closing(sqlite3.connect(f"{(outputs / 'mlflow.db').absolute().as_uri()}?mode=ro", uri=True)) as store:
        found = []
        rows = store.execute(
            "SELECT run_uuid, r.name, status, artifact_uri, e.name FROM runs r JOIN experiments e USING (experiment_id)"
        )
        for run, name, status, files, experiment in rows.fetchall():
            metrics = store.execute(
                "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", (run,)
            ).fetchall()
            params = store.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run,)).fetchall()
            tags = store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)).fetchall()
            found.append(
                {
                    "about": (name, status, experiment),
                    "files": Path(url2pathname(urlsplit(files).path)),
                    "metrics": [(key, step, float("nan") if is_nan else value) for key, step, value, is_nan in metrics],
                    "params": dict(params),
                    "tags": dict(tags),
                }
            )
    return found


def digests_of(run: dict[str, Any]) -> tuple[str, ...]:
    """Return the digests of one run, in the order of `COLUMNS`."""
    from safetensors.numpy import load_file

    files: Path = run["files"]
    weights = sorted(
        (f"{each.dtype}{each.shape}", each.tobytes()) for each in load_file(files / "agent.safetensors").values()
    )
    metrics = sorted((key, step, repr(value)) for key, step, value in run["metrics"] if not key.startswith(CLOCK))
    episodes = load_file(files / "episodes.safetensors")
    parts = [(key, f"{each.dtype}{each.shape}", each.tobytes()) for key, each in sorted(episodes.items())]
    parts.append(("episodes.csv", "", (files / "episodes.csv").read_bytes()))
    return digest(weights), digest(metrics), digest(parts), digest(names_of(run))


def names_of(run: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return all that a run records except numbers and contents of files; the tags on resuming are left out."""
    files: Path = run["files"]
    models = files.parents[1] / "models"
    artifacts: list[tuple[str, ...]] = [
        ("artifact", str(path.relative_to(files))) for path in files.rglob("*") if path.is_file()
    ]
    artifacts += [("model", *path.relative_to(models).parts[1:]) for path in models.rglob("*") if path.is_file()]
    tags = [(key, value if key.startswith(TAGS_WITH_VALUES) else "") for key, value in run["tags"].items()]
    return [
        ("run", *run["about"]),
        *sorted(artifacts),
        *sorted(("param", key, value) for key, value in run["params"].items()),
        *sorted(("tag", key, value) for key, value in tags if not key.startswith("resume.")),
        *sorted(("time", key, step) for key, step, _ in run["metrics"] if key.startswith(CLOCK)),
    ]


def digest(parts: Iterable[Any]) -> str:
    """Return the first half of the SHA-256 of the list of parts."""
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:32]


def case(name: str, folder: Path) -> int:
    """Run one configuration in a new folder, which gets its output and lines as files; return the exit status."""
    os.setsid()
    folder.mkdir()
    os.chdir(folder)
    with open("output.txt", "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        lines = perform(name)
    except Failure as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return 1
    Path("lines.json").write_text(json.dumps([(line.name, line.digests) for line in lines]), encoding="utf-8")
    return 0


def perform_all(names: Sequence[str], jobs: int, folder: Path, keep: bool) -> dict[str, list[Line] | None]:
    """Run configurations, `jobs` at a time; return the lines of each, None if it failed, with its output on stderr."""
    waiting, running = list(names), dict[int, str]()
    done: dict[str, list[Line] | None] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[fork(lambda name=name: case(name, folder / name))] = name  # type: ignore[misc]
            process, status = os.wait()
            name = running.pop(process)
            done[name] = None
            if status == 0:
                found = json.loads((folder / name / "lines.json").read_text(encoding="utf-8"))
                done[name] = [Line(each, tuple(digests)) for each, digests in found]
            else:
                output = (folder / name / "output.txt").read_text(encoding="utf-8", errors="replace")
                print(
                    f"--- {name} failed: {' '.join(command(INTERRUPTED.get(name, (name,))[0]))}\n{output}",
                    file=sys.stderr,
                )
            print(f"{len(done)} of {len(names)}: {name}", file=sys.stderr, flush=True)
            if not keep:
                shutil.rmtree(folder / name, ignore_errors=True)
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
    return done


def read_lines(file: Path) -> dict[str, Line]:
    """Return the lines of a saved table, by name."""
    rows = [text.split() for text in file.read_text(encoding="utf-8").splitlines()]
    return {row[0]: Line(row[0], tuple(row[1 : 1 + len(COLUMNS)])) for row in rows if row and row[0] != "name"}


def differing(line: Line, other: Line | None) -> str:
    """Return the names of the columns in which two lines differ; empty if they are equal."""
    if other is None:
        return "not there"
    return ", ".join(
        column for column, one, two in zip(COLUMNS, line.digests, other.digests, strict=True) if one != two
    )


def main() -> int:
    """Run all, and print their lines; return 0 if none failed, resumed runs equal the others, and no line differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*RUNS, *INTERRUPTED], help="these runs alone")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--against", type=Path, metavar="FILE", help="a table that was saved before")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the runs' outputs stay; a new folder")
    options = parser.parse_args()
    names = options.only or [*RUNS, *INTERRUPTED]
    names = list(dict.fromkeys([*(INTERRUPTED[name][0] for name in names if name in INTERRUPTED), *names]))
    before = read_lines(options.against) if options.against else None
    _warm_up()
    folder: Path = options.keep.absolute() if options.keep else Path(tempfile.mkdtemp(prefix="oracle-"))
    folder.mkdir(parents=True, exist_ok=not options.keep)
    try:
        done = perform_all(names, options.jobs, folder, options.keep is not None)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{'name':<30} {' '.join(f'{column:<32}' for column in COLUMNS)}".rstrip())
    wrong = 0
    for name in names:
        lines = done[name] or []
        remarks = [] if lines else ["FAILED"]
        if name in INTERRUPTED and lines and (reference := done[INTERRUPTED[name][0]]):
            remarks += [f"NOT AS {reference[0].name}: {how}"] if (how := differing(lines[0], reference[0])) else []
        for line in lines or [Line(name, ("-",) * len(COLUMNS))]:
            if lines and before is not None and (how := differing(line, before.get(line.name))):
                remarks.append(f"DIFFERS: {how}")
            print(line, *(f"  <- {remark}" for remark in remarks), flush=True)
            wrong += bool(remarks)
            remarks = []
    if before is not None:
        print(f"{wrong} lines of {len(names)} runs differ or failed", file=sys.stderr)
    return int(wrong > 0)


def _warm_up() -> None:
    """Import the slow libraries once for all children; this starts no thread, which a child would lack."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
    import gymnasium
    import hydra
    import mlflow
    import torch

    assert gymnasium and hydra and mlflow
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
