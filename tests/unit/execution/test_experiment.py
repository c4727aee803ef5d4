"""Tests of building experiments from configurations; a wrong configuration is refused in one line."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plexp.plugins.env.gymnasium import GymnasiumEnvironment

from plexp.config.compose import resolve
from plexp.errors import ConfigError
from plexp.execution.experiment import build as build_experiment
from tests.support.environments import QUIET

Build = Callable[..., Any]
SPACES = "env.id=plexp-tests/Any2Any-v0 +env.kwargs.sees={} +env.kwargs.acts={}"

WRONG: dict[str, str] = {
    "seed=-1": "seed=-1: must be greater than or equal to 0",
    "seed=1.5": "seed=1.5: must be a valid integer",
    "seed=true": "seed=True: must be a valid integer",
    "total_timesteps=0": "total_timesteps=0: must be greater than 0",
    "total_timesteps=many": "total_timesteps=many: must be a valid integer",
    "total_episodes=-3": "total_episodes=-3: must be greater than 0; give int > 0 or null",
    "torch_threads=0": "torch_threads=0: must be greater than 0",
    "device=meta": "device=meta: not usable here",
    "device=gpu": "device=gpu: not usable here",
    "advantage.gae_lambda=-1": "advantage.gae_lambda=-1: must be greater than or equal to 0",
    "algo.clip_eps=0": "algo.clip_eps=0: must be greater than 0; give float > 0 and < 1 or null",
    "algo.learning_rate=fast": "algo.learning_rate=fast: must be a valid number; give float > 0",
    "algo.learning_rate=inf": "algo.learning_rate=inf: must be",
    "algo.learning_rate=null": "algo.learning_rate=null: must be a valid number",
    "algo.update_epochs=2.5": "algo.update_epochs=2.5: must be a valid integer",
    "algo.standardize_advantages=false": "algo.standardize_advantages=False: must be 'minibatch', 'rollout', 'episode' or",
    "+algo.x=1": "algo.x: PPO has no such parameter; ",
    "+algo.clip_ep=0.1": "algo.clip_ep: PPO has no such parameter; did you mean clip_eps?",
    "algo=a2c +algo.update_epochs=4": "algo.update_epochs=4: A2C cannot use it; its gradient holds only for the policy that",
    "algo=reinforce +algo.num_steps=5": "algo.num_steps=5: REINFORCE cannot use it; an update takes one complete episode",
    "+algo._target_=os.system": "algo._target_: PPO has no such parameter",
    "+env.kwargs._target_=os.system": "env.id=CartPole-v1: cannot be made",
    "algo.plugin=../x": "algo.plugin=../x: there is no such plugin; there are",
    "algo.plugin=os": "algo.plugin=os: there is no such plugin; ",
    "algo.plugin=ppoo": "algo.plugin=ppoo: there is no such plugin; did you mean ppo?",
    "~algo.plugin": "algo.plugin=null: there is no such plugin; there are",
    "~net": "net.plugin=null: there is no such plugin; there are cnn, gru",
    "~seed": "seed: has no value; give int ≥ 0",
    "~algo.clip_eps": "algo.clip_eps: has no value; give float > 0 and < 1 or null",
    "~policy.bounds": "policy.bounds: has no value; give one of clip, tanh",
    "+colour=red": "colour: plexp has no such parameter",
    "+tracker.colour=red": "tracker.colour: tracker has no such parameter",
    "evaluation.episodes=0": "evaluation.episodes=0: must be greater than 0",
    "evaluation=5": "evaluation=5: ",
    "policy.log_std=learnt": "policy.log_std=learnt: must be 'free', 'state' or 'identity'",
    "policy.log_std_init=nan": "policy.log_std_init=nan: must be",
    "net.layers=0": "net.layers=0: must be greater than 0",
    "net.activation=sigmoid": "net.activation=sigmoid: must be 'tanh', 'relu', 'silu' or 'elu'",
    "net=cnn": "net=cnn: net=cnn takes images of 36 pixels a side or more, and the observations are [4]; choose net=mlp",
    "net@critic_net=mlp net.share_trunk=true": "net.share_trunk=True: a shared trunk leaves no room",
    "net@critic_net=mlp critic_net.width=0": "critic_net.width=0: must be greater than 0",
    "algo.num_minibatches=7": "algo.num_minibatches=7: the rollout has 128 steps x 8 environments = 1024 rows, which it does"
    " not divide; give algo.num_minibatches=8",
    "algo.num_minibatches=2000": "algo.num_minibatches=2000: the rollout has 128 steps x 8 environments = 1024 rows, fewer"
    " than minibatches; give algo.num_minibatches=1024",
    "algo=actor_critic advantage=returns": "advantage=returns: returns needs whole episodes, and algo=actor_critic learns",
    "advantage=returns algo.clip_value=0.2": "algo.clip_value=0.2: there is no critic with the estimator Returns; give",
    "advantage=returns algo.critic_epochs=2": "algo.critic_epochs=2: there is no critic with the estimator Returns",
    "net.share_trunk=true algo.critic_epochs=2": "algo.critic_epochs=2: actor and critic share a trunk; give",
    "algo.replay_rollouts=2": "algo.replay_rollouts=2: the estimator GAE does not correct for the older policy",
    "algo.target_update_every=1 algo.clip_value=0.2": "algo.clip_value=0.2: the values of the rollout are the target",
    "env=pendulum advantage=q net.share_trunk=true": "advantage: for these actions Q(s, a) takes the action as an input",
    "env.id=CartPoll-v1": "env.id=CartPoll-v1: there is no such environment; did you mean CartPole-v1?",
    "env.id=CartPole-v9": "env.id=CartPole-v9: there is no such environment; did you mean CartPole-v1?",
    "env.id=nowhere:Thing-v0": "env.id=nowhere:Thing-v0: the module nowhere is missing; pip install the package that holds",
    "env.id='Cart Pole'": "env.id=Cart Pole: cannot be made: Error: Malformed environment ID",
    "env.id=''": "env.id=: cannot be made: Error: Malformed",
    "env.id=a:b:c": "env.id=a:b:c: cannot be made: ValueError: too many values to unpack (expected 2); give Name-v0",
    "env.id=5": "env.id=5: must be a valid string",
    "env=gymnasium": "env.id: has no value; give env.id=…",
    "+env.kwargs.gravity_of_the_moon=1": "env.id=CartPole-v1: cannot be made: TypeError: ",
    "env.kwargs=5": "env.kwargs=5: must be a valid dictionary",
    "env.num_envs=0": "env.num_envs=0: must be greater than 0",
    "env.max_episode_steps=-1": "env.max_episode_steps=-1: must be greater than 0",
    "env.vectorization=threads": "env.vectorization=threads: must be 'sync' or 'async'",
    "env.id=plexp-tests/Faulty-v0 +env.kwargs.fault=constructor": "env.id=plexp-tests/Faulty-v0: cannot be made: OSError: ",
    SPACES.format("box", "text"): "env: the action space Text(",
    SPACES.format("box", "sequence"): "env: the action space Sequence(",
    SPACES.format("box", "'many integers'"): "env: the action space Box(",
    SPACES.format("sequence", "box"): "env.id=plexp-tests/Any2Any-v0: its observation is a Sequence, which has no",
    SPACES.format(
        "image", "discrete"
    ): "env.normalize_observations=True: images are scaled by the network; give env.norm",
    SPACES.format("'small image'", "discrete")
    + " net=cnn env.normalize_observations=false": "net=cnn: net=cnn takes images",
    SPACES.format("box", "unbounded") + " policy.bounds=tanh": "policy.bounds=tanh: tanh needs finite bounds",
    SPACES.format("box", "largest") + " policy.bounds=tanh": "policy.bounds=tanh: tanh needs finite bounds",
    "env.id=plexp-tests/Counter-v0 env.vectorization=async env.id=Nope-v0": "env.id=Nope-v0: there is no such environment",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_a_wrong_configuration_is_refused_in_one_line(overrides: str, build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build(*shlex.split(overrides))
    (problem,) = raised.value.problems
    assert str(problem).startswith(WRONG[overrides])
    assert "\n" not in str(problem) and "; " in str(problem)


@pytest.mark.parametrize("gamma", ["1.5", "-0.1", "nan"])
def test_a_wrong_discount_is_reported_once_by_the_key_that_was_given(gamma: str, build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build(f"gamma={gamma}")
    (problem,) = raised.value.problems  # none of the keys that interpolate it
    assert str(problem).startswith(f"gamma={gamma}: must be")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"^device=cuda: not usable here \(.*\); give device=cpu$"):
        build("device=cuda")


def test_all_problems_are_reported_at_once(build: Build) -> None:
    wrong = ("gamma=2", "algo.clip_eps=3", "net.layers=0", "+env.colour=red", "policy.bounds=none", "tracker.every=0")
    with pytest.raises(ConfigError) as raised:
        build(*wrong, "algo.learning_rate=-1")
    keys = {problem.key for problem in raised.value.problems}
    assert keys == {
        *("algo.clip_eps", "algo.learning_rate", "net.layers", "env.colour", "policy.bounds", "tracker.every"),
        "gamma",
    }
    assert len(str(raised.value).splitlines()) == len(raised.value.problems)


def test_a_late_refusal_leaves_no_environment_open(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make = GymnasiumEnvironment.make

    def remember(self: GymnasiumEnvironment, *arguments: Any) -> Any:
        made.append(make(self, *arguments))
        return made[-1]

    monkeypatch.setattr("plexp.plugins.env.gymnasium.GymnasiumEnvironment.make", remember)
    late = (
        ["net=cnn"],
        ["net.share_trunk=true", "net@critic_net=mlp"],
        ["env=pendulum", "algo=a2c", "advantage=q", "net.share_trunk=true"],
    )
    for overrides in late:
        with pytest.raises(ConfigError):
            build(*overrides)
    assert len(made) == 3 and all(env.closed for env in made)


def test_leaving_an_experiment_closes_its_environments(compose: Build) -> None:
    with pytest.raises(RuntimeError, match="inside"), build_experiment(resolve(compose())) as experiment:
        assert not experiment.training_env.closed
        raise RuntimeError("inside")
    assert experiment.training_env.closed


def test_problems_survive_pickling(build: Build) -> None:
    with pytest.raises(ConfigError) as raised:
        build("gamma=2", "net.layers=0")
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value) and again.problems == raised.value.problems


def test_the_name_of_a_run_lists_its_plugins(build: Build) -> None:
    assert build("env.num_envs=1").name == "ppo-mlp2x64-gae-cartpole-s0"
    experiment = build(
        "algo=a2c", "advantage=n_step", "net.layers=3", "net.width=32", "env=lunarlander_continuous", "seed=7"
    )
    assert experiment.group == "a2c-mlp3x32-n_step-lunarlander_continuous"
    assert experiment.name == "a2c-mlp3x32-n_step-lunarlander_continuous-s7"


@pytest.mark.parametrize("algo", ["reinforce", "actor_critic", "a2c", "ppo"])
def test_an_algorithm_chooses_its_estimator_unless_the_command_line_does(algo: str, compose: Build) -> None:
    natural = {"reinforce": "returns", "actor_critic": "td", "a2c": "gae", "ppo": "gae"}
    assert compose(f"algo={algo}").advantage.plugin == natural[algo]
    assert compose(f"algo={algo}", "advantage=baseline").advantage.plugin == "baseline"
    assert compose("advantage=baseline", f"algo={algo}").advantage.plugin == "baseline"


@pytest.mark.parametrize("launcher", ["joblib", "basic"])
def test_every_launcher_can_be_chosen(launcher: str, compose: Build) -> None:
    compose(f"hydra/launcher={launcher}")


def test_values_of_the_environment_are_overridden_in_one_place(build: Build) -> None:
    values = build("env=lunarlander").values
    assert (values["gamma"], values["advantage"]["gamma"], values["total_timesteps"]) == (0.999, 0.999, 1_000_000)
    assert values["evaluation"]["every"] == 25_000
    values = build("env=lunarlander", "gamma=0.9", "total_timesteps=100").values
    assert (values["gamma"], values["advantage"]["gamma"], values["total_timesteps"]) == (0.9, 0.9, 100)


def test_the_agent_has_the_critic_that_the_estimator_needs(build: Build) -> None:
    kinds = {
        advantage: build("env.num_envs=1", f"advantage={advantage}").agent for advantage in ("returns", "gae", "q")
    }
    assert kinds["returns"].critic is None
    assert kinds["gae"].critic(torch.zeros(5, 4)).shape == (5,)
    assert kinds["q"].critic(torch.zeros(5, 4)).shape == (5, 2)
    wide = build("net@critic_net=mlp", "critic_net.width=256").agent
    assert wide.critic.trunk[0].out_features == 256 and wide.trunk[0].out_features == 64


def test_the_reward_scaler_uses_the_discount_of_the_experiment(build: Build) -> None:
    assert build("gamma=0.5").trainer.collector.scaler.gamma == 0.5
    assert build(*QUIET).trainer.collector.scaler is None and build(*QUIET).agent.normalizer is None


@pytest.mark.parametrize(
    ("acts", "policy", "expected"),
    [
        (
            "far",
            "",
            "policy.bounds=clip: action 0 lies in [100, 200], and the policy starts at 0 ± 1; give policy.bounds",
        ),
        (
            "narrow",
            "",
            "policy.bounds=clip: action 0 lies in [0, 0.001], and the policy starts at 0 ± 1; give policy.bou",
        ),
        ("narrow", "policy.log_std_init=-7", None),
        ("box", "policy.log_std_init=3.5", "action 0 lies in [-1, 1], and the policy starts at 0 ± 33.1155"),
        ("box", "", None),
        ("box", "policy.log_std_init=3.5 policy.log_std=identity", None),
        ("doubles", "", None),
        ("unbounded", "", None),
        ("partly fixed", "", None),
        ("far", "policy.bounds=tanh", None),
    ],
)
def test_a_policy_that_starts_outside_the_bounds_is_warned_of(
    acts: str, policy: str, expected: str | None, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    build(*shlex.split(f"env=gymnasium {SPACES.format('box', shlex.quote(acts))} {policy}"))
    lines = [record.getMessage() for record in caplog.records if "policy.bounds" in record.getMessage()]
    assert len(lines) == (expected is not None) and (expected or "") in "".join(lines)


@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_an_action_of_zero_width_is_always_its_bound(bounds: str, build: Build) -> None:
    arguments = ("env=gymnasium", *shlex.split(SPACES.format("box", "'partly fixed'")), f"policy.bounds={bounds}")
    experiment = build(*arguments, *QUIET)
    taken = experiment.trainer.collector.collect().actions
    actions = experiment.agent.distribution.to_environment(taken.flatten(0, 1))
    assert (actions[:, 1] == 2).all() and len(actions[:, 0].unique()) > 10
