"""Tests of exporting: an exported policy acts as the agent does, and plays without plexp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation

from plexp.envs.packing import PackedActions, PackedSpace
from plexp.envs.seeding import EpisodeSeeds
from plexp.errors import ConfigError
from plexp.nn.distributions import ILLEGAL
from plexp.recorded import export as exporting
from plexp.recorded.export import Exported, check_formats, compare, export, met_observations, write
from plexp.training.evaluation import StepLimit, evaluate
from plexp.training.policy import as_model, greedy_policy
from tests.support import forks

onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "plexp[onnx]"')
WITHOUT_PLEXP = "import sys, runpy; sys.modules['plexp'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
SMALL = ("env.num_envs=2", "algo.num_steps=8", "algo.num_minibatches=1", "compile=false")
ANY = "env.id=tests.support.environments:plexp-tests/Any2Any-v0"
"""Environment whose module the script must import, as for a third-party one; it imports nothing of plexp."""
DOORS = "env.id=tests.support.environments:plexp-tests/Doors-v0"
AGENTS = {
    "choice, normalised": ("env=cartpole",),
    "box, clipped, normalised": ("env=lunarlander_continuous",),
    "box, tanh": ("env=pendulum", "policy.bounds=tanh"),
    "log σ of the state": ("env=pendulum", "policy.log_std=state", "net.share_trunk=true"),
    "image": (ANY, "+env.kwargs.sees=image", "+env.kwargs.acts=discrete"),
    "small pictures, channels first": (ANY, "+env.kwargs.sees=channels first", "+env.kwargs.acts=box"),
    "dict": (ANY, "+env.kwargs.sees=dict", "+env.kwargs.acts=doubles"),
    "dict by its parts": (ANY, "+env.kwargs.sees=dict", "+env.kwargs.acts=doubles", "net=multi"),
    "dict with a picture": (ANY, "+env.kwargs.sees=pictures", "+env.kwargs.acts=discrete", "net=multi"),
    "mixed actions": (ANY, "+env.kwargs.sees=box", "+env.kwargs.acts=mixed"),
    "masks in info": (DOORS, "env.action_mask=info", "+env.kwargs.masks=info"),
    "masks in observations": (DOORS, "+env.kwargs.masks=observation"),
    "stacked": ("env=cartpole", "env.frame_stack=3", "env.observed=[0,2]"),
    "gru that sees some": ("env=cartpole_novel", "net=gru", "net.size=8"),
    "lstm with masks": (DOORS, "env.action_mask=info", "+env.kwargs.masks=info", "net=lstm", "net.size=8"),
    "gru of parts": (ANY, "+env.kwargs.sees=pictures", "+env.kwargs.acts=discrete", "net=gru", "net.encoder=multi"),
    "several choices": (ANY, "+env.kwargs.sees=tuple", "+env.kwargs.acts=multidiscrete"),
    "halves": (ANY, "+env.kwargs.sees=box", "+env.kwargs.acts=halves", "policy.bounds=tanh"),
    "integers": (ANY, "+env.kwargs.sees=box", "+env.kwargs.acts=few integers"),
    "choice of 32 bits": (ANY, "+env.kwargs.sees=box", "+env.kwargs.acts=discrete of 32 bits"),
    "coins": (ANY, "+env.kwargs.sees=matrix", "+env.kwargs.acts=multibinary"),
}


@pytest.fixture
def agent_of(build: Callable[..., Any], train: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a function that builds and updates an experiment, with weights so large that bounds are reached.

    Images of noise have almost equal features, as have new recurrent networks: such logits are centred, so that no action is
    the likeliest everywhere.
    """

    def make(kind: str) -> Any:
        picture = kind in ("image", "small pictures, channels first")
        net = ("net=cnn", "env.normalize_observations=false") if picture else ("net.width=8",)
        experiment = build(*AGENTS[kind], *net, *SMALL)
        train(experiment, 1)
        with torch.no_grad():
            for layer in experiment.agent.head.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.weight *= 300
            if kind in ("image", "stacked", *RECURRENT):
                agent, (observations, states) = experiment.agent, met_observations(experiment)
                logits, _ = agent.step(agent.read(observations), states)
                agent.head.linear.bias -= logits.where(logits > ILLEGAL, 0.0).mean(0)
        return experiment

    return make


def plain_actions(experiment: Any, observations: torch.Tensor, states: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """Return the greedy actions as the environment gets them, and the next states, computed one observation at a time."""
    agent = experiment.agent
    pairs = [agent.act_greedily(row[None], state[None]) for row, state in zip(observations, states, strict=True)]
    actions = torch.cat([agent.distribution.to_environment(action) for action, _ in pairs])
    return actions.numpy(), torch.cat([state for _, state in pairs])


def plain_return(experiment: Any) -> float:
    """Play the episode from seed 0 with the agent in gymnasium alone, and return its return."""
    training = experiment.training_env
    if isinstance(training.single_observation_space, PackedSpace) or isinstance(
        training.single_action_space, PackedActions
    ):
        limit = StepLimit(None)
        return float(evaluate(experiment.agent, experiment.environment, EpisodeSeedZero(), 1, limit=limit).returns[0])
    config = experiment.config.env
    env = gymnasium.make(
        config["id"], disable_env_checker=True, max_episode_steps=config["max_episode_steps"], **config["kwargs"]
    )
    if not isinstance(env.observation_space, gymnasium.spaces.Box):
        env = FlattenObservation(env)
    (observation, _), total, over = env.reset(seed=0), 0.0, False
    state, seen = experiment.agent.initial_state(1), slice(None) if config["observed"] is None else config["observed"]
    dtype = torch.uint8 if observation.dtype == np.uint8 else torch.float32
    frames = [observation[seen]] * (config["frame_stack"] or 1)
    while not over:
        frames = [*frames[1:], observation[seen]]
        given = frames[0] if config["frame_stack"] is None else np.stack(frames)
        (action,), state = plain_actions(experiment, torch.as_tensor(given, dtype=dtype)[None], state)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    env.close()
    return total


class EpisodeSeedZero(EpisodeSeeds):
    """Seeds that are all 0, as the script's."""

    def __init__(self) -> None:
        super().__init__(0, (9,))

    def __call__(self, environment: int, episode: int) -> int:
        return 0


PACKED = ("dict with a picture", "masks in info", "masks in observations", "lstm with masks", "gru of parts")
COMPOSITE = ("mixed actions",)
RECURRENT = ("gru that sees some", "lstm with masks", "gru of parts")
WITH_SCRIPTS = (
    *PACKED,
    *COMPOSITE,
    *RECURRENT,
    "stacked",
    "choice, normalised",
    "box, clipped, normalised",
    "image",
    "dict",
)
ALWAYS = (
    "choice, normalised",
    "box, clipped, normalised",
    "image",
    "dict",
    "masks in info",
    "box, tanh",
    *RECURRENT[:1],
)
"""Agents whose tests are not slow; the others differ from these in the shapes of actions or observations."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ALWAYS else pytest.mark.slow) for kind in AGENTS]
)
def test_the_files_act_as_the_agent_does_and_their_scripts_play_its_episode(
    kind: str, agent_of: Callable[[str], Any], tmp_path: Path
) -> None:
    experiment = agent_of(kind)
    exported = export(experiment, ["pt2", "onnx"], tmp_path, "The agent.")
    assert [each.file.name for each in exported] == ["policy.pt2", "policy.onnx"]
    observations, states = (column[:50] for column in met_observations(experiment))
    expected, expected_states = plain_actions(experiment, observations, states)
    assert len(np.unique(expected)) > 1
    inputs = greedy_policy(experiment.agent).inputs(observations, states)
    assert len(inputs) == 1 + (kind in RECURRENT)
    traced = torch.export.load(tmp_path / "policy.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    names = [entry.name for entry in session.get_inputs()]
    assert names == ["observations", "state"][: len(inputs)]
    for size in (1, 2, 7):
        parts = list(zip(*(column.split(size) for column in inputs), strict=True))
        ours = [traced(*part) for part in parts]
        theirs = [session.run(None, dict(zip(names, map(torch.Tensor.numpy, part), strict=True))) for part in parts]
        if kind in RECURRENT:
            for after in (torch.cat([each[1] for each in ours]).detach(), np.concatenate([each[1] for each in theirs])):
                np.testing.assert_allclose(after, expected_states[:, : inputs[1].shape[1]], rtol=1e-5, atol=1e-5)
            ours = [actions for actions, _ in ours]
        for actions in (torch.cat(ours).detach().numpy(), np.concatenate([each[0] for each in theirs])):
            assert actions.dtype == expected.dtype and actions.shape == expected.shape
            np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)
    if kind == "box, tanh" or "clipped" in kind:
        assert np.abs(expected).max() > 0.9 * experiment.training_env.single_action_space.high.max()
    if kind in WITH_SCRIPTS:
        expected_return = plain_return(experiment)
        for each in exported:
            check_script(each, kind, expected_return)


def check_script(exported: Exported, kind: str, expected_return: float) -> None:
    """Run the script in a process that cannot import plexp, and assert that it plays the agent's episode."""
    assert exported.script is not None
    text = exported.script.read_text()
    assert "plexp" not in text.replace("plexp-tests", "") and ("torch" in text) == (exported.file.suffix == ".pt2")
    assert ("FlattenObservation" in text) == (kind == "dict")
    assert (" packed(" in text) == (kind in PACKED) and (" unpacked(" in text) == (kind in COMPOSITE)
    assert ("--show" in text) == (not {ANY, DOORS} & {*AGENTS[kind]}), "a window, where there can be one"
    done = forks.run([str(exported.script)], code=WITHOUT_PLEXP)
    assert done.stdout == f"return {expected_return:.2f}\n", done.stderr


def test_an_environment_that_gymnasium_cannot_make_gets_no_script(
    agent_of: Callable[[str], Any], tmp_path: Path
) -> None:
    experiment = agent_of("choice, normalised")
    experiment.config.env["id"] = "Pong-v5-of-another-library"
    assert export(experiment, ["pt2"], tmp_path, "")[0].script is None
    del experiment.config.env["id"]
    assert export(experiment, ["pt2"], tmp_path, "")[0].script is None


def test_a_file_that_acts_differently_is_detected_and_removed(
    agent_of: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = agent_of("box, tanh")

    def careless(policy: Any, example: Any, kind: str, file: Path) -> Any:
        reader = write(policy, example, kind, file)
        return lambda observations: (reader(observations)[0] + 0.01,)

    monkeypatch.setattr(exporting, "write", careless)
    with pytest.raises(ConfigError, match="acts differently from the agent"):
        export(experiment, ["pt2"], tmp_path, "")
    assert not (tmp_path / "policy.pt2").exists()


def test_integer_actions_are_compared_by_the_share_that_differs() -> None:
    ours, theirs = (torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0]]) for _ in range(2))
    theirs = theirs.clone()
    theirs[3, 1] = 1
    index = torch.arange(4)

    class Table(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return ours[rows]

    assert compare(lambda rows: (theirs[rows],), Table(), (index,)) == 1 / 8
    assert compare(lambda rows: (ours[rows],), Table(), (index,)) == 0


def test_a_policy_that_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    class Choosy(torch.nn.Module):
        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return observations if bool(observations.sum() > 0) else -observations

    for kind in ("pt2", "onnx"):
        with pytest.raises(ConfigError, match="torch cannot trace this policy") as caught:
            write(Choosy(), (torch.ones(2, 3),), kind, tmp_path / "policy")
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "policy").exists()


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_formats(["pt2", "onnx"])
    find = exporting.importlib.util.find_spec
    monkeypatch.setattr(
        exporting.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    check_formats(["pt2"])
    with pytest.raises(
        ConfigError, match=r'needs the package onnxscript, which is missing; pip install "plexp\[onnx\]"'
    ):
        check_formats(["pt2", "onnx"])


def test_the_greedy_policy_gives_what_the_environment_takes(agent_of: Callable[[str], Any]) -> None:
    experiment = agent_of("several choices")
    observations, states = (column[:9] for column in met_observations(experiment))
    policy = greedy_policy(experiment.agent)
    actions = policy(policy.rows(observations)).numpy()
    np.testing.assert_array_equal(actions, plain_actions(experiment, observations, states)[0])
    assert all(experiment.training_env.single_action_space.contains(action) for action in actions)


def test_a_recurrent_policy_is_a_model_of_one_tensor_for_mlflow(agent_of: Callable[[str], Any]) -> None:
    experiment = agent_of("gru that sees some")
    observations, states = (column[:9] for column in met_observations(experiment))
    model, example = as_model(experiment.agent, observations)
    policy = greedy_policy(experiment.agent)
    rows, own = policy.inputs(observations, states)
    assert example.shape == (9, 2 + 8) and not example[:, 2:].any()
    actions, after = policy(rows, own)
    joined = model(torch.cat([rows, own], -1))
    assert torch.equal(joined[:, 0], actions.float()) and torch.equal(joined[:, 1:], after)
    any_number = ({0: torch.export.Dim("batch")},)
    traced = torch.export.export(model.eval(), (example[:2],), dynamic_shapes=any_number).module()
    assert torch.equal(traced(torch.cat([rows, own], -1)), joined)
    plain, example = as_model(agent_of("choice, normalised").agent, torch.zeros(2, 4))
    assert plain(example).shape == (2,)
