"""Tests of counts as people write them: 1e5, 1_000, 100k and 1M are integers wherever an integer is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from plexp.config.compose import apply_changes, compose, resolve
from plexp.config.counts import read_count
from plexp.config.identity import identity
from plexp.config.schema import check
from plexp.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "count"),
    [
        *((1e5, 100_000), (2.5e6, 2_500_000), ("100k", 100_000), ("100K", 100_000), ("1.5k", 1_500), ("1M", 1_000_000)),
        *(("1_000k", 1_000_000), (1.0, None), (1e-3, None), (12.5, None), ("1.2345k", None), ("k", None), ("", None)),
        *(("-1k", None), ("1kM", None), (True, None), (None, None), (float("inf"), None), (float("nan"), None)),
    ],
)
def test_counts_are_read_exactly_or_not_at_all(written: object, count: int | None) -> None:
    assert read_count(written) == count


@pytest.mark.parametrize("written", ["1e5", "1E5", "1e+5", "100_000", "100k", "0.1M"])
def test_a_count_is_the_same_run_however_it_is_written(written: str) -> None:
    values = resolve(compose(f"total_timesteps={written}"))
    plain = resolve(compose("total_timesteps=100000"))
    assert values == plain and type(values["total_timesteps"]) is int and identity(values) == identity(plain)


def test_counts_are_read_in_every_section() -> None:
    keys = (
        "total_episodes evaluation.every checkpoint.every tracker.every env.num_envs env.total_timesteps algo.num_steps"
    )
    overrides = [f"{key}=1.28k" for key in keys.split()]
    values = resolve(
        compose(
            *overrides,
            "callbacks=[patience]",
            "callbacks.patience.evaluations=1e1",
            "net@critic_net=mlp",
            "critic_net.width=1e2",
        )
    )
    check(values)
    for key in keys.split():
        section: Any = values
        for part in key.split("."):
            section = section[part]
        assert section == 1_280 and type(section) is int
    assert values["callbacks"]["patience"]["evaluations"] == 10 and values["critic_net"]["width"] == 100
    assert apply_changes({"env": values["env"]}, ["env.max_episode_steps=1e3"])["env"]["max_episode_steps"] == 1_000


def test_floats_and_texts_stay_what_they_are() -> None:
    values = resolve(
        compose("env.solved_return=1e2", "env.random_return=-20.0", "outputs=100k", "+env.kwargs.gravity=10.0")
    )
    assert isinstance(values["env"]["solved_return"], float) and values["outputs"] == "100k"
    assert isinstance(values["env"]["kwargs"]["gravity"], float)


@pytest.mark.parametrize("written", ["1.5", "1e-3", "100q", "1.00001k", "-1e5"])
def test_what_is_no_count_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match=r"^total_timesteps=.*: must be .*; give int > 0"):
        check(resolve(compose(f"total_timesteps={written}")))
