"""Tests of masks of legal actions: where they come from, what is refused, and that no policy takes others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from plexp.envs.packing import PackedSpace
from plexp.envs.seeding import EpisodeSeeds
from plexp.errors import ConfigError, EnvironmentFault
from plexp.nn.layout import LEGAL
from plexp.training.evaluation import StepLimit, evaluate
from plexp.training.progress import TrainingProgress
from tests.integration.cli.test_cli import Main, main
from tests.support.environments import Doors

__all__ = ["main"]

Build = Callable[..., Any]
SMALL = ("net.width=16", "net.layers=1", "env.num_envs=3", "compile=false")
ON_POLICY = (
    ("algo=ppo", "algo.num_steps=32", "algo.num_minibatches=4"),
    ("algo=ppo", "advantage=q", "algo.num_steps=32", "algo.num_minibatches=4"),
    ("algo=a2c",),
    ("algo=reinforce",),
)
REPLAY = ("algo.learning_starts=48", "algo.train_every=6", "algo.gradient_steps=2", "algo.batch_size=8")
OFF_POLICY = tuple(
    (*algo, *REPLAY)
    for algo in (
        ("algo=dqn",),
        ("algo=dqn", "algo.double=false", "algo.dueling=true", "replay=prioritized"),
        ("algo=dqn", "algo.random_steps=3"),
        ("algo=qr_dqn",),
        ("algo=sac",),
    )
)


def doors(build: Build, *overrides: str, masks: str = "info", **kwargs: Any) -> Any:
    arguments = [f"+env.kwargs.{key}={value}" for key, value in {"masks": masks, **kwargs}.items()]
    id = "env.id=tests.support.environments:plexp-tests/Doors-v0"
    return build(*SMALL, "env=gymnasium", id, *arguments, f"env.action_mask={masks}", *overrides)


@pytest.mark.parametrize("overrides", [*ON_POLICY, *OFF_POLICY], ids=" ".join)
@pytest.mark.parametrize("masks", ["info", "observation"])
def test_no_illegal_action_is_taken_in_training_or_evaluation(
    overrides: tuple[str, ...], masks: str, build: Build
) -> None:
    """Let the environment raise at a door that is not there."""
    with doors(build, *overrides, "total_timesteps=600", masks=masks) as experiment:
        progress = experiment.trainer.run([])
        assert progress.steps >= 600
        for sampling in (None, np.random.default_rng(0)):
            result = evaluate(
                experiment.agent, experiment.environment, EpisodeSeeds(0, (9,)), 12, sampling, limit=StepLimit(None)
            )
            assert (result.lengths <= 60).all()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("masks", ["info", "observation"])
def test_every_vectorization_gives_each_state_its_mask_the_true_final_one_too(
    vectorization: str, masks: str, build: Build
) -> None:
    with doors(build, f"env.vectorization={vectorization}", masks=masks, rooms=2) as experiment:
        trajectory = experiment.trainer.collector.collect()
        env = Doors(rooms=2)
        layout = experiment.training_env.single_observation_space.layout
        rooms = layout.read(trajectory.observations)
        for room, legal in zip(
            rooms["room" if masks == "observation" else "observation"].flatten(0, 1),
            rooms[LEGAL].flatten(0, 1),
            strict=True,
        ):
            assert legal.nonzero().flatten().tolist() == sorted(env.there[int(room.argmax())])
        final = layout.read(trajectory.final_observations)
        is_terminated = trajectory.terminated.flatten()[trajectory.final_index]
        assert len(final[LEGAL]) and final[LEGAL][is_terminated].all(), "after a termination all are legal"
        cut = final[LEGAL][~is_terminated]
        assert (cut.sum(1) == 3).all()


def test_pairs_of_choices_have_a_mask_for_each(build: Build) -> None:
    for masks in ("info", "observation"):
        with doors(build, *ON_POLICY[0], "total_timesteps=300", masks=masks, pair="true", doors=5) as experiment:
            assert isinstance(experiment.training_env.single_action_space, spaces.MultiDiscrete)
            experiment.trainer.run([])


def test_probabilities_are_those_of_the_softmax_over_legal_actions(build: Build) -> None:
    with doors(build, *ON_POLICY[0], doors=7) as experiment:
        agent, trajectory = experiment.agent, experiment.trainer.collector.collect()
        read = agent.read(trajectory.observations.flatten(0, 1))
        with torch.no_grad():
            logits = agent.head(agent.trunk(read)).double()
            actions = trajectory.actions.flatten(0, 1)
            log_probs, entropy = agent.distribution.evaluate(agent.policy(read), actions)
        rollout = agent.evaluate_trajectory(trajectory)
        assert torch.equal(rollout.log_probs.flatten(), log_probs)
        for i, legal in enumerate(read[LEGAL]):
            left = legal.nonzero().flatten()
            expected = functional.log_softmax(logits[i][left], 0)
            assert torch.isclose(log_probs[i].double(), expected[(left == actions[i]).nonzero().item()], atol=1e-5)
            assert torch.isclose(entropy[i].double(), -(expected.exp() * expected).sum(), atol=1e-5)


def test_illegal_actions_get_no_gradient(build: Build) -> None:
    with doors(build, *ON_POLICY[0], doors=7) as experiment:
        agent, trajectory = experiment.agent, experiment.trainer.collector.collect()
        read = agent.read(trajectory.observations[:1].flatten(0, 1))
        log_probs, entropy = agent.distribution.evaluate(agent.policy(read), trajectory.actions[0])
        (log_probs.sum() + entropy.sum()).backward()
        never = ~read[LEGAL].any(0)
        assert never.any() and (agent.head.linear.bias.grad[never] == 0).all()
        assert agent.head.linear.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("double", ["true", "false"])
def test_the_target_of_dqn_is_the_best_legal_action(double: str, build: Build) -> None:
    with doors(
        build, "algo=dqn", f"algo.double={double}", "algo.loss=squared", *REPLAY, "algo.n_steps=1"
    ) as experiment:
        algorithm, learner = experiment.trainer.algorithm, experiment.trainer.algorithm.learner
        captured: list[Any] = []
        minimize = algorithm.optimizer.minimize
        algorithm.optimizer.minimize = lambda loss, batch: captured.append(batch) or minimize(loss, batch)
        progress = TrainingProgress()
        while not captured:
            experiment.trainer.iterate(progress)
        batch = captured[-1]
        _, terms = algorithm.loss(batch)
        with torch.no_grad():
            following = algorithm.target.head(algorithm.target.trunk(batch.next_observations)).double().numpy()
            online = algorithm.policy.head(algorithm.policy.trunk(batch.next_observations)).double().numpy()
            values = algorithm.policy.head(algorithm.policy.trunk(batch.observations)).double().numpy()
        legal, chooser = batch.next_observations[LEGAL].numpy(), online if double == "true" else following
        for i in range(len(batch.rewards)):
            best = max(np.flatnonzero(legal[i]), key=lambda a, i=i: chooser[i, a])
            target = float(batch.rewards[i]) + float(batch.discounts[i]) * following[i, best]
            error = target - values[i, int(batch.actions[i])]
            assert float(terms["td_errors"][i]) == pytest.approx(error, rel=1e-4, abs=1e-5)
        assert learner.is_learning


FAULTS = {
    "none legal": "info['action_mask'] that allows no action; expected one legal action at least",
    "short": "info['action_mask'] = ",
    "numbers": "info['action_mask'] = ",
    "missing": "no info['action_mask']; expected 50 entries of 0 and 1",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mask_that_cannot_be_used_names_environment_episode_and_step(fault: str, build: Build) -> None:
    with doors(build, *ON_POLICY[0], fault=f"'{fault}'") as experiment, pytest.raises(EnvironmentFault) as raised:
        experiment.trainer.collector.collect()
    text, episode = str(raised.value), raised.value.episode
    assert text.startswith("environment 0 returned from step ") and FAULTS[fault] in text
    assert episode["environment"] == 0 and episode["episode"] == 0 and len(episode["actions"]) == 2


def test_an_illegal_action_is_an_error_with_its_episode(build: Build) -> None:
    with doors(build, *ON_POLICY[0], strict="false") as experiment:
        agent = experiment.agent
        agent.legal = lambda observations: None
        with pytest.raises(EnvironmentFault, match="got an action that its action_mask does not allow") as training:
            experiment.trainer.collector.collect()
        with pytest.raises(EnvironmentFault, match="got an action that its action_mask does not allow") as evaluating:
            evaluate(agent, experiment.environment, EpisodeSeeds(0, (9,)), 4, limit=StepLimit(None))
    for raised in (training, evaluating):
        assert raised.value.episode["actions"], "with the action that was not legal"


WRONG = {
    ("env=cartpole", "env.action_mask=observation"): "its observations have no part action_mask of 2 entries",
    ("env=pendulum", "env.action_mask=info"): "its actions are not Discrete or MultiDiscrete",
    ("env=cartpole", "env.backend=envpool", "env.action_mask=info"): "EnvPool gives no masks",
}


@pytest.mark.parametrize("overrides", WRONG, ids=" ".join)
def test_masks_that_do_not_exist_are_refused_in_one_line(overrides: tuple[str, ...], build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build(*overrides)
    assert str(raised.value).startswith("env.action_mask=") and WRONG[overrides] in str(raised.value)


@pytest.mark.parametrize("net", ["mlp", "multi"])
def test_a_mask_that_is_not_to_be_used_is_an_observation_like_others(net: str, build: Build) -> None:
    unused = ("env.action_mask=none", f"net={net}")
    with doors(build, *ON_POLICY[0], *unused, masks="observation", strict="false") as experiment:
        taken = experiment.trainer.collector.collect().actions
        assert len(taken.unique()) > 6 * 3, "all actions are taken"
        assert experiment.agent.reader.layout.parts["action_mask"].kind == "numbers"


def test_auto_finds_the_part_of_an_observation_and_tells_of_one_in_info(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    with doors(build, "env.action_mask=auto", masks="observation") as experiment:
        space = experiment.training_env.single_observation_space
        assert isinstance(space, PackedSpace) and LEGAL in space.layout.parts
    assert not caplog.records
    with doors(build, "env.action_mask=auto", masks="info", strict="false") as experiment:
        assert experiment.agent.read(torch.zeros(1, 6)).shape == (1, 6)
        experiment.trainer.collector.collect()
    (record,) = caplog.records
    assert "its info has an action_mask, which is not used; give env.action_mask=info" in record.getMessage()


def test_random_actions_are_uniform_over_legal_ones_and_last(build: Build) -> None:
    for steps in (1, 4):
        with doors(build, "algo=dqn", f"algo.random_steps={steps}", *REPLAY, doors=7) as experiment:
            policy, rng = experiment.agent, np.random.default_rng(0)
            policy.explore(1.0)
            noise = torch.from_numpy(policy.distribution.draw_noise(rng, 6000, 3))
            legal = torch.tensor([True, False, True, True, False, False, False])
            values = torch.where(legal, torch.tensor([5.0, 9, -3, 100, 1, 2, 3]), torch.tensor(-1e9))
            taken = policy.distribution.sample(values.expand(6000, 3, 7), noise)
            counts = np.bincount(taken.flatten().numpy(), minlength=7)
            assert (counts[[1, 4, 5, 6]] == 0).all()
            spread = 5 * np.sqrt(18000 * steps * 2 / 9) * 1.5
            assert (abs(counts[[0, 2, 3]] - 6000) < spread).all()
            stays = float((taken[1:] == taken[:-1]).double().mean())
            expected = 1 / 3 if steps == 1 else 3 / 4 + 1 / 4 / 3
            assert stays == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("pair", ["true", "false"])
def test_check_takes_legal_actions(pair: str, main: Main) -> None:
    """Let the environment raise at a door that is not there."""
    arguments = ("+env.kwargs.masks=info", f"+env.kwargs.pair={pair}", "env.action_mask=info")
    status, lines = main("check", "env/gymnasium", "env.id=tests.support.environments:plexp-tests/Doors-v0", *arguments)
    assert status == 0 and lines[-1] == "it satisfies its contract", lines
