"""Tests of the collector against a plain loop over single environments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from omegaconf import DictConfig, open_dict
from torch import nn

from plexp.envs.episodes import Episode
from plexp.envs.faults import DeclaredBounds
from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.envs.spaces import action_distribution
from plexp.envs.vector import SerialVectorEnv, SubprocessVectorEnv
from plexp.errors import ConfigError, EnvironmentFault, TrainingError
from plexp.execution.checkpoint import copied, decode, encode
from plexp.nn.distributions import ActionDistribution, Categorical
from plexp.nn.layout import ObservationReader
from plexp.recorded.resimulate import resimulate
from plexp.training.agent import Agent
from plexp.training.collector import Collector
from plexp.training.replay.buffer import ReplayBuffer, ReplaySpec
from plexp.training.types import Rollout

SEEDS = EpisodeSeeds(11, (3,))
WEIGHTS = torch.tensor([100.0, 1.0, 0.25, 7.0])
FLOAT = np.dtype(np.float32)
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


class Linear:
    """Network whose V is an exact weighted sum of the observation, so that successors differ in V."""

    label, share_trunk = "linear", False

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        return nn.Identity(), shape[0]

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        layer = nn.Linear(features, outputs, bias=False)
        weights = WEIGHTS[:features] if outputs == 1 else torch.zeros(features)
        layer.weight.data.copy_(weights.expand(outputs, -1))
        return layer


def value(observation: np.ndarray) -> float:
    return float(observation @ WEIGHTS[: len(observation)].numpy())


def make_agent(features: int = 3, actions: int = 3, distribution: ActionDistribution | None = None) -> Agent:
    settings: Any = {"log_std": "free", "log_std_init": 0.0, "bounds": "clip", "action_samples": 1}
    rng = np.random.default_rng(0)
    reader = ObservationReader((features,))
    return Agent(reader, distribution or Categorical(actions), Linear(), None, "v", rng, **settings)


def counters(num_envs: int, mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
    def make_one(index: int) -> gymnasium.Env[Any, Any]:
        return SeededEpisodes(gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True), index, SEEDS)

    return SyncVectorEnv([partial(make_one, i) for i in range(num_envs)], autoreset_mode=mode)


def make_collector(num_envs: int, mode: AutoresetMode, num_steps: int, complete_episodes: bool = False) -> Collector:
    rng = np.random.default_rng(5)
    env = counters(num_envs, mode)
    return Collector(env, make_agent(), rng, None, num_steps=num_steps, complete_episodes=complete_episodes)


@dataclass
class Plain:
    """One environment in a plain loop; a row is (observation, reward, terminated, truncated, valid, successor)."""

    index: int
    mode: AutoresetMode
    episode: int = -1
    total: float = 0.0
    length: int = 0
    ended: bool = False
    finished: list[Episode] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.env = gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True).unwrapped
        self.reset()

    def reset(self) -> None:
        self.episode += 1
        self.observation, _ = self.env.reset(seed=SEEDS(self.index, self.episode))
        self.total, self.length, self.ended = 0.0, 0, False

    def row(self, action: int) -> tuple[Any, ...]:
        before = self.observation
        if self.ended:  # NEXT_STEP: this step only resets
            self.reset()
            return before, 0.0, False, False, False, self.observation
        successor, reward, terminated, truncated, _ = self.env.step(action)
        self.observation, self.ended = successor, terminated or truncated
        self.total, self.length = self.total + reward, self.length + 1
        if self.ended:
            self.finished.append(Episode(self.total, self.length, self.index, self.episode))
            if self.mode == AutoresetMode.SAME_STEP:
                self.reset()
        return before, reward, terminated, truncated, True, successor


def _evaluated(collector: Collector) -> Rollout:
    """Return the collector's next trajectory with what its agent says of it."""
    assert isinstance(collector.policy, Agent)
    return collector.policy.evaluate_trajectory(collector.collect())


def assert_rows(rollout: Rollout, plain: list[Plain]) -> None:
    for n, env in enumerate(plain):
        for t in range(len(rollout.rewards)):
            row = env.row(int(rollout.actions[t, n]))
            observation, reward, terminated, truncated, valid, successor = row
            np.testing.assert_array_equal(rollout.observations[t, n].numpy(), observation, err_msg=f"{t=} {n=}")
            assert (rollout.terminated[t, n], rollout.truncated[t, n]) == (terminated, truncated), (t, n)
            assert rollout.valid[t, n] == valid
            assert rollout.rewards[t, n] == reward
            assert rollout.values[t, n] == value(observation)
            if valid:
                assert rollout.next_values[t, n] == value(successor), (t, n)
        np.testing.assert_array_equal(rollout.last_observations[n].numpy(), env.observation)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 4])
def test_rollouts_match_a_plain_loop_and_continue_where_the_last_one_ended(mode: AutoresetMode, num_envs: int) -> None:
    collector = make_collector(num_envs, mode, num_steps=7)
    plain = [Plain(i, mode) for i in range(num_envs)]
    seen: set[tuple[bool, bool]] = set()
    for _ in range(4):
        rollout = _evaluated(collector)
        assert rollout.rewards.shape == (7, num_envs)
        assert_rows(rollout, plain)
        finished = [episode for env in plain for episode in env.finished]
        assert sorted(collector.episodes, key=repr) == sorted(finished, key=repr)
        for env in plain:
            env.finished.clear()
        seen |= set(zip(rollout.terminated.flatten().tolist(), rollout.truncated.flatten().tolist(), strict=True))
    assert {(True, False), (False, True)} <= seen, "the check must have met both kinds of ends"


@pytest.mark.parametrize("mode", MODES)
def test_final_observations_are_stored_only_where_the_reset_hides_them(mode: AutoresetMode) -> None:
    rollout = make_collector(3, mode, num_steps=12).collect()
    ends = (rollout.terminated | rollout.truncated).flatten().nonzero().flatten()
    if mode == AutoresetMode.NEXT_STEP:
        assert len(rollout.final_index) == 0 and rollout.final_observations.shape == (0, 3)
        return
    assert sorted(rollout.final_index.tolist()) == ends.tolist() and len(ends) > 3
    for row, final in zip(rollout.final_index.tolist(), rollout.final_observations, strict=True):
        before = rollout.observations.flatten(0, 1)[row]
        assert final[0] == before[0] and final[1] == before[1] + 1, "of the same episode, one step later"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("complete_episodes", [False, True])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_replay_buffer_gives_what_the_environments_did(
    mode: AutoresetMode, complete_episodes: bool, n_steps: int
) -> None:
    """Work out each transition from its episode's number, which tells length, rewards and end."""
    collector = make_collector(3, mode, 1, complete_episodes)
    buffer = ReplayBuffer(90, ReplaySpec(3, (3,), FLOAT, (), torch.int64))
    for _ in range(60):
        buffer.add(collector.collect())
    indices, ends = np.unique(buffer.draw(np.random.default_rng(0), 2000)), set()
    assert len(indices) == len(buffer) > 40
    batch = buffer.transitions(indices, n_steps, 0.5)
    for b, (serial, step, _) in enumerate(batch.observations.long().tolist()):
        length, terminates = 2 + serial % 5, serial // 5 % 2 == 0
        m = min(n_steps, length - step, buffer.added - int(indices[b]) // 3)
        ended = step + m == length
        ends.add((ended, terminates))
        assert batch.discounts[b] == (0.0 if ended and terminates else 0.5**m)
        reward = sum(0.5**k * (serial % 7 + 10 * (step + k + 1)) for k in range(m)) + 0.25 * int(batch.actions[b])
        assert 0 <= batch.rewards[b] - reward < 0.25 * 2 if m > 1 else batch.rewards[b] == reward
        if not (ended and terminates):
            assert batch.next_observations[b, :2].tolist() == [serial, step + m]
            assert m > 1 or batch.next_observations[b, 2] == batch.actions[b]
    assert len(ends) == 4, "the check must have met both kinds of ends"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_steps", [1, 4, 9])
def test_rollouts_of_complete_episodes_begin_and_end_with_episodes(mode: AutoresetMode, num_steps: int) -> None:
    collector = make_collector(4, mode, num_steps, complete_episodes=True)
    for _ in range(3):
        rollout = collector.collect()
        valid, ends = rollout.valid, rollout.terminated | rollout.truncated
        assert (rollout.observations[0, :, 1] == 0).all()
        for n in range(4):
            rows = valid[:, n].nonzero().flatten().tolist()
            assert bool(ends[rows[-1], n]), "the last valid row of each environment ends an episode"
            played = valid[: rows[-1] + 1, n]
            assert len(played) >= num_steps
            resets = (~played).nonzero().flatten().tolist()
            assert all(ends[t - 1, n] for t in resets), "what is invalid before is the reset after an end"
            assert len(played) - len(resets) == len(rows)
            earlier = [t for t in rows[:-1] if ends[t, n] and t + 1 >= num_steps]
            assert not earlier, "it stops at the first end from num_steps on"
        assert valid.any(1).all(), "no step is played when all of them wait"
        total = sum(episode.total_reward for episode in collector.episodes)
        assert total == float(rollout.rewards[valid].sum())
        assert sum(episode.length for episode in collector.episodes) == rollout.num_valid
        assert len(collector.episodes) == int(ends[valid].sum())


@pytest.mark.parametrize("mode", MODES)
def test_complete_episodes_match_a_plain_loop(mode: AutoresetMode) -> None:
    """Compare the rows until an environment waits; the rows after that are padding."""
    collector = make_collector(3, mode, 5, complete_episodes=True)
    rollout = _evaluated(collector)
    for n in range(3):
        plain = Plain(n, mode)
        for t in range(int(rollout.valid[:, n].nonzero().max()) + 1):
            observation, reward, terminated, truncated, valid, successor = plain.row(int(rollout.actions[t, n]))
            np.testing.assert_array_equal(rollout.observations[t, n].numpy(), observation)
            assert rollout.valid[t, n] == valid and rollout.rewards[t, n] == reward
            assert (rollout.terminated[t, n], rollout.truncated[t, n]) == (terminated, truncated)
            assert not valid or rollout.next_values[t, n] == value(successor)


def test_log_probs_are_those_of_the_sampled_actions_under_the_policy_that_acted() -> None:
    collector = make_collector(2, AutoresetMode.SAME_STEP, num_steps=64)
    with torch.no_grad():  # logits (0, 0, last action / 2): the policy depends on the observation
        collector.policy.head.linear.weight[2, 2] = 0.5
    rollout = _evaluated(collector)
    logits = torch.zeros(64, 2, 3)
    logits[..., 2] = rollout.observations[..., 2] / 2
    expected = logits.log_softmax(-1).gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(rollout.log_probs, expected)
    assert set(rollout.actions.flatten().tolist()) == {0, 1, 2}
    assert not rollout.log_ratios.any()


def test_the_native_cartpole_resets_in_the_next_step_and_those_rows_are_not_valid() -> None:
    env: Any = gymnasium.make_vec(
        "CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point", max_episode_steps=15
    )
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    agent = make_agent(features=4, actions=2)
    collector = Collector(env, agent, np.random.default_rng(0), None, num_steps=100, complete_episodes=False)
    rollout = collector.collect()
    ends, single = rollout.terminated | rollout.truncated, gymnasium.make("CartPole-v1").unwrapped
    assert rollout.terminated.any() and rollout.truncated.any()
    assert torch.equal(rollout.valid[1:], ~ends[:-1]) and rollout.valid[0].all()
    following = torch.cat([rollout.observations[1:], rollout.last_observations[None]])
    single.reset()
    for t, n in rollout.valid.nonzero().tolist():
        single.state, single.steps_beyond_terminated = rollout.observations[t, n].numpy().astype(float), None
        successor, reward, terminated, _, _ = single.step(int(rollout.actions[t, n]))
        np.testing.assert_allclose(following[t, n].numpy(), successor, atol=1e-5)
        assert rollout.rewards[t, n] == reward and bool(rollout.terminated[t, n]) == terminated
    assert (following[~rollout.valid].abs() <= 0.05).all() and not rollout.rewards[~rollout.valid].any()
    assert all(episode.total_reward == episode.length <= 15 for episode in collector.episodes)
    env.close()


@pytest.mark.parametrize("complete_episodes", [False, True])
@pytest.mark.parametrize(
    ("fault", "at", "message"),
    [
        ("step", 3, "the environment raised ValueError in step: the physics broke"),
        ("reset", 1, "the environment raised ValueError in reset: the reset broke"),
        ("nan reward", 3, "environment 0 returned from step reward = nan; expected finite numbers"),
        ("inf reward", 3, "environment 0 returned from step reward = inf; expected finite numbers"),
        ("nan observation", 3, "environment 0 returned from step observation[0] = nan; expected"),
        ("nan first observation", 1, "environment 0 returned from reset observation[0] = nan; expected"),
        ("nan first observation", 2, "environment 0 returned from reset observation[0] = nan; expected"),
        ("nan final observation", 0, "environment 0 returned from step observation[0] = nan; expected"),
    ],
)
def test_a_broken_environment_stops_the_run_with_a_one_line_error(
    fault: str, at: int, message: str, complete_episodes: bool
) -> None:
    make = partial(gymnasium.make, "plexp-tests/Faulty-v0", fault=fault, at=at, disable_env_checker=True)
    env = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    rng = np.random.default_rng(0)
    with pytest.raises(TrainingError) as raised:
        Collector(env, make_agent(2, 2), rng, None, num_steps=15, complete_episodes=complete_episodes).collect()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


class Breaks(gymnasium.Env[Any, Any]):
    """Environment that fails as `fault` says in episodes that their seed chooses; an episode has 4…8 steps.

    The observation is (a number that the seed determines, the step, the sum of the actions of the episode).
    """

    FAULTS: ClassVar[dict[str, str]] = {
        "step": "environment {} raised ValueError in step: the physics broke second line",
        "step at the end": "environment {} raised ValueError in step: the physics broke second line",
        "reset": "environment {} raised ValueError in reset: the reset broke second line",
        "nan reward": "environment {} returned from step reward = nan; expected finite numbers",
        "nan reward at the end": "environment {} returned from step reward = nan; expected finite numbers",
        "nan": "environment {} returned from step observation[2] = nan; expected finite numbers",
        "nan at the end": "environment {} returned from step observation[2] = nan; expected finite numbers",
        "nan at the beginning": "environment {} returned from reset observation[2] = nan; expected finite numbers",
    }
    observation_space = spaces.Box(-50, 1e4, (3,), np.float32)
    played: ClassVar[dict[int, list[Any]]] = {}
    """Actions of each episode, by its seed; only of environments in this process."""

    def __init__(self, fault: str, often: int = 40, continuous: bool = False) -> None:
        self.fault, self.often = fault, often
        self.action_space = spaces.Box(-0.5, 0.75, (2,), np.float32) if continuous else spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.log = Breaks.played[seed or 0] = []
        self.serial, self.time = int(self.np_random.integers(1000)), 0
        if self._is_now("reset"):
            raise ValueError("the reset broke\nsecond line")
        return self._observation(" at the beginning"), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert np.isnan(action).any() or self.action_space.contains(action), action
        self.log.append(np.asarray(action).tolist())
        self.time += 1
        ends = self.time == 4 + self.serial % 5
        when = " at the end" if ends else "" if self.time == 3 else " at no time"
        if self._is_now("step" + when):
            raise ValueError("the physics broke\nsecond line")
        reward = np.nan if self._is_now("nan reward" + when) else 1.0
        return self._observation(when), reward, ends, False, {}

    def _is_now(self, fault: str) -> bool:
        return fault == self.fault and self.serial % self.often == 7 % self.often

    def _observation(self, when: str) -> np.ndarray:
        observation = np.array([self.serial, self.time, np.sum(self.log)], np.float32)
        if self._is_now("nan" + when):
            observation[2] = np.nan
        if self._is_now("outside" + when):
            observation[0] = 2e4
        return observation


gymnasium.register("plexp-tests/Breaks-v0", Breaks)


def breaks(index: int, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    return SeededEpisodes(gymnasium.make("plexp-tests/Breaks-v0", disable_env_checker=True, **kwargs), index, SEEDS)


def breaking_collector(
    fault: str,
    num_steps: int,
    complete_episodes: bool = False,
    *,
    kind: type[SubprocessVectorEnv | SerialVectorEnv] = SerialVectorEnv,
    bounds: bool = False,
    **kwargs: Any,
) -> Collector:
    env = kind([partial(breaks, i, fault=fault, **kwargs) for i in range(4)])
    agent = make_agent(distribution=action_distribution(env.single_action_space, "clip"))
    sizes: dict[str, Any] = {"num_steps": num_steps, "complete_episodes": complete_episodes}
    rng = np.random.default_rng(5)
    declared = DeclaredBounds(env.single_observation_space, "breaks") if bounds else None
    return Collector(env, agent, rng, None, **sizes, episode_seed=SEEDS, bounds=declared)


def fault_of(collector: Callable[[], Collector], rollouts: int = 200) -> EnvironmentFault:
    """Collect until a fault is raised, and return it."""
    with pytest.raises(EnvironmentFault) as raised:
        made = collector()
        for _ in range(rollouts):
            made.collect()
    return raised.value


def last_of(seed: int, actions: list[Any], fault: str, **kwargs: Any) -> tuple[int, list[Any]]:
    """Play actions in a plain environment; return how many it took, and what came last: a text if it raised."""
    env = Breaks(fault, **kwargs)
    dtype = env.action_space.dtype
    taken = 0
    try:
        rows: list[Any] = [env.reset(seed=seed)[0]]
        for action in actions:
            assert np.isfinite(rows[0]).all() and (rows[0] <= 1e4).all() and not any(rows[2:4]), "nothing was wrong yet"
            taken += 1
            rows = list(env.step(np.array(action, dtype)))
    except ValueError as error:
        return taken, [str(error)]
    return taken, rows


def assert_located(fault: EnvironmentFault, kind: str, **kwargs: Any) -> list[Any]:
    """Assert that a fault's episode goes wrong in its last step in a plain environment; return its actions."""
    episode = fault.episode
    assert episode is not None and list(episode) == ["environment", "episode", "seed", "actions"]
    index, number, seed, actions = episode.values()
    assert str(fault).startswith(Breaks.FAULTS[kind].format(index)) and "\n" not in str(fault)
    assert seed == SEEDS(index, number) and fault.index == index
    taken, last = last_of(seed, actions, kind, **kwargs)
    assert taken == len(actions)
    if kind.startswith(("step", "reset")):
        assert last[0].startswith("the physics broke" if kind.startswith("step") else "the reset broke")
    elif "reward" in kind:
        assert np.isnan(last[1])
    else:
        assert np.isnan(last[0][2])
    assert json.loads(json.dumps(episode)) == episode
    if "reset" in kind or "beginning" in kind:
        assert actions == []
    else:
        assert len(actions) >= 4 if "end" in kind else len(actions) == 3
    return actions


@pytest.mark.parametrize(
    ("num_steps", "complete_episodes"), [(1, False), (2, False), (7, False), (90, False), (1, True), (100, True)]
)
@pytest.mark.parametrize("kind", Breaks.FAULTS)
def test_a_fault_names_the_episode_that_goes_wrong_in_its_last_step(
    kind: str, num_steps: int, complete_episodes: bool
) -> None:
    Breaks.played.clear()
    fault = fault_of(lambda: breaking_collector(kind, num_steps, complete_episodes))
    assert fault.episode is not None
    done = Breaks.played[fault.episode["seed"]]
    actions = assert_located(fault, kind)
    assert actions == done[: len(actions)], "these are the actions that the environment got"
    assert fault.episode["episode"] > 0, "it must not have been the first one"


@pytest.mark.parametrize("kind", ["step", "nan", "nan reward at the end", "reset"])
def test_actions_are_recorded_as_the_environment_got_them(kind: str) -> None:
    fault = fault_of(lambda: breaking_collector(kind, 7, continuous=True))
    actions = assert_located(fault, kind, continuous=True)
    flat = [number for action in actions for number in action]
    assert all(-0.5 <= number <= 0.75 and number == float(np.float32(number)) for number in flat)
    assert kind == "reset" or {-0.5, 0.75} & set(flat), "some were clipped to the bounds"


@pytest.mark.parametrize("kind", ["step", "reset", "nan at the end"])
def test_a_fault_in_a_subprocess_names_its_episode_too(kind: str) -> None:
    made: list[Collector] = []

    def make() -> Collector:
        made.append(breaking_collector(kind, 7, kind=SubprocessVectorEnv))
        return made[-1]

    try:
        assert_located(fault_of(make), kind)
    finally:
        made[0].adapter.env.close()


@pytest.mark.parametrize("kind", ["reset", "nan at the beginning"])
def test_a_fault_at_the_very_beginning_is_located_too(kind: str) -> None:
    fault = fault_of(lambda: breaking_collector(kind, 7, often=1))
    assert assert_located(fault, kind, often=1) == []
    assert fault.episode is not None and (fault.episode["environment"], fault.episode["episode"]) == (0, 0)


@pytest.mark.parametrize("kind", ["step", "nan at the end"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_fault_of_a_resumed_run_names_the_whole_episode(kind: str, num_steps: int) -> None:
    def stopped_after_each_rollout() -> Collector:
        collector = breaking_collector(kind, num_steps)
        for _ in range(200):
            collector.collect()
            state = decode(encode(copied(collector.state_dict())))
            rng, collector = collector.rng, breaking_collector(kind, num_steps)
            collector.rng = rng
            collector.load_state_dict(state)
            assert collector.not_replayed == []
        return collector

    fault, never = fault_of(stopped_after_each_rollout), fault_of(lambda: breaking_collector(kind, num_steps))
    assert_located(fault, kind)
    assert fault.episode == never.episode


def test_without_seeds_of_episodes_a_fault_names_no_episode() -> None:
    make = partial(gymnasium.make, "plexp-tests/Faulty-v0", fault="nan reward", at=3, disable_env_checker=True)
    env = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent, rng = make_agent(2, 2), np.random.default_rng(0)
    fault = fault_of(lambda: Collector(env, agent, rng, None, num_steps=15, complete_episodes=False))
    assert fault.episode is None and fault.index == 0


@pytest.mark.parametrize("kind", ["outside", "outside at the end", "outside at the beginning"])
@pytest.mark.parametrize("vector", [SerialVectorEnv, SubprocessVectorEnv])
def test_observations_outside_their_bounds_are_used_counted_and_warned_of_once(
    kind: str, vector: type[SubprocessVectorEnv | SerialVectorEnv], caplog: pytest.LogCaptureFixture
) -> None:
    collector, seen, rows = breaking_collector(kind, 50, bounds=True, kind=vector), 0, 0
    try:
        for _ in range(6):
            rollout = collector.collect()
            observed = torch.cat([rollout.observations.flatten(0, 1), rollout.final_observations])
            seen, rows = seen + int((observed[:, 0] == 2e4).sum()), rows + len(observed)
    finally:
        collector.adapter.env.close()
    assert collector.bounds is not None and seen > 1
    collector.bounds.report()
    first, last = (record.getMessage() for record in caplog.records)
    assert first == (
        "breaks: observations leave their declared bounds, and are used as they are: entry [0], by up to 1e+04 "
        "([0] = 20000, bounds [-50, 10000])"
    )
    assert last == (f"breaks: {seen} of {rows:,} observations ({100 * seen / rows:.3g} %) left their declared bounds")


def test_the_count_of_observations_outside_their_bounds_survives_a_resume() -> None:
    collector = breaking_collector("outside", 200, bounds=True)
    collector.collect()
    state = decode(encode(copied(collector.state_dict())))
    resumed = breaking_collector("outside", 200, bounds=True)
    resumed.load_state_dict(state)
    for each in (collector, resumed):
        each.collect()
    assert collector.bounds is not None and resumed.bounds is not None and collector.bounds.outside > 0
    assert (collector.bounds.seen, collector.bounds.outside) == (resumed.bounds.seen, resumed.bounds.outside)


Recorded = Callable[..., tuple[Path, EnvironmentFault]]


@pytest.fixture
def recorded(build: Callable[..., Any], compose: Callable[..., DictConfig], tmp_path: Path) -> Recorded:
    """Return a function that records a fault of a whole experiment, and returns the file and the fault."""

    def make(kind: str, continuous: bool = False) -> tuple[Path, EnvironmentFault]:
        sizes = ("env.num_envs=4", "algo.num_steps=8", "algo.num_minibatches=1")
        config = compose("env=gymnasium", "env.id=plexp-tests/Breaks-v0", "compile=false", *sizes)
        with open_dict(config):
            config.env.kwargs = {"fault": kind, "continuous": continuous}
        experiment = build(config)
        fault = fault_of(lambda: experiment.trainer.collector)
        content = {"error": str(fault), "env": experiment.values["env"], **(fault.episode or {})}
        (tmp_path / "fault.json").write_text(json.dumps(content))
        return tmp_path / "fault.json", fault

    return make


RAISED = r"raised environment 0 raised ValueError in "
SHOWN = {
    "step": RAISED + r"step: the physics broke second line \(test_collector.py:\d+\)",
    "step at the end": RAISED + r"step: the physics broke second line \(test_collector.py:\d+\)",
    "reset": RAISED + r"reset: the reset broke second line \(test_collector.py:\d+\)",
    "nan reward": r"gave observation .*, reward nan, terminated False, truncated False",
    "nan reward at the end": r"gave observation .*, reward nan, terminated True, truncated False",
    "nan": r"gave observation .* nan\], reward 1\.0, terminated False, truncated False",
    "nan at the end": r"gave observation .* nan\], reward 1\.0, terminated True, truncated False",
    "nan at the beginning": r"gave observation .* nan\]",
}


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("kind", SHOWN)
def test_a_recorded_fault_is_reproduced(kind: str, continuous: bool, recorded: Recorded) -> None:
    file, fault = recorded(kind, continuous)
    episode = fault.episode
    assert episode is not None
    message, _, was = resimulate(file).partition("; recorded was: ")
    began = f"seed {episode['seed']}, {len(episode['actions'])} actions: the last step "
    assert message.startswith(began) and re.fullmatch(SHOWN[kind], message.removeprefix(began)), message
    assert was == ("" if kind.startswith(("step", "reset")) else str(fault))


def test_a_fault_that_was_fixed_is_not_reproduced(recorded: Recorded) -> None:
    file, _ = recorded("nan reward")
    content = json.loads(file.read_text())
    content["env"]["kwargs"]["fault"] = "none"
    content["env"] |= {"vectorization": "async", "step_timeout": 3.0}
    file.write_text(json.dumps(content))
    assert ", reward 1.0, terminated False, truncated False; recorded was: " in resimulate(file)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", "{}", '{"env": {"plugin": "gymnasium"}, "seed": 1}'),
        *('{"env": {"plugin": "gymnasium"}, "seed": "x", "actions": []}', '{"env": {}, "seed": 1, "actions": []}'),
        *('{"env": "cartpole", "seed": 1, "actions": []}', '{"env": {"plugin": "gymnasium"}, "seed": 1, "actions": 3}'),
        '{"env": {"plugin": "gymnasium"}, "seed": 1, "actions": []}',
    ],
)
def test_a_file_that_is_not_a_recorded_episode_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "fault.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        resimulate(file)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^replay=.*none\.json: it cannot be read as a recorded episode \(FileNotFound"
    ):
        resimulate(tmp_path / "none.json")
