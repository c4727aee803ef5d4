"""Tests of the typed configuration, and of refusing values that contradict each other."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from plexp.config import registry
from plexp.config.fields import PositiveInt
from plexp.config.hydra_errors import compose_values
from plexp.config.identity import identity
from plexp.config.schema import RunConfig, check
from plexp.errors import ConfigError, Problem


def problems_of(*overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as error:
        check(compose_values(*overrides))
    return list(error.value.problems)


def test_values_become_typed_attributes_and_are_recorded_as_given() -> None:
    values = compose_values("policy.log_std_init=0", "callbacks=[patience]", "net@critic_net=mlp")
    config = check(values)
    assert config.seed == 0 and config.evaluation.every == values["evaluation"]["every"]
    assert isinstance(config.policy.log_std_init, float) and config.values == values
    assert isinstance(config.values["policy"]["log_std_init"], int), "so that MLflow has what was typed"
    assert config.algo["plugin"] == "ppo" and config.critic_net == values["critic_net"]
    assert config.callbacks["patience"]["plugin"] == "patience"
    assert {*config.classes} == {"algo", "advantage", "net", "env", "critic_net", "callbacks.patience"}


def test_a_plugin_gets_a_float_where_it_takes_one() -> None:
    values = compose_values(
        "algo.ent_coef=1", "algo.learning_rate=1", "callbacks=[patience]", "callbacks.patience.min_delta=2"
    )
    config = check(values)
    assert config.values == values and isinstance(config.algo["num_steps"], int)
    floats = (config.algo["ent_coef"], config.algo["learning_rate"], config.callbacks["patience"]["min_delta"])
    assert floats == (1.0, 1.0, 2.0) and all(isinstance(value, float) for value in floats)


@pytest.mark.parametrize("overrides", [(), ("algo=a2c", "env=pendulum", "policy.log_std_init=0", "net@critic_net=mlp")])
def test_the_typed_configuration_has_the_identity_of_its_values(overrides: tuple[str, ...]) -> None:
    values = compose_values(*overrides)
    assert identity(check(values).values) == identity(values)


def test_a_configuration_cannot_be_changed() -> None:
    config = check(compose_values())
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]


def test_the_models_have_the_keys_of_the_config_file() -> None:
    values = compose_values()
    assert values.keys() | {"critic_net", "replay", "callbacks"} == RunConfig.model_fields.keys()
    for name in ("policy", "evaluation", "checkpoint", "tracker"):
        assert values[name].keys() == getattr(check(values), name).model_dump().keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [("critic_learning_rate", 0.1), ("clip_value", 0.2), ("critic_epochs", 3), ("target_update_every", 5)],
)
def test_settings_of_a_critic_are_refused_without_a_critic(key: str, value: float) -> None:
    (problem,) = problems_of("algo=reinforce", f"algo.{key}={value}")
    assert (problem.key, problem.value) == (f"algo.{key}", value)
    assert "Returns" in problem.cause and f"algo.{key}=null" in problem.remedy


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("algo.critic_epochs=3", "net.share_trunk=true"), "algo.critic_epochs"),
        (("algo.clip_value=0.2", "algo.target_update_every=5"), "algo.clip_value"),
        (("algo.replay_rollouts=2",), "algo.replay_rollouts"),
        (("algo.num_minibatches=7",), "algo.num_minibatches"),
        (("algo=actor_critic", "advantage=returns"), "advantage"),
    ],
)
def test_values_that_contradict_each_other_are_refused(overrides: tuple[str, ...], key: str) -> None:
    assert [problem.key for problem in problems_of(*overrides)] == [key]


@pytest.mark.parametrize(
    "overrides",
    [
        ("algo=a2c", "advantage=vtrace", "algo.replay_rollouts=2"),
        ("algo=reinforce", "advantage=baseline", "algo.critic_epochs=3"),
        ("algo.target_update_every=5", "algo.critic_epochs=3"),
    ],
)
def test_values_that_fit_together_are_accepted(overrides: tuple[str, ...]) -> None:
    check(compose_values(*overrides))


class Solo:
    """Algorithm that learns without plexp's learner."""

    def __init__(self, agent: object, *, target_update_every: PositiveInt, num_minibatches: PositiveInt) -> None: ...


def test_an_algorithm_without_the_learner_may_use_the_names_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda group, name: Solo if name == "solo" else find(group, name))
    values = compose_values("advantage=returns")
    values["algo"] = {"plugin": "solo", "target_update_every": 500, "num_minibatches": 7}
    assert check(values).classes["algo"] is Solo


def test_all_contradictions_are_reported_at_once() -> None:
    problems = problems_of(
        *("algo=ppo", "advantage=returns", "algo.critic_epochs=2", "algo.clip_value=0.1", "algo.replay_rollouts=1")
    )
    assert [p.key for p in problems] == ["algo.clip_value", "algo.critic_epochs", "algo.replay_rollouts"]


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (7, "which it does not divide", "give algo.num_minibatches=8"),
        (2000, "fewer than minibatches", "give algo.num_minibatches=1024"),
    ],
)
def test_minibatches_must_divide_the_rollout(number: int, cause: str, remedy: str) -> None:
    (problem,) = problems_of(f"algo.num_minibatches={number}")
    assert problem.cause == f"the rollout has 128 steps x 8 environments = 1024 rows, {cause}"
    assert problem.remedy == remedy
