"""Tests of recurrent agents against a plain loop that steps them one observation at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.errors import ConfigError
from plexp.nn.distributions import Categorical
from plexp.nn.layout import ObservationReader
from plexp.nn.pytree import unflattener
from plexp.nn.recurrent import Core, GRUCore, LSTMCore, Recurrent
from plexp.recorded.restore import RecordedAgent
from plexp.training.agent import Agent
from plexp.training.batches import make_batch
from plexp.training.collector import Collector
from plexp.training.interfaces import AdvantageEstimator
from plexp.training.sequences import SequenceBatch, packed, parts_of_episodes
from plexp.training.types import Rollout, Targets, Trajectory

SEEDS = EpisodeSeeds(11, (3,))
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
Build = Callable[..., Any]


class Small:
    """A recurrent network with weights that no output forgets."""

    label = "small"

    def __init__(self, core: type[Core], *, share_trunk: bool = False) -> None:
        self.core, self.share_trunk = core, share_trunk

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        return Recurrent(nn.Sequential(nn.Linear(shape[0], 5), nn.Tanh()), self.core(5, 6, orthogonal=False)), 6

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        return nn.Linear(features, outputs)


class Plain(Small):
    """A network without a state."""

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        return nn.Linear(shape[0], 6), 6


class Weights:
    """Estimator whose advantage is the number of the row, so that rows can be told apart."""

    critic, complete_episodes, off_policy = "v", False, True

    def __call__(self, rollout: Rollout) -> Targets:
        numbers = torch.arange(float(rollout.rewards.numel())).view_as(rollout.rewards)
        return Targets(numbers, rollout.values)


def make_agent(actor: Small, critic: Small | None = None) -> Agent:
    torch.manual_seed(3)
    settings: Any = {"log_std": "free", "log_std_init": 0.0, "bounds": "clip", "action_samples": 1}
    return Agent(ObservationReader((3,)), Categorical(3), actor, critic, "v", np.random.default_rng(0), **settings)  # type: ignore[arg-type]


AGENTS: dict[str, Callable[[], Agent]] = {
    "gru": lambda: make_agent(Small(GRUCore)),
    "lstm": lambda: make_agent(Small(LSTMCore)),
    "shared": lambda: make_agent(Small(LSTMCore, share_trunk=True)),
    "actor alone": lambda: make_agent(Small(GRUCore), Plain(GRUCore)),
    "critic alone": lambda: make_agent(Plain(GRUCore), Small(LSTMCore)),
}


def make_collector(agent: Agent, mode: AutoresetMode, num_steps: int, complete_episodes: bool = False) -> Collector:
    def make_one(index: int) -> gymnasium.Env[Any, Any]:
        return SeededEpisodes(gymnasium.make("plexp-tests/Counter-v0", disable_env_checker=True), index, SEEDS)

    env = SyncVectorEnv([partial(make_one, i) for i in range(3)], autoreset_mode=mode)
    rng = np.random.default_rng(5)
    return Collector(env, agent, rng, None, num_steps=num_steps, complete_episodes=complete_episodes)


class OneByOne:
    """An agent stepped by hand in one environment; an observation whose second entry is 0 is the first of an episode."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.states = agent, [agent.initial_state(1)] * 2

    def __call__(self, observation: Tensor, *, stays: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state before, the logits and V; with `stays` the states are not changed."""
        agent, rows = self.agent, observation[None]
        before = [torch.zeros_like(state) if observation[1] == 0 else state for state in self.states]
        features, after = [], list(before)
        assert agent.critic is not None
        for i, trunk in enumerate((agent.trunk, agent.critic.trunk)):
            if isinstance(trunk, Recurrent):
                feature, after[i] = trunk.step(rows, before[i])
            else:
                feature = trunk(rows)
            features.append(feature)
        if not stays:
            self.states = after
        own = before[0].clone()
        if isinstance(agent.critic.trunk, Recurrent):
            place = slice(agent.critic.trunk.first, agent.critic.trunk.first + agent.critic.trunk.state_size)
            own[:, place] = before[1][:, place]
        return own[0], agent.head(features[0])[0], agent.critic.head(features[1])[0, 0]


def assert_as_one_by_one(rollout: Rollout, players: list[OneByOne]) -> None:
    finals = dict(zip(rollout.final_index.tolist(), rollout.final_observations, strict=True))
    done = rollout.terminated | rollout.truncated
    assert rollout.states is not None
    steps, envs = done.shape
    for n, play in enumerate(players):
        for t in range(steps):
            state, logits, value = play(rollout.observations[t, n])
            torch.testing.assert_close(rollout.states[t, n], state, atol=1e-6, rtol=1e-5, msg=f"{t=} {n=}")
            if not rollout.valid[t, n]:
                continue
            torch.testing.assert_close(rollout.values[t, n], value, atol=1e-5, rtol=1e-5)
            expected = logits.log_softmax(-1)[rollout.actions[t, n]]
            torch.testing.assert_close(rollout.log_probs[t, n], expected, atol=1e-5, rtol=1e-5)
            following = rollout.observations[t + 1, n] if t + 1 < steps else rollout.last_observations[n]
            successor = finals.get(t * envs + n, following)
            assert successor[1] > 0, "it must be of the same episode"
            torch.testing.assert_close(rollout.next_values[t, n], play(successor, stays=True)[2], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("mode", MODES)
def test_states_log_probabilities_and_values_are_those_of_a_plain_loop(name: str, mode: AutoresetMode) -> None:
    agent = AGENTS[name]()
    collector, players = make_collector(agent, mode, 7), [OneByOne(agent) for _ in range(3)]
    for _ in range(4):
        assert_as_one_by_one(agent.evaluate_trajectory(collector.collect()), players)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_complete_episodes_begin_with_a_state_of_zeros(mode: AutoresetMode) -> None:
    agent = AGENTS["lstm"]()
    collector = make_collector(agent, mode, 1, complete_episodes=True)
    for _ in range(4):
        rollout = agent.evaluate_trajectory(collector.collect())
        assert rollout.states is not None and not rollout.states[0].any() and rollout.states[1].any()
        players = [OneByOne(agent) for _ in range(3)]
        for n, play in enumerate(players):  # until the first end: what waits is not valid
            last = int(rollout.valid[:, n].sum())
            for t in range(last):
                _, logits, value = play(rollout.observations[t, n])
                torch.testing.assert_close(rollout.values[t, n], value, atol=1e-5, rtol=1e-5)
                expected = logits.log_softmax(-1)[rollout.actions[t, n]]
                torch.testing.assert_close(rollout.log_probs[t, n], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 100])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("mode", MODES)
def test_minibatches_are_whole_sequences_with_the_states_that_the_policy_had(
    mode: AutoresetMode, number: int, length: int
) -> None:
    agent = AGENTS["gru"]()
    collector, estimator = make_collector(agent, mode, 9), Weights()
    rollouts = [agent.evaluate_trajectory(collector.collect()) for _ in range(2)]
    estimators: AdvantageEstimator = estimator  # type: ignore[assignment]
    batch = make_batch(agent, estimators, rollouts, "off")
    cut = SequenceBatch(batch, list(rollouts), length)
    rng, rebuild = np.random.default_rng(0), unflattener(cut.spec)
    seen, sizes = [], []
    for leaves in cut.minibatches(number, rng):
        part = rebuild(leaves)
        given = part.observations
        sizes.append(len(part.advantages))
        assert len(given.observations) == given.batch_sizes.sum() == len(part.advantages)
        assert len(given.batch_sizes) <= length and given.batch_sizes[0] == len(given.states)
        with torch.no_grad():
            output = agent.evaluate(part)
        torch.testing.assert_close(output.log_probs, part.log_probs, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(output.predictions, part.values, atol=1e-6, rtol=1e-5)
        seen.append(torch.cat([part.advantages[:, None], given.observations], 1))
    expected = torch.cat([batch.advantages[:, None], batch.observations], 1)  # type: ignore[list-item]
    assert sorted(torch.cat(seen).tolist()) == sorted(expected.tolist()), "each row once"
    assert len(sizes) <= number and max(sizes) - min(sizes) <= 2 * min(length, 6)


def test_the_first_minibatch_has_a_ratio_of_one_with_gradients() -> None:
    agent = AGENTS["lstm"]()
    collector = make_collector(agent, AutoresetMode.SAME_STEP, 32)
    rollout = agent.evaluate_trajectory(collector.collect())
    batch = make_batch(agent, Weights(), [rollout], "off")  # type: ignore[arg-type]
    cut = SequenceBatch(batch, [rollout], 4)
    part = unflattener(cut.spec)(next(cut.minibatches(4, np.random.default_rng(0))))
    output = agent.evaluate(part)
    assert output.log_probs.requires_grad
    assert ((output.log_probs - part.log_probs).exp() - 1).abs().max() <= 1e-5


def test_gradients_are_those_of_a_loop_over_each_sequence() -> None:
    agent = AGENTS["gru"]()
    collector = make_collector(agent, AutoresetMode.SAME_STEP, 9)
    rollout = agent.evaluate_trajectory(collector.collect())
    cut = SequenceBatch(make_batch(agent, Weights(), [rollout], "off"), [rollout], 3)  # type: ignore[arg-type]
    part = unflattener(cut.spec)(next(cut.minibatches(1, np.random.default_rng(0))))
    output = agent.evaluate(part)
    parameters = [p for p in agent.parameters() if p.requires_grad]
    weights = part.advantages / 10
    ours = torch.autograd.grad((weights * output.log_probs).sum() + output.predictions.sum(), parameters)
    rows, begins = parts_of_episodes(rollout)
    total = torch.zeros(())
    assert agent.critic is not None and rollout.states is not None
    since = 0
    for row, begin in zip(rows.tolist(), begins.tolist(), strict=True):
        since = 0 if begin else since + 1
        t, n = divmod(row, 3)
        if since % 3 == 0:
            state = rollout.states[t, n][None]
        observation = rollout.observations[t, n][None]
        logits, after = agent.step(observation, state)
        feature, state = agent.critic.trunk.step(observation, after)  # type: ignore[operator]
        log_prob = logits.log_softmax(-1)[0, rollout.actions[t, n]]
        total = total + row / 10 * log_prob + agent.critic.head(feature).sum()
    for mine, theirs in zip(ours, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_packed_is_torchs_order() -> None:
    lengths = np.array([2, 4, 1, 4])
    values = torch.arange(11.0)
    order, indices, batch_sizes = packed(np.cumsum(lengths) - lengths, lengths)
    given = pack_sequence([values[b : b + n] for b, n in ((2, 4), (7, 4), (0, 2), (6, 1))])
    assert order.tolist() == [1, 3, 0, 2] and batch_sizes.tolist() == given.batch_sizes.tolist()
    assert torch.equal(values[torch.from_numpy(indices)], given.data)


def _trajectory(done: list[int], valid: list[int]) -> Trajectory:
    steps = len(done)
    column = torch.tensor(done, dtype=torch.bool)[:, None]
    return Trajectory(
        observations=torch.zeros(steps, 1, 1),
        actions=torch.zeros(steps, 1),
        rewards=torch.zeros(steps, 1),
        terminated=column,
        truncated=torch.zeros_like(column),
        valid=torch.tensor(valid, dtype=torch.bool)[:, None],
        last_observations=torch.zeros(1, 1),
        final_observations=torch.zeros(0, 1),
        final_index=torch.zeros(0, dtype=torch.int64),
        states=torch.arange(float(steps)).view(steps, 1, 1),
    )


@pytest.mark.parametrize(
    ("done", "valid", "rows", "begins"),
    [
        ([0, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 2, 3, 4], [0, 2]),  # the same step resets
        ([0, 1, 0, 0, 0], [1, 1, 0, 1, 1], [0, 1, 2, 3, 4], [0, 3]),  # the next step resets
        ([0, 0, 1, 0, 0], [0, 1, 1, 0, 1], [0, 1, 2, 3, 4], [0, 1, 4]),  # and the first row did
        ([0, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 1, 2], [0]),  # an environment that waits
    ],
)
def test_parts_of_episodes_end_with_them(done: list[int], valid: list[int], rows: list[int], begins: list[int]) -> None:
    found, starts = parts_of_episodes(_trajectory(done, valid))
    assert found.tolist() == rows and np.array(rows)[starts].tolist() == begins


def test_a_state_is_forgotten_where_an_episode_in_progress_could_not_be_simulated_again(build: Build) -> None:
    with build("net=gru", "env.num_envs=2", "algo.num_steps=4") as experiment:
        collector = experiment.trainer.collector
        collector.collect()
        state = collector.state_dict()
        assert state["state"].any(1).all()
        collector.load_state_dict(state)
        assert torch.equal(collector.state, state["state"])
        state = {**state, "observations": state["observations"] + np.array([[0.0] * 4, [1.0] * 4], np.float32)}
        collector.load_state_dict(state)
        assert collector.not_replayed == [1]
        assert torch.equal(collector.state[0], state["state"][0]) and not collector.state[1].any()


def test_replayed_trajectories_are_unrolled_with_the_present_weights(build: Build, train: Build) -> None:
    options = ("net=gru", "net.size=8", "advantage=vtrace", "algo.replay_rollouts=1", "env.num_envs=2")
    with build(*options, "algo=a2c", "compile=false") as experiment:
        train(experiment, 2)
        (old, log_probs), agent = experiment.trainer.algorithm.learner.replay[-1], experiment.agent
        again = agent.evaluate_trajectory(old, log_probs)
        assert again.log_ratios[again.valid].abs().max() > 1e-4
        train(experiment, 1)
        assert not torch.equal(agent.evaluate_trajectory(old, log_probs).values, again.values)
        state = experiment.trainer.algorithm.learner.state_dict()["replay"][0]["trajectory"]
        assert torch.equal(state["states"], experiment.trainer.algorithm.learner.replay[0][0].states)


def test_a_recorded_agent_remembers_until_it_is_reset(build: Build) -> None:
    with build("net=lstm", "env=cartpole_novel") as experiment:
        agent, policy = RecordedAgent(experiment), experiment.agent
        rows = torch.randn(5, 2)
        logits, state = [], policy.initial_state(1)
        for row in rows:
            parameters, state = policy.step(policy.read(row[None]), state)
            logits.append(parameters.argmax().item())
        for _ in range(2):
            assert [int(agent.act(row.numpy())) for row in rows] == logits
            torch.testing.assert_close(agent.state[:, : policy.trunk.state_size], state[:, : policy.trunk.state_size])
            agent.reset()
        assert agent.act(np.ones((3, 2), np.float32)).shape == (3,) and agent.state.shape == (3, policy.state_size)
        agent.act(np.ones((3, 2), np.float32), sampled=True)
        assert agent.state.all(1).any()


@pytest.mark.parametrize("algo", ["sac", "td3"])
@pytest.mark.parametrize("nets", [("net=gru",), ("net=mlp_relu", "net@critic_net=lstm")])
def test_algorithms_that_learn_from_single_transitions_refuse_recurrent_networks(
    algo: str, nets: tuple[str, ...], build: Build
) -> None:
    with pytest.raises(ConfigError, match=r"net=(gru|lstm)64: algo=(sac|td3) learns from single transitions") as raised:
        build(f"algo={algo}", "env=pendulum", *nets)
    assert str(raised.value).endswith("give net=mlp_relu, or algo=dqn, qr_dqn or ppo")


def test_a_critic_that_takes_actions_is_not_recurrent(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"its network cannot be recurrent; choose an estimator with a V critic"):
        build("algo=a2c", "env=pendulum", "net=gru", "advantage=q")


@pytest.mark.compiler
def test_acting_is_compiled_and_gives_the_same(build: Build) -> None:
    options = ("net=lstm", "env=cartpole_novel", "algo.num_steps=16", "algo.num_minibatches=2", "env.num_envs=2")
    actions, states = [], []
    for compiled in ("true", "false"):
        with build(*options, f"compile={compiled}") as experiment:
            trajectory = experiment.trainer.collector.collect()
            actions.append(trajectory.actions)
            states.append(trajectory.states)
            assert compiled == "false" or experiment.agent._sample.enabled
    assert torch.equal(*actions)
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)


def test_a_copy_without_states_is_that_of_a_network_without_memory(build: Build) -> None:
    with build("net=mlp") as experiment:
        trajectory = experiment.trainer.collector.collect()
        assert trajectory.states is None and "states" not in trajectory.given()
        assert replace(trajectory).states is None
