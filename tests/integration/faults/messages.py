"""Fuzz test of messages: are wrong configurations, plugins and environments refused, or ended, in a few lines that say why?

Each case is drawn from a seed and run in a process and a folder of its own. It must end with exit status 1 or 2, in at most
three lines that name the key, file or method, without a traceback, and leave no run that is RUNNING.

python tests/integration/faults/messages.py [--cases 300] [--seed 0] [--kind environment]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sqlite3
import string
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from subprocess import TimeoutExpired

sys.path.insert(0, str(Path(__file__).parents[3]))
from plexp.config import config_files, registry
from plexp.config.hydra_errors import compose_values
from plexp.config.schema import flattened
from tests.support import forks, odd_returns

TINY = (
    *("total_timesteps=64", "env.num_envs=2", "env.max_episode_steps=9", "net.width=8", "compile=false"),
    *("tracker.log_model=false", "evaluation.every=null", "evaluation.final_episodes=1"),
)
PPO = ("algo=ppo", "algo.num_steps=16", "algo.num_minibatches=2", "algo.update_epochs=1")
"""Overrides of cases that choose no algorithm."""
MOST_LINES = 3


@dataclass(frozen=True)
class Case:
    """A command line that must not succeed."""

    arguments: list[str]
    names: str
    """Text that the message must have: a key, a file or a method."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """Files of the folder in which it is run."""


@cache
def values() -> dict[str, object]:
    """Return the keys of a run with their values."""
    return dict(flattened(compose_values(*TINY, *PPO)))


def unknown_key(rng: random.Random) -> Case:
    """Return a case with one letter of a key replaced, left out or doubled."""
    key = rng.choice([key for key in values() if key.rpartition(".")[0] not in ("env.kwargs", "")])
    section, _, name = key.rpartition(".")
    place = rng.randrange(len(name))
    letter = rng.choice(["", name[place] * 2, rng.choice(string.ascii_lowercase)])
    typo = f"{section}.{name[:place]}{letter}{name[place + 1 :]}"
    if typo in values() or not typo.rpartition(".")[2]:
        return unknown_key(rng)
    return Case([f"{typo}={rng.choice([1, 'x', 'true'])}"], typo)


def wrong_type(rng: random.Random) -> Case:
    """Return a case with a value that no number, or no flag, can be."""
    keys = [key for key, value in values().items() if isinstance(value, bool | int | float)]
    key = rng.choice([key for key in keys if not key.startswith("env.kwargs")])
    value = rng.choice(["some", "[1,2]", "{a: 1}", "'1 2'", "1.2.3", "''", "nan", "5 %", "1e", "--1", "é"])
    return Case([f"{key}={value}"], key.rpartition(".")[2])  # env.gamma is the default of gamma


COUNTS = (
    *("total_timesteps", "total_episodes", "max_rollout_steps", "torch_threads", "evaluation.every", "tracker.every"),
    *("evaluation.episodes", "evaluation.final_episodes", "evaluation.max_steps", "checkpoint.every", "env.num_envs"),
    *("env.max_episode_steps", "net.width", "algo.num_steps", "algo.update_epochs", "algo.num_minibatches"),
    *("algo.target_update_every",),
)
FRACTIONS = ("gamma", "advantage.gae_lambda", "advantage.gamma", "env.gamma", "algo.target_tau", "algo.clip_eps")
AMOUNTS = ("algo.learning_rate", "algo.max_grad_norm", "algo.adam_eps", "env.step_timeout", "algo.clip_value")


def out_of_range(rng: random.Random) -> Case:
    """Return a case with a number that its key does not allow."""
    key = rng.choice(COUNTS + FRACTIONS + AMOUNTS)
    numbers = ["-1", "-0.5", "-1e9", "-inf", "inf", "nan"]
    numbers += ["0", "1.5", "1e400", "10000000000000000000000.5"] if key in COUNTS else []
    return Case([f"{key}={rng.choice(numbers)}"], key.rpartition(".")[2])


REPLAY = (
    *("algo.learning_starts=16", "algo.batch_size=8", "total_timesteps=64", "env.num_envs=2", "net.width=8"),
    *("compile=false", "evaluation.every=null", "evaluation.final_episodes=1", "env.max_episode_steps=9"),
)
REPLAY_COUNTS = ("algo.batch_size", "algo.train_every", "algo.gradient_steps", "algo.n_steps", "replay.capacity")


def replay(rng: random.Random) -> Case:
    """Return a case with a value or a part that does not fit an algorithm with a replay buffer."""
    algo, env = rng.choice([("dqn", "cartpole"), ("qr_dqn", "cartpole"), ("sac", "pendulum"), ("td3", "pendulum")])
    other = {"cartpole": "pendulum", "pendulum": "cartpole"}[env]
    key = rng.choice(REPLAY_COUNTS)
    misfits = [
        ([f"{key}={rng.choice(['0', '-1', '1.5', 'inf', 'some', 'null'])}"], re.escape(key)),
        ([f"algo.target_tau={rng.choice(['0', '-1', '1.5', 'nan', 'x'])}"], r"algo\.target_tau"),
        (["replay.capacity=7"], r"replay\.capacity"),
        (["replay.capacity=1e15"], r"replay\.capacity"),
        (["algo.train_every=3"], r"algo\.train_every"),
        (["algo.learning_starts=1000"], r"algo\.learning_starts"),
        ([f"advantage={rng.choice(['gae', 'td', 'returns'])}"], "advantage"),
        ([f"replay={rng.choice(['nothing', '1', 'null', '[uniform]', 'per'])}"], "replay"),
        (["replay.alpha=0.5"], r"replay\.alpha"),
        ([f"algo.{rng.choice(['clip_eps', 'num_steps', 'num_minibatches', 'ent_coef', 'buffer_size'])}=1"], r"algo\."),
        *([([f"env={other}"], f"algo={algo}")] if algo != "sac" else []),
        *([(["net.share_trunk=true"], r"net\.share_trunk")] if env == "pendulum" else []),
        *([(["net@critic_net=mlp"], "critic_net")] if env == "cartpole" else []),
    ]
    arguments, names = rng.choice(misfits)
    return Case([f"algo={algo}", f"env={env}", *REPLAY, *arguments], names)


def unknown_option(rng: random.Random) -> Case:
    """Return a case with a word that a group, or a key that is one of several words, does not have."""
    words = ("device", "compile", "resume", "policy.log_std", "policy.bounds", "env.backend", "env.vectorization")
    words += ("net.activation", "net.initialization", "algo.standardize_advantages", "objective")
    groups = (*registry.REQUIRED_GROUPS, "replay", "net@critic_net", "experiment", "tuned", "search", "hydra/launcher")
    key = rng.choice([*words, *groups])
    word = rng.choice(["nothing", "ppoo", "Gae", "../ppo", "1", "ppo.yaml", "最初", "a/b"])
    sign = "+" if key in ("experiment",) else ""
    return Case([f"{sign}{key}={word}"], key.partition("@")[0])


def no_override(rng: random.Random) -> Case:
    """Return a case with an argument that is no override, a command that does not exist, or a missing value."""
    argument = rng.choice(
        [
            *("evalute", "trian", "help", "algo", "algo==ppo", "=ppo", "algo:ppo", "seed=[1", "seed={", "net.width=(1"),
            *("seed=1,2", "net.layers=1,2,3", "algo=ppo,a2c", "--bogus", "--seeds=3", "gamma='0.9", "a b=1", "++"),
            *("~algo", "~env", "~seed", "algo=", "env=", "seed=", "algo=null", "env=~", "gamma=???", "seed=${nothing}"),
        ]
    )
    names = re.escape(re.split(r"[=:]", argument.lstrip("+-~"))[0] or argument)
    return Case([argument], names)


def do_not_fit(rng: random.Random) -> Case:
    """Return a case with two parts that do not go together."""
    arguments, names = rng.choice(
        [
            (["algo.num_steps=3", "env.num_envs=1", "algo.num_minibatches=8"], "num_minibatches"),
            (["algo=reinforce", "algo.num_minibatches=2"], "num_minibatches"),
            (["algo=a2c", "algo.clip_eps=0.1"], "clip_eps"),
            (["replay=uniform"], "replay"),
            (["replay.capacity=9"], r"replay\.capacity"),
            (["advantage=none"], "advantage"),
            (["algo.batch_size=8"], r"algo\.batch_size"),
            (["algo=actor_critic", "algo.update_epochs=3"], "update_epochs"),
            (["env=gymnasium"], r"env\.id"),
            (["env=gymnasium", "env.id=Nothing-v0"], r"env\.id"),
            (["env=gymnasium", "env.id=CartPole-v99"], r"env\.id"),
            (["env=gymnasium", "env.id=nowhere:A-v0"], r"env\.id"),
            (["env=gymnasium", "env.id=''"], r"env\.id"),
            (["env=gymnasium", "env.id=[CartPole-v1]"], r"env\.id"),
            (["env=gymnasium", "env.id=FrozenLake-v1", "env.kwargs.map=8x8"], "argument .map."),
            (["env.kwargs.nothing=1"], "argument .nothing."),
            (["env.kwargs=1"], r"env\.kwargs"),
            (["env.kwargs=[1]"], r"env\.kwargs"),
            (["env.backend=envpool"], r"env\.backend|[Ee]nv[Pp]ool"),
            (["env.vectorization=vector", "env.step_timeout=3"], r"env\.(step_timeout|vectorization)"),
            (["env.vectorization=sync", "env.step_timeout=3"], r"env\.step_timeout"),
            (["device=cuda"], "device"),
            (["device=cuda:9"], "device"),
            (["tracker.uri=bogus://x"], r"tracker\.uri"),
            (["tracker.uri=http://127.0.0.1:9"], r"tracker\.uri"),
            (["tracker.uri=sqlite://"], r"tracker\.uri"),
            (["tracker.uri=sqlite:////proc/no/such.db"], r"tracker\.uri"),
            (["tracker.uri=postgresql://u:p@127.0.0.1:9/x"], r"tracker\.uri"),
            (["outputs=/proc/nothing"], "outputs"),
            (["outputs=file/below"], "outputs"),
            (["outputs=file"], "outputs"),
            (["algo.plugin=nothing"], r"algo\.plugin"),
            (["algo.plugin=a2c"], "algo"),
            (["env.plugin=mine"], r"env\.plugin"),
        ]
    )
    return Case(arguments, names, {"file": "no folder"})


def config_file(rng: random.Random) -> Case:
    """Return a case with a config of one's own that cannot be used."""
    group, option = rng.choice([("env", "cartpole"), ("algo", "ppo"), ("net", "mlp"), ("advantage", "gae")])
    good = config_files.files(group, option)[-1].read_text()
    lines = good.splitlines()
    place = rng.randrange(len(lines) + 1)
    bad: str | bytes
    kind = rng.choice(
        ["tab", "bracket", "empty", "list", "latin", "key", "plugin", "defaults", "number", "twice", "yml"]
    )
    match kind:
        case "tab":
            bad = "\n".join([*lines[:place], "extra:\n\tkey: 1", *lines[place:]])
        case "bracket":
            bad = f"{good}\nextra: [1, 2\n"
        case "empty":
            bad = rng.choice(["", "# nothing\n", "\n\n", "null\n"])
        case "list":
            bad = rng.choice(["- 1\n- 2\n", "just words\n", "3\n"])
        case "latin":
            bad = good.encode() + "\n# für\n".encode("latin-1")
        case "key":
            bad = f"{good}\nno_such_parameter: 3\n"
        case "plugin":
            bad = re.sub(r"plugin: \w+", "plugin: no_such_plugin", good)
            if bad == good:
                bad = f"{good}\nplugin: no_such_plugin\n"
        case "defaults":
            bad = f"defaults: [no_such_config, _self_]\n{good}" if "defaults:" not in good else "defaults: 3\n"
        case "number":
            bad = f"{good}\n? [1, 2]\n: 3\n"
        case "twice":
            bad = f"{good}\nplugin: a\nplugin: b\n"
        case _:
            return Case([f"{group}=own"], group, {f"conf/{group}/own.yml": good})
    return Case([f"{group}=own"], rf"own\.yaml|{group}|no_such_parameter", {f"conf/{group}/own.yaml": bad})


def plugin_file(rng: random.Random) -> Case:
    """Return a case with a plugin of one's own that cannot be used."""
    group = rng.choice(["algo", "net", "advantage", "env"])
    root = Path(registry.__file__).parents[1] / "templates" / group
    code, config = (re.sub(r"\bmine\b", "own", (root / name).read_text()) for name in ("plugin.py", "config.yaml"))
    kind = rng.choice(["syntax", "import", "raise", "twice", "missing", "untyped", "unknown", "constructor", "name"])
    match kind:
        case "syntax":
            code += "\n    def broken(:\n"
        case "import":
            code = code.replace("from plexp import", "import no_such_package\nfrom plexp import", 1)
        case "raise":
            code += "\nraise RuntimeError('at import')\n"
        case "twice":
            code += f'\n\n@register("{group}", "own")\nclass Again(Mine):\n    pass\n'
        case "missing":
            config = "plugin: own\n"
        case "untyped":
            code = re.sub(r"(, \*, *|\*,\s+)(\w+): [\w.]+(\[[^]]*\])?", r"\1\2", code, count=1)
        case "unknown":
            config += "no_such_parameter: 1\n"
        case "constructor":
            code = code.replace("        self.", "        {}['width']\n        self.", 1)
        case _:
            code = code.replace(f'@register("{group}", "own")', f'@register("{group}", "Own Name")')
    files = {f"plugins/{group}/own.py": code, f"conf/{group}/own.yaml": config}
    arguments = [f"{group}=own"] if group != "algo" else ["algo=own"]
    keys = r"no_such_parameter|(env|net|algo)\.\w+"  # a key of the config, or one given beside it that it does not have
    return Case(arguments, rf"own|Own|{keys}", files)


def environment(rng: random.Random) -> Case:
    """Return a case with an environment that returns what it should not, or raises."""
    kinds = {"observation": odd_returns.OBSERVATIONS, "step": odd_returns.STEPS, "reset": odd_returns.RESETS}
    kind = rng.choice([*kinds, "raise"])
    name = rng.choice(sorted(kinds[kind])) if kind in kinds else rng.choice(["key", "assert", "exit", "library"])
    method = "reset" if kind == "reset" else "step"
    arguments = [
        "env=gymnasium",
        "env.id=tests.support.odd_returns:plexp-tests/Odd-v0",
        f"env.kwargs.fault='{kind} {name}'",
    ]
    return Case([*arguments, *_vectorization(rng)], method)


def _vectorization(rng: random.Random) -> list[str]:
    number = rng.choice([1, 2, 3])
    minibatches = rng.choice([1, 2])
    how = rng.choice(["sync", "async"])
    scaled = rng.choice(["true", "false"])
    return [
        *(f"env.vectorization={how}", f"env.num_envs={number}", f"algo.num_minibatches={minibatches}"),
        *(f"env.normalize_observations={scaled}", f"env.scale_rewards={rng.choice(['true', 'false'])}"),
    ]


ERRORS = (
    *("ValueError('three')", "KeyError('x')", "RuntimeError('two\\nlines')", "AssertionError", "StopIteration"),
    *("NotImplementedError", "TypeError()", "IndexError('list index out of range')", "OSError(2, 'No such file')"),
    *("ZeroDivisionError", "Exception('π' * 999)", "UnicodeError('é')", "MemoryError", "SystemExit(3)"),
    *("TimeoutError", "ConnectionResetError", "BrokenPipeError", "EOFError", "FileNotFoundError('map.txt')"),
)
RETURNS = (
    *("(1, 2)", "'done'", "[]", "{}", "object()", "self", "float('nan')", "np.zeros((2, 2))", "None", "(None,) * 5"),
    *("(self.state, 1.0, True, {})", "(self.state, 1j, False, False, {})", "(self.state, 1.0, False, False, {}, 0)"),
    *("(self.state + 1j, 1.0, False, False, {})", "(self.state, [[1.0]] * 2, False, False, {})"),
    *("(lambda: 0, 1.0, False, False, {})", "(self.state, 1.0, False, None, {})", "(self.state, 1.0, 'x', False, {})"),
    *("(self.state * float('inf'), 1.0, False, False, {})", "(self.state, float('-inf'), False, False, {})"),
    *("(np.append(self.state, 0), 1.0, False, False, {})", "(self.state, 1.0, False, False, 'info')"),
)
SPACES = (
    *(
        "None",
        "3",
        "spaces.Text(5)",
        "spaces.Graph(spaces.Box(0, 1, (2,)), None)",
        "spaces.Sequence(spaces.Discrete(2))",
    ),
    *("spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)])", "spaces.Dict(a=spaces.Text(4))", "'Box(3)'"),
    *("(spaces.Discrete(2),)", "spaces.Discrete", "spaces.Tuple((spaces.Discrete(2), spaces.Text(3)))"),
)
OWN = """
import gymnasium
import numpy as np
from gymnasium import spaces


class Own(gymnasium.Env):
    observation_space = {observation_space}
    action_space = {action_space}

    def __init__(self, size: int = 3):
        self.state, self.count = np.zeros(3, np.float32), 0
        {constructor}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        {reset}
        return self.state, {{}}

    def step(self, action):
        self.count += 1
        if self.count > {late}:
            {step}
        return self.state, 1.0, False, self.count == 7, {{}}


gymnasium.register("Own-v0", "own_env:Own")
"""


def own_environment(rng: random.Random) -> Case:
    """Return a case with an environment of one's own that is wrong in one method or space."""
    parts = {"observation_space": "spaces.Box(-1, 1, (3,))", "action_space": "spaces.Discrete(2)"}
    parts |= {"constructor": "pass", "reset": "pass", "step": "pass", "late": str(rng.choice([0, 1, 5]))}
    where = rng.choice(["constructor", "reset", "step", "step", "observation_space", "action_space"])
    names = where
    if where.endswith("space"):
        parts[where] = rng.choice(SPACES)
    elif where == "constructor":
        parts[where], names = f"raise {rng.choice(ERRORS)}", r"Own-v0|own_env"
    else:
        wrong = [f"return {value}" for value in RETURNS] if where == "step" else ["return self.state", "return None"]
        parts[where] = rng.choice([*wrong, *(f"raise {error}" for error in ERRORS)])
    if where.endswith("space"):
        names = "observation|action"
    arguments = ["env=gymnasium", "env.id=own_env:Own-v0", *_vectorization(rng)]
    return Case(arguments, names, {"own_env.py": OWN.format(**parts)})


def command(rng: random.Random) -> Case:
    """Return a case with a command that is typed wrongly, in a folder without runs."""
    arguments, names = rng.choice(
        [
            (["film"], "RUN|run"),
            (["film", "best"], "outputs|mlflow.db"),
            (["evaluate", "best", "--outputs", "nowhere"], "nowhere"),
            (["evaluate", "best", "--episodes", "some"], "--episodes"),
            (["film", "last", "--speed", "fast"], "--speed"),
            (["film", "last", "--nothing"], "--nothing"),
            (["film", "last", "--uri", "bogus://x"], "bogus"),
            (["compare", "--by"], "--by"),
            (["compare", "--outputs", "nowhere"], "nowhere"),
            (["compare", "--uri", "http://127.0.0.1:9"], "127.0.0.1:9"),
            (["compare", "--threshold", "nan"], "--threshold"),
            (["export", "best", "--format", "tf"], "--format"),
            (["export"], "RUN|run"),
            (["reproduce", "best"], "outputs|mlflow.db"),
            (["reproduce", "a", "b"], "b"),
            (["replay"], "file"),
            (["replay", "nothing.json"], "nothing.json"),
            (["replay", "file"], "file"),
            (["new", "algo"], "name"),
            (["new", "thing", "mine"], "thing"),
            (["new", "algo", "ppo"], "ppo"),
            (["new", "algo", "class"], "class"),
            (["new", "env", "Große Welt"], "Große Welt"),
            (["plugins", "nothing"], "nothing"),
            (["check", "nothing"], "nothing"),
            (["check"], "name|plugin"),
            (["check", "ppo", "bogus"], "bogus"),
            (["check", "ppo", "algo.nothing=7"], "nothing"),
            (["status", "--outputs", "nowhere"], "nowhere"),
            (["status", "--sweep", "nothing", "--outputs", "."], "nothing|run"),
            (["repair", "--outputs", "nowhere"], "mlflow.db"),
            (["sync", "--uri", "bogus://x"], "bogus"),
            (["ui", "--port", "99999999"], "--port"),
            (["ui", "--outputs", "nowhere"], "nowhere"),
        ]
    )
    return Case(arguments, names, {"file": "no json"})


KINDS: tuple[Callable[[random.Random], Case], ...] = (
    *(unknown_key, wrong_type, out_of_range, replay, unknown_option, no_override, do_not_fit, config_file, plugin_file),
    *(environment, own_environment, own_environment, command),
)


def flaws(case: Case, folder: Path) -> tuple[int, list[str]]:
    """Run a case in a folder, and return its exit status and what is wrong with it."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    is_command = case.arguments[0].isalpha() and not case.names.startswith(case.arguments[0])
    own_algo = any(argument.startswith("algo=") for argument in case.arguments)
    arguments = case.arguments if is_command else [*TINY, *(() if own_algo else PPO), *case.arguments]
    try:
        done = forks.run(arguments, cwd=folder, env={"PYTHONPATH": str(folder)}, seconds=300)
    except TimeoutExpired:
        return -9, ["it does not end"]
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    found = [] if done.returncode in (1, 2) else [f"exit status {done.returncode}"]
    found += [] if 1 <= len(lines) <= MOST_LINES else [f"{len(lines)} lines"]
    found += ["a traceback"] if any("Traceback" in line for line in lines) else []
    found += [] if any(re.search(case.names, line) for line in lines) else [f"it does not name {case.names}"]
    found += [f"a run is {status}" for status in statuses(folder) if status != "FAILED"]
    return done.returncode, found + (lines[-4:] if found else [])


def statuses(folder: Path) -> list[str]:
    """Return the statuses of the runs in a folder, in the record on disk and in MLflow."""
    found = [json.loads(file.read_text())["status"] for file in folder.glob("outputs/state/*/run.json")]
    if (database := folder / "outputs" / "mlflow.db").is_file():
        with closing(sqlite3.connect(database)) as store:
            found += [status for (status,) in store.execute("SELECT status FROM runs")]
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted({kind.__name__ for kind in KINDS}))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds = [kind for kind in KINDS if options.kind in (None, kind.__name__)]
    cases = [kinds[number % len(kinds)](rng) for number in range(options.cases)]
    counts, bad = Counter[int](), 0
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:
        folders = [Path(root) / str(number) for number in range(len(cases))]
        for folder in folders:
            folder.mkdir()
        for case, (status, found) in zip(cases, pool.map(flaws, cases, folders), strict=True):
            counts[status] += 1
            if found:
                bad += 1
                print("BAD", case.arguments, textwrap.indent("\n" + "\n".join(found), "    "), flush=True)
    print(f"{len(cases)} wrong command lines: exit status {dict(counts)}; {bad} not as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
