"""Every pair of options, over all groups, trains two updates or is refused in one line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plexp.errors import ConfigError
from plexp.training.progress import TrainingProgress

Build = Callable[..., Any]
TINY = ("env.num_envs=2", "net.width=8", "compile=false", "tuned=none")
ROLLOUTS = ("algo.num_steps=8", "algo.num_minibatches=2")
BUFFER = ("algo.learning_starts=16", "algo.batch_size=4", "algo.train_every=8", "algo.gradient_steps=2")
ALGOS = {
    "reinforce": (),
    "actor_critic": (),
    "a2c": (),
    "ppo": ROLLOUTS,
    **{name: BUFFER for name in ("dqn", "qr_dqn", "sac", "td3", "ddpg")},
}
SEES = (
    "box",
    "image",
    "small image",
    "discrete",
    "dict",
    "tuple",
    "pictures",
    "masks in info",
    "masks in observations",
)
ACTS = ("discrete", "multidiscrete", "multibinary", "box", "halves", "few integers", "mixed")
AXES: dict[str, tuple[str, ...]] = {
    "algo": tuple(ALGOS),
    "net": ("mlp", "cnn", "multi", "gru", "lstm", "gru cnn", "lstm multi"),
    "sees": SEES,
    "acts": ACTS,
    "advantage": ("usual", "q", "returns", "vtrace"),
    "share_trunk": ("false", "true"),
    "normalize": ("true", "false"),
    "replay": ("usual", "prioritized"),
    "bounds": ("clip", "tanh"),
    "vectorization": ("sync", "sync", "async"),
    "frames": ("null", "null", "3"),
}


def pairwise(axes: dict[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """Yield combinations that have each pair of values of two axes at least once, by taking the most new pairs each time."""
    left = {
        frozenset({(one, x), (other, y)})
        for one, other in itertools.combinations(axes, 2)
        for x in axes[one]
        for y in axes[other]
    }
    while left:
        first = min(sorted(pair) for pair in left)
        chosen = dict(first)
        for axis, values in axes.items():
            if axis not in chosen:
                gains = {
                    value: sum(frozenset({(axis, value), each}) in left for each in chosen.items()) for value in values
                }
                chosen[axis] = max(gains, key=lambda value: gains[value])
        left -= {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
        yield chosen


def overrides_of(chosen: dict[str, str]) -> tuple[str, ...]:
    """Return the command line of a combination."""
    algo, sees = chosen["algo"], chosen["sees"]
    masked = sees.startswith("masks")
    tests = "env.id=tests.support.environments:plexp-tests"
    if masked:
        where = sees.split()[-1].removesuffix("s")
        pair = str(chosen["acts"] == "multidiscrete").lower()
        source = where if where == "info" else "observation"
        problem = [f"{tests}/Doors-v0", f"env.action_mask={source}", f"+env.kwargs.masks={source}"]
        problem += ["+env.kwargs.doors=5", f"+env.kwargs.pair={pair}"]
    else:
        problem = [f"{tests}/Any2Any-v0", f"+env.kwargs.sees={sees}", f"+env.kwargs.acts={chosen['acts']}"]
    is_replay = ALGOS[algo] == BUFFER
    net, _, encoder = chosen["net"].partition(" ")
    network = [
        f"net={net}",
        *([f"net.encoder={encoder}"] if encoder else []),
        f"net.share_trunk={chosen['share_trunk']}",
    ]
    extra = [*([] if chosen["advantage"] == "usual" else [f"advantage={chosen['advantage']}"])]
    extra += [f"replay={chosen['replay']}"] if chosen["replay"] != "usual" and is_replay else []
    extra += [f"policy.bounds={chosen['bounds']}"] if not is_replay else []
    return (
        *("env=gymnasium", *problem, f"env.vectorization={chosen['vectorization']}"),
        *(f"algo={algo}", *ALGOS[algo], *network, *TINY),
        *(f"env.normalize_observations={chosen['normalize']}", f"env.frame_stack={chosen['frames']}"),
        *("env.max_episode_steps=6", *extra),
    )


COMBINATIONS = list(pairwise(AXES))


def test_all_pairs_are_there() -> None:
    seen = {frozenset(pair) for each in COMBINATIONS for pair in itertools.combinations(each.items(), 2)}
    expected = sum(len({*AXES[one]}) * len({*AXES[other]}) for one, other in itertools.combinations(AXES, 2))
    assert len(seen) == expected and len(COMBINATIONS) < 200


TAKES = {"dqn": ("discrete",), "qr_dqn": ("discrete",), "sac": ("discrete", "box"), "td3": ("box",), "ddpg": ("box",)}
"""Actions that an algorithm takes, if not all."""
USUAL = {axis: values[0] for axis, values in AXES.items()}
KINDS = [
    USUAL
    | {"algo": algo, "net": net, "sees": sees, "acts": acts[i % len(acts)]}
    | {"normalize": str("image" not in sees).lower(), "share_trunk": str(net == "cnn" and algo not in TAKES).lower()}
    for algo in ALGOS
    for acts in [TAKES.get(algo, ACTS)]
    for i, (net, sees) in enumerate(itertools.product(("mlp", "cnn", "multi", "gru", "lstm multi"), SEES))
]


def learns(chosen: dict[str, str], build: Build) -> bool:
    """Return whether a combination trains two updates and more; False if it is refused in one line for each problem."""
    try:
        experiment = build(*overrides_of(chosen))
    except ConfigError as refusal:
        lines = [str(problem) for problem in refusal.problems]
        assert lines and all("\n" not in line and 10 < len(line) < 400 for line in lines), lines
        return False
    with experiment:
        progress = TrainingProgress()
        while progress.updates < 3 or progress.steps < 32:
            experiment.trainer.iterate(progress)
    return True


@pytest.mark.parametrize("chosen", COMBINATIONS, ids=lambda chosen: " ".join(chosen.values()))
def test_a_combination_learns_or_is_refused_in_one_line(chosen: dict[str, str], build: Build) -> None:
    learns(chosen, build)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", KINDS, ids=lambda chosen: " ".join(list(chosen.values())[:4]))
def test_every_algorithm_learns_with_every_network_from_what_both_take(chosen: dict[str, str], build: Build) -> None:
    algo, net, sees = chosen["algo"], chosen["net"], chosen["sees"]
    is_masked, is_image = sees.startswith("masks"), sees in ("image", "small image")
    has_parts = is_masked or sees in ("dict", "tuple", "pictures")
    remembers = algo not in ("sac", "td3", "ddpg")
    fits = {"mlp": True, "cnn": sees == "image", "multi": has_parts, "gru": remembers}.get(net, has_parts and remembers)
    if is_masked:
        fits &= algo not in ("td3", "ddpg")
    elif algo in TAKES and chosen["acts"] == "box":
        fits &= net != "multi" and not is_image
    assert learns(chosen, build) is fits
