"""Tests of what every plugin must satisfy; plugins are found by walking `plugins/` and `conf/`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from plexp.config import config_files, registry
from plexp.config.paths import CONF
from plexp.config.schema import flattened
from plexp.errors import ConfigError

PLUGINS = [(group, name) for group in registry.GROUPS for name in registry.names(group)]
CONFIGS = [(group, file.stem) for group in registry.GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
CONTINUOUS, DISCRETE = ("td3", "ddpg"), ("dqn", "qr_dqn")
"""Configs of algorithms that are for one kind of actions alone."""
ABLATIONS = [
    (group, file.stem) for group in ("ablation", "dqn_ablation") for file in sorted((CONF / group).glob("*.yaml"))
]
ALGOS, ADVANTAGES = ([name for group, name in CONFIGS if group == wanted] for wanted in ("algo", "advantage"))
REFUSED = {("actor_critic", "returns")}

Compose = Callable[..., DictConfig]
Build = Callable[..., Any]
Small = Callable[..., DictConfig]
Learns = Callable[[DictConfig], dict[str, torch.Tensor]]


def values_of(group: str, option: str, compose: Compose) -> dict[str, Any]:
    """Return the section that a config composes to, unresolved."""
    composed = compose(choice(group, option))[group]
    section: dict[str, Any] = OmegaConf.to_container(composed[option] if group == "callbacks" else composed)  # type: ignore[assignment]
    return section


def choice(group: str, option: str) -> str:
    """Return the override that chooses an option."""
    return f"callbacks=[{option}]" if group == "callbacks" else f"{group}={option}"


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_every_plugin_has_a_config_of_its_name(group: str, name: str, compose: Compose) -> None:
    assert (group, name) in CONFIGS
    assert values_of(group, name, compose)["plugin"] == name


@pytest.mark.parametrize(("group", "option"), CONFIGS)
def test_the_keys_of_a_config_are_the_parameters_of_its_plugin(group: str, option: str, compose: Compose) -> None:
    values = values_of(group, option, compose)
    expected = set(registry.parameters(registry.find(group, values.pop("plugin"))))
    assert set(values) == expected | (set(registry.ENV_PRESET_FIELDS) if group == "env" else set())


@pytest.mark.parametrize(("group", "option"), CONFIGS)
def test_every_value_of_a_config_has_a_comment(group: str, option: str, compose: Compose) -> None:
    commented = config_files.comments(group, option).keys() | {"plugin"}
    interpolated = {key for key, value in config_files.values(group, option).items() if str(value).startswith("${")}
    assert values_of(group, option, compose).keys() <= commented | interpolated


def test_every_value_of_the_root_config_has_a_comment() -> None:
    text = (CONF / "config.yaml").read_text().partition("\nhydra:")[0].partition("\nseed:")
    for line in (text[1] + text[2]).splitlines():
        if re.match(r" *\w+: *[^ ]", line):
            assert "#" in line, line


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_every_parameter_has_a_type_and_no_default(group: str, name: str) -> None:
    for parameter in inspect.signature(registry.find(group, name)).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.default is inspect.Parameter.empty, f"{parameter}: the value stands in the config"


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_every_plugin_has_a_docstring_with_a_source(group: str, name: str) -> None:
    text = inspect.getdoc(registry.find(group, name)) or ""
    assert len(text.splitlines()[0]) > 10
    if group in ("algo", "advantage"):
        assert re.search(r"\([^()]*\b(19|20)\d\d\b[^)]*\)", text), "a source with its year"


@pytest.mark.parametrize(
    ("group", "option"), [s for s in CONFIGS if s not in (("net", "cnn"), ("net", "multi"), ("env", "gymnasium"))]
)
def test_every_config_builds(group: str, option: str, build: Build, compose: Compose) -> None:
    learns_values = group == "replay" or (group, option) == ("advantage", "none")
    others = ["algo=dqn"] if learns_values else ["env=pendulum"] if option in CONTINUOUS else []
    experiment = build(compose(*others, choice(group, option)))
    names = [option, experiment.values[group].get("plugin", option)]
    assert any(name in experiment.name for name in names) or group in ("env", "callbacks") or learns_values
    assert list(experiment.callbacks) == ([option] if group == "callbacks" else [])
    algorithm = experiment.trainer.algorithm
    assert isinstance(algorithm.num_steps, int) and isinstance(algorithm.complete_episodes, bool)
    if experiment.memory is not None:
        return
    estimator = algorithm.learner.advantage
    assert estimator.critic in ("none", "v", "q")
    assert isinstance(estimator.complete_episodes, bool) and isinstance(estimator.off_policy, bool)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_and_has_a_comment(name: str, build: Build, compose: Compose) -> None:
    build(compose(f"+experiment={name}"))
    assert re.search(r"^# (?!@package).{10,}", (CONF / "experiment" / f"{name}.yaml").read_text(), re.M)


@pytest.mark.parametrize(("group", "name"), ABLATIONS)
def test_every_ablation_changes_one_thing_and_builds(group: str, name: str, build: Build, compose: Compose) -> None:
    """Compare with the full set of ingredients; a rung of DQN's ladder with the one before."""
    rungs = [each for kind, each in ABLATIONS if kind == group]
    other = "full" if group == "ablation" else rungs[max(0, rungs.index(name) - 1)]
    full, changed = (flat(compose(f"+experiment={group}", f"{group}={each}")) for each in (other, name))
    differing = {key for key in full | changed if full.get(key) != changed.get(key)}
    if any(key.startswith("replay.") for key in differing):
        differing = {"replay"}
    assert len(differing) == (name != other), differing
    build(compose(f"+experiment={group}", f"{group}={name}"))


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if hasattr(value, "items") and value else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
@pytest.mark.parametrize("advantage", ADVANTAGES)
@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm_learns_with_every_estimator_or_refuses_it(
    algo: str, advantage: str, env: str, build: Build, small: Small, learns: Learns, compose: Compose
) -> None:
    config = small(compose(f"algo={algo}", f"env={env}"))
    config.advantage = compose(f"advantage={advantage}").advantage
    learns_values, discrete = config.get("replay") is not None, env == "cartpole"
    wrong_actions = algo in (CONTINUOUS if discrete else DISCRETE)
    if (algo, advantage) in REFUSED or learns_values != (advantage == "none") or wrong_actions:
        with pytest.raises(ConfigError):
            build(config)
        return
    if learns_values:  # tests/plugins/test_replay_algorithms.py trains it
        build(config)
        return
    if config.algo.critic_learning_rate is not None and advantage == "returns":
        config.algo.critic_learning_rate = None
    learns(config)


SETTINGS: list[dict[str, Any]] = [
    {"ent_coef": 0.1},
    {"vf_coef": 2.0},
    {"max_grad_norm": None},
    {"max_grad_norm": 0.01},
    {"learning_rate": 1e-2},
    {"critic_learning_rate": 1e-2},
    {"anneal_learning_rate": False},
    {"adam_eps": 0.1},
    {"clip_value": 1e-4},
    {"critic_epochs": 3},
    {"target_update_every": 1, "target_tau": 0.1},
    {"target_update_every": 2},
    {"num_minibatches": 1},
    {"num_minibatches": 16},
    *({"standardize_advantages": kind} for kind in ("minibatch", "rollout", "episode", "off")),
    {"update_epochs": 5},
    {"clip_eps": 1e-4},
    {"anneal_clip": True, "clip_eps": 1e-3},
    {"target_kl": 1e-9},
]


PPO_ONLY = {"update_epochs", "clip_eps", "anneal_clip", "target_kl"}
SET = [*(("a2c", each) for each in SETTINGS if not each.keys() & PPO_ONLY), *(("ppo", each) for each in SETTINGS)]


@pytest.mark.parametrize(("algo", "setting"), SET, ids=str)
def test_every_setting_of_an_algorithm_learns_and_changes_what_is_learnt(
    algo: str, setting: dict[str, Any], small: Small, learns: Learns, compose: Compose
) -> None:
    usual = compose(f"algo={algo}")
    beside = {"algo__clip_eps": setting["clip_eps"]} if "anneal_clip" in setting else {}
    plain = learns(small(compose(f"algo={algo}"), **beside))
    changed = learns(small(compose(f"algo={algo}"), **{f"algo__{name}": value for name, value in setting.items()}))
    same = all(torch.equal(changed[name], plain[name]) for name in plain)
    assert same == (setting.get("standardize_advantages") == usual.algo.standardize_advantages)


@pytest.mark.parametrize("algo", ["a2c", "ppo"])
def test_replayed_rollouts_are_learnt_from(algo: str, small: Small, learns: Learns, compose: Compose) -> None:
    weights = [
        learns(small(compose(f"algo={algo}", "advantage=vtrace"), algo__replay_rollouts=number)) for number in (0, 2)
    ]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


NETS = [
    *({"layers": number} for number in (1, 3)),
    *({"activation": name} for name in ("tanh", "relu", "silu", "elu")),
    {"layer_norm": True},
    {"initialization": "default"},
    {"share_trunk": True},
]


@pytest.mark.parametrize("option", NETS, ids=str)
def test_every_option_of_the_network_learns(
    option: dict[str, Any], small: Small, learns: Learns, compose: Compose
) -> None:
    learns(small(compose(), **{f"net__{name}": value for name, value in option.items()}))


def test_a_network_of_the_critics_own_learns(small: Small, learns: Learns, compose: Compose) -> None:
    weights = learns(small(compose("net@critic_net=mlp", "critic_net.width=24")))
    assert weights["critic.trunk.0.weight"].shape == (24, 4) and weights["trunk.0.weight"].shape == (8, 4)


@pytest.mark.parametrize("log_std", ["free", "state", "identity"])
@pytest.mark.parametrize("bounds", ["clip", "tanh"])
def test_every_policy_over_continuous_actions_learns(
    log_std: str, bounds: str, small: Small, learns: Learns, compose: Compose
) -> None:
    config = small(compose("env=pendulum"), policy__log_std=log_std, policy__bounds=bounds, policy__log_std_init=-0.5)
    weights = learns(config)
    assert ("head.log_std" in weights) == (log_std == "free")
    assert weights["head.linear.weight"].shape[0] == (2 if log_std == "state" else 1)


TUNED = sorted(file.stem for file in (CONF / "tuned").glob("*.yaml") if file.stem != "none")


@pytest.mark.parametrize("name", TUNED)
def test_a_tuned_config_applies_to_its_pair_and_only_its_pair(name: str, compose: Compose) -> None:
    pairs = [(a.stem, e.stem) for a in (CONF / "algo").glob("*.yaml") for e in (CONF / "env").glob("*.yaml")]
    ((algo, env),) = [pair for pair in pairs if "_".join(pair) == name]
    pair, plain = compose(f"algo={algo}", f"env={env}"), compose(f"algo={algo}", f"env={env}", "tuned=none")
    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "tuned" / f"{name}.yaml"))
    for key, value in flattened(values):
        assert OmegaConf.select(pair, key) == value != OmegaConf.select(plain, key)
    other = compose(f"algo={algo}", "env=acrobot")
    assert other == compose(f"algo={algo}", "env=acrobot", "tuned=none")
