"""Tests of the trainer: its loop, runs that the seed determines, and policies and values that are known."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plexp.envs.episodes import Episode
from plexp.execution.callbacks.evaluator import Evaluator
from plexp.nn.normalization import ObservationNormalizer
from plexp.training import batches as batch
from plexp.training.evaluation import StepLimit, evaluate
from plexp.training.progress import TrainingProgress
from plexp.training.trainer import Trainer
from tests.support.environments import QUIET, Bandit, Chain, Cycle

VALUES = ("algo.anneal_learning_rate=false", "algo.max_grad_norm=null", "algo.vf_coef=1.0", *QUIET)


class Script:
    """Collector, algorithm and callback that follow a script: valid steps and finished episodes of each iteration."""

    bounds = None

    def __init__(self, steps: list[int], episodes: list[int] | None = None, broken_at: int | None = None) -> None:
        self.steps, self.ended, self.broken_at = steps, episodes or [0] * len(steps), broken_at
        self.seen: list[str] = []
        self.progress: list[float] = []

    def collect(self) -> Any:
        valid = torch.arange(self.steps[0] + 3)[:, None] < self.steps[0]  # three rows that are not valid
        self.episodes = [Episode(1.0, 2)] * self.ended.pop(0)
        observations = torch.where(valid, 1.0, 1000.0)[..., None]
        self.seen.append("collect")
        return SimpleNamespace(earlier=None, observations=observations, valid=valid, num_valid=self.steps.pop(0))

    def update(self, rollout: Any, progress: float) -> dict[str, float]:
        self.progress.append(progress)
        self.seen.append("update")
        if len(self.progress) == self.broken_at:
            raise ValueError("broken")
        return {"policy_loss": 1.0}

    def on_start(self, progress: TrainingProgress) -> None:
        self.seen.append("start")

    def on_iteration(self, progress: TrainingProgress) -> None:
        self.seen.append(f"iteration {progress.updates}: {progress.steps} steps {progress.episodes} episodes")
        assert progress.metrics == {"policy_loss": 1.0}

    def on_end(self, progress: TrainingProgress) -> None:
        self.seen.append("end")


def run(
    script: Script, total_timesteps: int, total_episodes: int | None = None, normalizer: Any = None
) -> TrainingProgress:
    reader = SimpleNamespace(update=normalizer and normalizer.update)
    agent: Any = SimpleNamespace(normalizer=normalizer, reader=reader)
    limits = {"total_timesteps": total_timesteps, "total_episodes": total_episodes}
    return Trainer(agent, script, script, **limits).run([script])  # type: ignore[arg-type]


def test_it_collects_updates_and_calls_back_until_the_steps_are_used_up() -> None:
    script = Script([30, 40, 40, 99], [1, 0, 2, 9])
    progress = run(script, 100)
    assert script.seen == [
        *("start", "collect", "update", "iteration 1: 30 steps 1 episodes"),
        *("collect", "update", "iteration 2: 70 steps 1 episodes"),
        *("collect", "update", "iteration 3: 110 steps 3 episodes", "end"),
    ]
    assert script.progress == [0.0, 0.3, 0.7], "the share of the budget that was used up before the rollout"
    assert (progress.steps, progress.episodes, progress.updates, progress.fraction) == (110, 3, 3, 1.0)


def test_whichever_of_steps_and_episodes_is_reached_first_ends_the_training() -> None:
    script = Script([10] * 9, [1] * 9)
    assert run(script, 1000, total_episodes=4).episodes == 4
    assert script.progress == [0.0, 0.25, 0.5, 0.75]
    assert run(Script([10] * 9, [1] * 9), 20, total_episodes=4).steps == 20


def test_a_callback_can_end_the_training_even_before_it_begins() -> None:
    class Solved(Script):
        def on_start(self, progress: TrainingProgress) -> None:
            progress.stopped = True

    script = Solved([10])
    run(script, 100)
    assert script.seen == ["end"]


def test_on_end_is_not_called_if_a_run_fails() -> None:
    script = Script([10] * 9, broken_at=2)
    with pytest.raises(ValueError, match="broken"):
        run(script, 100)
    assert script.seen[-1] == "update" and "end" not in script.seen


def test_the_normaliser_learns_from_valid_rows_only_after_the_update() -> None:
    normalizer = ObservationNormalizer((1,))

    class Watching(Script):
        def update(self, rollout: Any, progress: float) -> dict[str, float]:
            counts.append(float(normalizer.count))
            return super().update(rollout, progress)

    counts: list[float] = []
    run(Watching([10, 10]), 20, normalizer=normalizer)
    assert counts == [0.0, 10.0]
    assert normalizer.count == 20 and normalizer.mean == 1.0 and normalizer.var == 0.0


def trained(build: Callable[..., Any], *overrides: str, evaluate_every: int | None = None) -> tuple[Any, list[Any]]:
    """Train a short run; return its weights, and a log of every update and of the last evaluation."""
    experiment = build("total_timesteps=192", "env.num_envs=2", "net.width=8", *overrides)
    logged: list[Any] = []

    class Listener(Script):
        def on_iteration(self, progress: TrainingProgress) -> None:
            logged.append((progress.steps, dict(progress.metrics), list(progress.finished)))

    def play(index: int, episodes: int) -> Any:
        return evaluate(
            experiment.agent,
            experiment.environment,
            experiment.streams.evaluation(index),
            episodes,
            limit=StepLimit(None),
        )

    settings: dict[str, Any] = {"episodes": 3, "final_episodes": 3, "solved_return": None, "stop_when_solved": False}
    evaluator = Evaluator(
        play, lambda metrics, step: None, every=evaluate_every, profile=experiment.trainer.profile, **settings
    )
    experiment.trainer.run([Listener([]), evaluator])
    return {name: tensor.clone() for name, tensor in experiment.agent.state_dict().items()}, [
        *logged,
        evaluator.final.returns.tolist(),  # type: ignore[union-attr]
    ]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


RUNS = {
    "ppo": ("algo.num_steps=32", "algo.num_minibatches=4", "algo.update_epochs=2"),
    "a2c with Q(s, a)": ("algo=a2c", "env=pendulum", "advantage=q", "algo.num_steps=32"),
    "reinforce": ("algo=reinforce", "env.max_episode_steps=30"),
    "vtrace with replay": ("algo=a2c", "advantage=vtrace", "algo.replay_rollouts=2", "algo.num_steps=16"),
}


@pytest.mark.parametrize("case", RUNS)
def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_does_not(
    case: str, build: Callable[..., Any]
) -> None:
    first, log = trained(build, *RUNS[case], "seed=3")
    torch.manual_seed(99)  # the state of torch's generator does not matter
    again, log_again = trained(build, *RUNS[case], "seed=3")
    other, log_other = trained(build, *RUNS[case], "seed=4")
    assert same(first, again) and log == log_again
    assert not same(first, other) and log != log_other


@pytest.mark.parametrize("case", ["ppo", "a2c with Q(s, a)"])
def test_the_interval_of_evaluations_does_not_change_the_training(case: str, build: Callable[..., Any]) -> None:
    never, log = trained(build, *RUNS[case])
    often, log_often = trained(build, *RUNS[case], evaluate_every=50)
    assert same(never, often) and log[:-1] == log_often[:-1]


def test_environments_in_subprocesses_give_the_same_run(build: Callable[..., Any]) -> None:
    serial, log = trained(build, *RUNS["ppo"])
    subprocess, log_subprocess = trained(build, *RUNS["ppo"], "env.vectorization=async")
    assert same(serial, subprocess) and log == log_subprocess


ALGORITHMS = {
    "reinforce": (150, "env.num_envs=8"),
    "actor_critic": (700, "env.num_envs=1"),
    "a2c": (150, "env.num_envs=8"),
    "ppo": (20, "env.num_envs=8", "algo.num_steps=16", "algo.num_minibatches=2"),
}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_finds_the_best_arm(algo: str, build: Callable[..., Any], train: Callable[..., Any]) -> None:
    updates, *sizes = ALGORITHMS[algo]
    rates = ("algo.learning_rate=1e-2", "algo.anneal_learning_rate=false")
    experiment = build(f"algo={algo}", "env.id=plexp-tests/Bandit-v0", *rates, *sizes, *QUIET)
    agent = experiment.agent
    before = agent.distribution.probabilities(agent.policy(torch.ones(1, 1)))[0]
    assert before.max() < 0.3, "it begins undecided"
    train(experiment, updates)
    after = agent.distribution.probabilities(agent.policy(torch.ones(1, 1)))[0]
    assert after.argmax() == max(range(4), key=Bandit.ARMS.__getitem__) and after.max() > 0.95


CRITICS = {"gae": 0.01, "td": 0.1, "n_step": 0.01, "vtrace": 0.01, "baseline": 0.01, "q": 0.1, "q_baseline": 0.1}
"""Tolerance of each estimator's critic; one-step targets spread slowly, and Q has more to learn."""


def learnt_values(experiment: Any, state: int) -> torch.Tensor:
    """Return V of a one-hot state wherever a rollout met it; with a Q critic Σ π Q."""
    rollout = experiment.agent.evaluate_trajectory(experiment.trainer.collector.collect())
    return rollout.values[rollout.observations[..., state] == 1]


def with_trained_critic(
    problem: tuple[str, ...], advantage: str, build: Callable[..., Any], train: Callable[..., Any]
) -> Any:
    """Return an experiment after 250 updates of the critic; its policy is kept random, for Q to meet every action."""
    sizes = ("env.num_envs=2", "algo.num_steps=12", "algo.learning_rate=2e-2", "algo.ent_coef=0.1")
    experiment = build("algo=a2c", f"advantage={advantage}", *problem, *sizes, *VALUES)
    train(experiment, 250)
    return experiment


@pytest.mark.parametrize("advantage", CRITICS)
def test_the_critic_learns_the_values_of_a_chain(
    advantage: str, build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    experiment = with_trained_critic(("env.id=plexp-tests/Chain-v0", "gamma=0.9"), advantage, build, train)
    learnt = torch.stack([learnt_values(experiment, state).mean() for state in range(5)])
    torch.testing.assert_close(learnt, torch.tensor(Chain.values(0.9)), rtol=0, atol=CRITICS[advantage])


@pytest.mark.parametrize("advantage", ["gae", "td", "n_step", "vtrace"])
def test_truncated_episodes_are_bootstrapped_from_their_own_last_state(
    advantage: str, build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    experiment = with_trained_critic(("env.id=plexp-tests/Cycle-v0", "gamma=0.5"), advantage, build, train)
    learnt = torch.stack([learnt_values(experiment, state).mean() for state in range(3)])
    torch.testing.assert_close(learnt, torch.tensor(Cycle.values(0.5)), rtol=0, atol=0.05)


@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.9)), (True, (1 - 0.9**5) / (1 - 0.9))])
def test_a_time_limit_is_bootstrapped_and_a_termination_is_not(
    terminates: bool, expected: float, build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    """Each step pays 1: V is 1/(1 − γ) if truncated after 5 steps, and (1 − γ⁵)/(1 − γ) if the episode ends there."""
    problem = ("env.id=plexp-tests/Constant-v0", f"+env.kwargs.terminates={terminates}", "gamma=0.9")
    experiment = with_trained_critic(problem, "gae", build, train)
    assert float(learnt_values(experiment, 0).mean()) == pytest.approx(expected, abs=0.2)


class Clock:
    """Clock that stands still except during slow calls, and counts the seconds of each activity."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.spent, self.patch = 0.0, Counter[str](), monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def takes(self, seconds: int, what: str) -> None:
        self.now += seconds
        self.spent[what] += seconds

    def slows(self, owner: Any, name: str, seconds: int, what: str) -> None:
        """Make calls of `owner.name` take this many seconds from now on."""
        done = getattr(owner, name)

        def slow(*args: Any, **options: Any) -> Any:
            self.takes(seconds, what)
            return done(*args, **options)

        self.patch.setattr(owner, name, slow)


@pytest.mark.parametrize("algo", ["ppo", "reinforce", "a2c"])
def test_the_profile_accounts_for_all_time(
    algo: str, build: Any, small: Any, compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second counts for one activity; a run's are those of training; callbacks are tracking or evaluation."""
    long_episodes = {"env__max_episode_steps": 100}  # episodes end at different times, so that environments are reset
    experiment = build(small(compose(f"algo={algo}"), total_timesteps=100, **long_episodes))
    trainer, profile = experiment.trainer, experiment.trainer.profile
    profile.load_state_dict(dict.fromkeys(vars(profile), 0.0))  # what building took
    clock = Clock(monkeypatch)
    for name in ("step", "reset"):
        clock.slows(trainer.collector.adapter, name, 1, "environment")
    clock.slows(trainer.policy, "act", 10, "acting")
    clock.slows(trainer.policy, "evaluate_trajectory", 100, "estimating")
    clock.slows(batch, "_estimate", 1000, "estimating")
    clock.slows(batch.RowBatch, "minibatches", 10_000, "updating")

    class Slow:
        def on_start(self, progress: TrainingProgress) -> None:
            clock.takes(100_000, "tracking")

        def on_iteration(self, progress: TrainingProgress) -> None:
            clock.takes(200_000, "tracking")
            began = profile.start()
            clock.takes(400_000, "evaluation")
            profile.stop("evaluation", began)

        def on_end(self, progress: TrainingProgress) -> None: ...

    progress = trainer.run([Slow()])
    assert {name: seconds for name, seconds in vars(profile).items() if seconds} == clock.spent
    training = ("environment", "acting", "estimating", "updating")
    assert progress.seconds == sum(clock.spent[name] for name in training) and all(
        clock.spent[name] for name in training
    )
