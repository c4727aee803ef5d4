"""Tests of episodes that do not end: evaluations cut them off and count them, updates that need whole ones stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rich.console import Console

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.envs.vector import SerialVectorEnv, SubprocessVectorEnv
from plexp.errors import TrainingError
from plexp.execution.callbacks.default import default_callbacks
from plexp.training.evaluation import StepLimit, evaluate
from plexp.training.progress import TrainingProgress
from tests.support.environments import QUIET

ID = "plexp-tests/Endless-v0"
SETTINGS = (f"env.id={ID}", "env.num_envs=2", *QUIET)
SEEDS = EpisodeSeeds(2, (4, 0))
LIMIT = 7


class Problem:
    """Environment plugin whose episodes never end by chance, in each way of stepping several environments."""

    label = "endless"

    def __init__(self, way: str, share: float) -> None:
        self.way, self.share, self.made = way, share, []

    def make(self, num_envs: int, episode_seed: EpisodeSeeds) -> Any:
        makers = [partial(self.one, i, episode_seed) for i in range(num_envs)]
        modes = {"same step": AutoresetMode.SAME_STEP, "next step": AutoresetMode.NEXT_STEP}
        if self.way in modes:
            env: Any = SyncVectorEnv(makers, autoreset_mode=modes[self.way])
        else:
            env = SerialVectorEnv(makers) if self.way == "serial" else SubprocessVectorEnv(makers)
        self.made.append(env)
        return env

    def one(self, index: int, episode_seed: EpisodeSeeds) -> gymnasium.Env[Any, Any]:
        return SeededEpisodes(gymnasium.make(ID, share=self.share, disable_env_checker=True), index, episode_seed)


@pytest.mark.parametrize("way", ["serial", "subprocess", "same step", "next step"])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_an_evaluation_cuts_endless_episodes_off_and_counts_them(
    way: str, share: float, build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    problem, episodes = Problem(way, share), 32
    with caplog.at_level(logging.WARNING, "plexp"):
        result = evaluate(build(*SETTINGS).agent, problem, SEEDS, episodes, limit=StepLimit(LIMIT))
    expected = []
    for index in range(10):
        for number in range(len(range(index, episodes, 10))):
            env = gymnasium.make(ID, share=share)
            env.reset(seed=SEEDS(index, number))
            expected.append(LIMIT if env.unwrapped.never_ends else 3)  # type: ignore[attr-defined]
    assert result.lengths.tolist() == expected and result.returns.tolist() == expected
    assert result.num_cut_off == expected.count(LIMIT) > 3 and (share == 1.0 or 3 in expected)
    assert all(env.closed for env in problem.made)
    (warning,) = caplog.messages
    assert warning.startswith(f"evaluation.max_steps={LIMIT}: an evaluation episode has not ended by then")


def test_an_episode_that_ends_at_the_limit_is_whole(build: Callable[..., Any]) -> None:
    result = evaluate(build(*SETTINGS).agent, Problem("serial", 0.0), SEEDS, 12, limit=StepLimit(3))
    assert result.lengths.tolist() == [3] * 12 and result.num_cut_off == 0


def test_episodes_that_are_cut_off_can_be_resimulated(build: Callable[..., Any]) -> None:
    result = evaluate(build(*SETTINGS).agent, Problem("serial", 0.4), SEEDS, 32, limit=StepLimit(LIMIT))
    assert result.played is not None and len(result.played) == 32
    seeds = [SEEDS(index, number) for index in range(10) for number in range(len(range(index, 32, 10)))]
    assert [episode.seed for episode in result.played] == seeds
    for episode, total, length in zip(result.played, result.returns, result.lengths, strict=True):
        env = gymnasium.make(ID, share=0.4)
        env.reset(seed=episode.seed)
        assert sum(float(env.step(action)[1]) for action in episode.actions) == total == length


def test_a_run_ends_and_records_how_many_episodes_were_cut_off(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    sizes = ("total_timesteps=40", "evaluation.every=20", "evaluation.episodes=3", "evaluation.final_episodes=5")
    experiment = build(*SETTINGS, "algo=a2c", f"evaluation.max_steps={LIMIT}", *sizes)
    logged: dict[str, float] = {}
    callbacks = default_callbacks(
        experiment, lambda row, step: logged.update(row), lambda tags: None, Console(quiet=True)
    )
    with caplog.at_level(logging.WARNING, "plexp"):
        experiment.trainer.run(list(callbacks), TrainingProgress())
    assert (logged["eval/cut_off"], logged["eval/final_cut_off"], logged["eval/final_return"]) == (3, 5, LIMIT)
    assert len(caplog.messages) == 1, "one warning for all evaluations of a run"


def test_without_cut_off_episodes_no_such_metric_is_logged(build: Callable[..., Any]) -> None:
    sizes = ("total_timesteps=20", "evaluation.every=20", "evaluation.final_episodes=2", "+env.kwargs.share=0.0")
    experiment, logged = build(*SETTINGS, "algo=a2c", *sizes), {}
    callbacks = default_callbacks(
        experiment, lambda row, step: logged.update(row), lambda tags: None, Console(quiet=True)
    )
    experiment.trainer.run(list(callbacks), TrainingProgress())
    assert not [name for name in logged if "cut_off" in name]


@pytest.mark.parametrize("learner", [("algo=reinforce",), ("algo=a2c", "advantage=returns", "algo.num_steps=8")])
@pytest.mark.parametrize("limit", [20, 200])
def test_updates_that_need_whole_episodes_end_a_run_whose_episode_does_not_end(
    learner: tuple[str, ...], limit: int, build: Callable[..., Any]
) -> None:
    experiment = build(*learner, *SETTINGS, f"max_rollout_steps={limit}")
    with pytest.raises(TrainingError) as raised:
        experiment.trainer.iterate(TrainingProgress())
    line = (
        f"max_rollout_steps={limit}: the episode of environment 0 has not ended, and the updates need whole episodes; "
    )
    assert str(raised.value) == line + (
        "give env.max_episode_steps for a time limit, or algo=a2c or ppo with advantage=gae"
    )


def test_an_episode_as_long_as_the_limit_of_rollouts_is_learnt_from(build: Callable[..., Any]) -> None:
    limits = ("env.max_episode_steps=20", "max_rollout_steps=20")
    experiment, progress = build("algo=reinforce", *SETTINGS, *limits), TrainingProgress()
    experiment.trainer.iterate(progress)
    assert progress.steps == 40 and np.isfinite(list(progress.metrics.values())).all()
