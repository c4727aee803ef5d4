"""The collector against a plain loop over single environments."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn

from plexp.agent import Agent
from plexp.collector import Collector, Episode
from plexp.distributions import Categorical
from plexp.errors import TrainingError
from plexp.seeding import EpisodeSeeds, SeededEpisodes
from plexp.types import Rollout

SEEDS = EpisodeSeeds(11, (3,))
WEIGHTS = torch.tensor([100.0, 1.0, 0.25, 7.0])
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


class Linear:
    """A network whose V is an exact weighted sum of the observation, so that it tells successors apart."""

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


def make_agent(features: int = 3, actions: int = 3) -> Agent:
    settings: Any = {"log_std": "free", "log_std_init": 0.0, "bounds": "clip", "action_samples": 1}
    rng = np.random.default_rng(0)
    return Agent((features,), Categorical(actions), Linear(), None, "v", None, rng, **settings)


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
    """One environment, stepped the slow way, and its rows: (observation, reward, terminated, truncated, valid, successor)."""

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
        if self.ended:  # NEXT_STEP: this step does nothing but reset
            self.reset()
            return before, 0.0, False, False, False, self.observation
        successor, reward, terminated, truncated, _ = self.env.step(action)
        self.observation, self.ended = successor, terminated or truncated
        self.total, self.length = self.total + reward, self.length + 1
        if self.ended:
            self.finished.append(Episode(self.total, self.length))
            if self.mode == AutoresetMode.SAME_STEP:
                self.reset()
        return before, reward, terminated, truncated, True, successor


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
def test_rollouts_are_those_of_a_plain_loop_and_carry_on_where_the_last_one_ended(
    mode: AutoresetMode, num_envs: int
) -> None:
    collector = make_collector(num_envs, mode, num_steps=7)
    plain = [Plain(i, mode) for i in range(num_envs)]
    seen: set[tuple[bool, bool]] = set()
    for _ in range(4):
        rollout = collector.collect()
        assert rollout.rewards.shape == (7, num_envs)
        assert_rows(rollout, plain)
        finished = [episode for env in plain for episode in env.finished]
        assert sorted(collector.episodes, key=repr) == sorted(finished, key=repr)
        for env in plain:
            env.finished.clear()
        seen |= set(zip(rollout.terminated.flatten().tolist(), rollout.truncated.flatten().tolist(), strict=True))
    assert {(True, False), (False, True)} <= seen, "the check must have met both kinds of ends"


@pytest.mark.parametrize("mode", MODES)
def test_true_last_observations_are_kept_apart_only_where_the_reset_hides_them(mode: AutoresetMode) -> None:
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
def test_complete_episodes_are_those_of_a_plain_loop(mode: AutoresetMode) -> None:
    """The rows until an environment waits; afterwards they are padding."""
    rollout = make_collector(3, mode, 5, complete_episodes=True).collect()
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
        collector.agent.head.linear.weight[2, 2] = 0.5
    rollout = collector.collect()
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
    ("fault", "at", "said"),
    [
        ("step", 3, "the environment raised ValueError in step: the physics broke"),
        ("reset", 1, "the environment raised ValueError in reset: the reset broke"),
        ("nan reward", 3, "environment 0 returned the reward nan in step 2 of the rollout"),
        ("inf reward", 3, "environment 0 returned the reward inf in step 2 of the rollout"),
        ("nan observation", 3, "environment 0 returned the observation"),
        ("nan first observation", 1, "environment 0 returned the observation"),
        ("nan first observation", 2, "environment 0 returned the observation"),
        ("nan final observation", 0, "environment 0 returned the observation"),
    ],
)
def test_a_broken_environment_stops_the_run_with_one_line(
    fault: str, at: int, said: str, complete_episodes: bool
) -> None:
    make = partial(gymnasium.make, "plexp-tests/Faulty-v0", fault=fault, at=at, disable_env_checker=True)
    env = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    rng = np.random.default_rng(0)
    with pytest.raises(TrainingError) as raised:
        Collector(env, make_agent(2, 2), rng, None, num_steps=15, complete_episodes=complete_episodes).collect()
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
