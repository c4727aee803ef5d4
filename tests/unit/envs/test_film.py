"""Tests of films: which episodes are re-simulated, that they match the recorded ones, and what cannot be filmed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from plexp.plugins.env.gymnasium import GymnasiumEnvironment

from plexp.envs import video as camera
from plexp.envs.episodes import PlayedEpisode
from plexp.envs.film import extremes, film, with_frames
from plexp.envs.seeding import EpisodeSeeds
from plexp.envs.vector import SerialVectorEnv
from plexp.envs.video import Frame, Title
from plexp.errors import ConfigError
from plexp.execution.callbacks.films import EvaluationFilms
from plexp.training.evaluation import EvaluationResult, StepLimit, evaluate

SETTINGS: dict[str, Any] = {
    "kwargs": {},
    "max_episode_steps": None,
    "num_envs": 2,
    "backend": "gymnasium",
    "vectorization": "sync",
    "step_timeout": None,
    "observed": None,
    "frame_stack": None,
    "action_mask": "auto",
    "normalize_observations": False,
    "scale_rewards": False,
    "solved_return": None,
}
SEEDS = EpisodeSeeds(0, (9,))


class Screen(gymnasium.Env[Any, Any]):
    """Environment of seven steps: the reward is the action plus a constant of the seed, brightness shows the step."""

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, fault: str = "") -> None:
        self.render_mode, self.fault = render_mode, fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.luck = 0, float(self.np_random.normal())
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.full(1, self.time, np.float32), int(action) + self.luck, self.time == 7, False, {}

    def render(self) -> Any:
        if self.fault == "package":
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install pygame`")
        if self.fault == "floats":
            return np.zeros((5, 6, 3))
        return None if self.fault == "nothing" else np.full((60, 80, 3), 30 * self.time, np.uint8)


gymnasium.register("plexp-tests/Screen-v0", Screen)


def problem(id: str = "plexp-tests/Screen-v0", **changes: Any) -> GymnasiumEnvironment:
    return GymnasiumEnvironment(**{**SETTINGS, "id": id, **changes})


def filmable(environment: Any, **config: Any) -> Any:
    return with_frames(environment, {"plugin": "gymnasium", "id": getattr(environment, "id", "x"), **config})


def played(seed: int = 3, actions: Any = (1, 0, 1, 1, 0, 0, 1), wrong: float = 0.0) -> PlayedEpisode:
    luck = float(np.random.default_rng(seed).normal())
    return PlayedEpisode(seed, np.array(actions, np.uint8), sum(actions) + len(actions) * luck + wrong)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Frame], float, Title]]:
    """Return a list that collects each film's frames, rate and title."""
    found: list[tuple[list[Frame], float, Title]] = []
    record = camera.record

    def spied(frames: Any, count: int, rate: float, title: Title, stem: Path) -> Any:
        found.append((list(frames), rate, title))
        assert len(found[-1][0]) == count
        return record(iter(found[-1][0]), count, rate, title, stem)

    monkeypatch.setattr(camera, "record", spied)
    return found


def test_a_film_shows_start_every_step_and_the_end_with_the_return_so_far(recorded: list[Any], tmp_path: Path) -> None:
    episode = played()
    made = film(filmable(problem()), episode, "a title", tmp_path / "name")
    ((frames, rate, title),) = recorded
    assert [int(m.pixels.mean()) for m in frames] == [30 * t for t in range(8)], (
        "the last one is the end, not a new start"
    )
    assert [m.step for m in frames] == list(range(8)) and rate == 10.0 and title == Title("a title")
    luck = float(np.random.default_rng(3).normal())
    expected = np.concatenate([[0.0], np.cumsum(episode.actions + luck)])
    np.testing.assert_allclose([m.total_reward for m in frames], expected)
    assert made.warning == "" and made.total_reward == pytest.approx(episode.total_reward)
    assert [file.name for file in made.files] == ["name.mp4", "name.gif"] and all(f.exists() for f in made.files)


def test_a_fast_film_leaves_out_steps_but_never_the_end(recorded: list[Any], tmp_path: Path) -> None:
    film(filmable(problem()), played(), "", tmp_path / "name", speed=9.0)
    ((frames, rate, _),) = recorded
    assert [m.step for m in frames] == [0, 3, 6, 7] and rate == pytest.approx(10 * 9 / 3)
    film(filmable(problem()), played(), "", tmp_path / "name", speed=0.5)
    assert len(recorded[1][0]) == 8 and recorded[1][1] == 5.0


@pytest.mark.parametrize(("actions", "end"), [((1, 0, 1), 3), ((1,) * 9, 7)])
def test_an_episode_that_differs_from_the_recorded_one_says_so_in_its_caption(
    actions: tuple[int, ...], end: int, recorded: list[Any], tmp_path: Path
) -> None:
    made = film(filmable(problem()), played(actions=actions, wrong=2.0), "", tmp_path / "name")
    ((frames, _, title),) = recorded
    assert frames[-1].step == end, "it ends where the environment or the recording does"
    assert made.warning == title.warning
    recorded_return = played(actions=actions, wrong=2.0).total_reward
    assert made.warning == f"not the recorded episode: return {made.total_reward:.1f}, recorded {recorded_return:.1f}"


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([3, 1, 2], {"best": 0, "median": 2, "worst": 1}),
        ([4, 1, 2, 3], {"best": 0, "median": 2, "worst": 1}),
        ([5, 5, 5], {"best": 2, "median": 1, "worst": 0}),
        ([2, 1], {"best": 0, "worst": 1}),
        ([7], {"best": 0}),
    ],
)
def test_best_median_and_worst_are_distinct_episodes_even_with_equal_returns(
    returns: list[float], expected: dict[str, int]
) -> None:
    indices = extremes(np.array(returns, np.float64))
    assert indices == expected and list(indices) == list(expected)


NO_RGB, NO_FRAME = "films need an environment with rgb_array", "give another environment, or no films"
MISSING = "(DependencyNotInstalled: pygame is not installed, run `pip install pygame`)"
REFUSED = {
    "Blind-v0": ({}, f": its render modes are ansi; {NO_RGB}"),
    "Counter-v0": ({}, f": its render modes are none; {NO_RGB}"),
    "Screen-v0 package": ({"fault": "package"}, f" {MISSING}; {NO_FRAME}"),
    "Screen-v0 nothing": (
        {"fault": "nothing"},
        f": it renders object [], not uint8 [H, W, 3]; {NO_FRAME}",
    ),
    "Screen-v0 floats": (
        {"fault": "floats"},
        f": it renders float64 [5, 6, 3], not uint8 [H, W, 3]; {NO_FRAME}",
    ),
}


class Blind(Screen):
    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012


gymnasium.register("plexp-tests/Blind-v0", Blind)


@pytest.mark.parametrize("case", REFUSED)
def test_an_environment_that_cannot_be_filmed_is_refused_in_one_line(case: str) -> None:
    kwargs, message = REFUSED[case]
    id = f"plexp-tests/{case.partition(' ')[0]}"
    with pytest.raises(ConfigError) as refused:
        filmable(problem(id, kwargs=kwargs))
    assert str(refused.value) == f"env.id={id}: it cannot be filmed{message}"


def test_a_plugin_without_films_is_refused_in_one_line() -> None:
    class Plain:
        """Environment plugin without `with_frames`."""

    with pytest.raises(ConfigError) as refused:
        with_frames(Plain(), {"plugin": "mine"})  # type: ignore[arg-type]
    expected = "env=mine: it cannot be filmed: it has no method with_frames; see Filmable in plexp/envs/environment.py"
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    "changes",
    [{"backend": "envpool"}, {"vectorization": "async", "step_timeout": 9.0}, {"kwargs": {"render_mode": "ansi"}}],
    ids=str,
)
def test_films_are_made_by_gymnasium_in_this_process_whatever_the_training_uses(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    environment = problem(**changes)
    before = dict(vars(environment))
    found = filmable(environment)
    assert vars(environment) == before, "the environment of the training is unchanged"
    env = found.make(2, SEEDS)
    assert isinstance(env, SerialVectorEnv) and env.render_mode == "rgb_array"
    assert film(found, played(), "", tmp_path / "name").warning == ""
    env.close()


@pytest.mark.parametrize("id", ["CartPole-v1", "LunarLander-v3", "Pendulum-v1", "Acrobot-v1"])
def test_rendering_does_not_change_an_episode(id: str) -> None:
    """LunarLander makes particles when it is rendered, which must not affect the lander."""
    environment = problem(id, max_episode_steps=120)
    seen, unseen = filmable(environment).make(3, SEEDS), environment.make(3, SEEDS)
    rng, space = np.random.default_rng(0), seen.single_action_space
    np.testing.assert_array_equal(seen.reset()[0], unseen.reset()[0])
    for step in range(250):
        actions = rng.integers(space.n, size=3) if isinstance(space, spaces.Discrete) else rng.normal(size=(3, 1))
        one, other = seen.step(actions), unseen.step(actions)
        if step % 20 == 0:
            frames = seen.render()
            assert frames is not None and len(frames) == 3 and frames[0].dtype == np.uint8
        for a, b in zip(one[:4], other[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    seen.close()
    unseen.close()


def test_an_evaluation_returns_its_episodes_as_seeds_and_actions(build: Callable[..., Any]) -> None:
    experiment = build("env=gymnasium", "env.id=LunarLander-v3", "env.max_episode_steps=50", "net.width=8")
    result = evaluate(experiment.agent, experiment.environment, SEEDS, 13, limit=StepLimit(None))
    assert result.played is not None and len(result.played) == 13
    env = gymnasium.make("LunarLander-v3", max_episode_steps=50)
    for episode, total, length in zip(result.played, result.returns, result.lengths, strict=True):
        assert episode.total_reward == total and len(episode.actions) == length
        env.reset(seed=episode.seed)
        paid = [env.step(int(action)) for action in episode.actions]
        assert sum(float(each[1]) for each in paid) == total
        assert [each[2] or each[3] for each in paid] == [False] * (int(length) - 1) + [True]
    assert {episode.seed for episode in result.played} == {SEEDS(i, n) for i in range(10) for n in range(1 + (i < 3))}


@pytest.fixture
def experiment(build: Callable[..., Any]) -> Any:
    id = "env.id=tests.unit.envs.test_film:plexp-tests/Screen-v0"
    return build("env=gymnasium", id, "env.num_envs=2", "net.width=8", "algo.num_minibatches=2")


def test_the_median_episode_is_filmed_and_finally_the_best_and_worst_too(
    experiment: Any, recorded: list[Any], tmp_path: Path
) -> None:
    logged: list[str] = []

    def log_file(path: Path, folder: str | None = None) -> None:
        assert path.stat().st_size > 1000
        logged.append(f"{folder}/{path.name}")

    films = EvaluationFilms(experiment, log_file, tmp_path)
    result = evaluate(
        experiment.agent, experiment.environment, experiment.streams.evaluation(1), 5, limit=StepLimit(None)
    )
    films(result, 1, 25_000)
    assert logged == ["films/step-000025000.mp4", "films/step-000025000.gif"]
    assert recorded[0][0][-1].total_reward == pytest.approx(float(np.median(result.returns)))
    assert recorded[0][2] == Title(f"median of 5 at step 25,000, {experiment.name}")
    films(result, 2, None)
    kinds = [f"films/final-{which}.{kind}" for which in ("best", "median", "worst") for kind in ("mp4", "gif")]
    assert logged[2:] == kinds and not list(tmp_path.iterdir())
    ends = [frames[-1].total_reward for frames, _, _ in recorded[1:]]
    np.testing.assert_allclose(ends, [result.returns.max(), np.median(result.returns), result.returns.min()])


def test_without_seeds_other_episodes_with_seeds_are_played_and_filmed(
    experiment: Any, recorded: list[Any], tmp_path: Path
) -> None:
    films = EvaluationFilms(experiment, lambda path, folder=None: None, tmp_path)
    unseeded = EvaluationResult(np.array([1.0, 2.0, 3.0]), np.array([7, 7, 7]), None)
    films(unseeded, 4, 100)
    expected = evaluate(
        experiment.agent, experiment.environment, experiment.streams.evaluation(4), 3, limit=StepLimit(None)
    )
    assert recorded[0][0][-1].total_reward == pytest.approx(float(np.median(expected.returns)))
    assert recorded[0][2].warning == ""


def test_a_film_that_fails_is_logged_and_training_continues(
    experiment: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, folder: str | None = None) -> None:
        raise OSError("no room")

    result = evaluate(
        experiment.agent, experiment.environment, experiment.streams.evaluation(1), 3, limit=StepLimit(None)
    )
    with caplog.at_level(logging.WARNING):
        EvaluationFilms(experiment, full, tmp_path)(result, 1, 100)
    assert [record.message for record in caplog.records] == ["evaluation 1 is not filmed: OSError: no room"]
    assert not list(tmp_path.iterdir())
