"""From a composed configuration to objects: the one place where configuration meets classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from plexp.config import registry
from plexp.config.schema import check
from plexp.envs.environment import Environment
from plexp.envs.film import filmed
from plexp.envs.seeding import Streams
from plexp.envs.spaces import action_distribution, is_image, observation_shape
from plexp.errors import ConfigError, Problem, one_line
from plexp.execution.device import device_of, is_compiled
from plexp.nn.networks import Network
from plexp.nn.normalization import ObservationNormalizer, RewardScaler
from plexp.training.agent import Agent
from plexp.training.collector import Collector
from plexp.training.interfaces import AdvantageEstimator, Algorithm, Stateful, TrainingCallback
from plexp.training.learner import Learner
from plexp.training.progress import Profile
from plexp.training.trainer import Trainer

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """All the objects of one run."""

    values: dict[str, Any]
    """The resolved configuration."""
    environment: Environment
    agent: Agent
    trainer: Trainer
    training_env: VectorEnv[Any, Any, Any]
    streams: Streams
    remembers: Mapping[str, Stateful] | None
    """All that changes while it trains, beside what callbacks count; None: the algorithm does not say what it remembers."""
    callbacks: dict[str, TrainingCallback]
    """Plugins that are told how the training goes, by the names of their sections."""
    group: str
    """Its name without the seed, e.g. `ppo-mlp2x64-gae-cartpole`."""

    @property
    def name(self) -> str:
        return f"{self.group}-s{self.values['seed']}"


def build(values: dict[str, Any]) -> Experiment:
    """Check a resolved configuration, then make the objects of one experiment.

    Raises ConfigError with all problems found; nothing has been created or written by then.
    """
    classes = check(values)
    torch.set_num_threads(values["torch_threads"])
    device = device_of(values["device"])
    streams = Streams(values["seed"])
    advantage: AdvantageEstimator = make(classes["advantage"], values["advantage"])
    listeners = {key.partition(".")[2]: cls for key, cls in classes.items() if key.startswith("callbacks.")}
    callbacks: dict[str, TrainingCallback] = {n: make(cls, values["callbacks"][n]) for n, cls in listeners.items()}
    environment: Environment = make(classes["env"], values["env"])
    if values["evaluation"]["film"]:
        filmed(environment, values["env"])  # or refuse, before anything starts
    net: Network = make(classes["net"], values["net"])
    critic_net = make(classes["critic_net"], values["critic_net"]) if "critic_net" in classes else None
    compiled, profile = is_compiled(values, classes["algo"], advantage, environment), Profile()
    env = environment.make(environment.num_envs, streams.training)
    try:
        agent = _agent(values, environment, env, net, critic_net, advantage, streams).to(device)
        if compiled:
            agent.compile(profile)
        wired = {"agent": agent, "advantage": advantage, "rng": streams.minibatches}
        learner = None
        if "learner" in inspect.signature(classes["algo"]).parameters:
            keys = registry.parameters(Learner)
            learner = Learner(agent, advantage, streams.minibatches, compiled, profile, **_pick(values["algo"], keys))
            wired["learner"] = learner
        algorithm: Algorithm = make(classes["algo"], values["algo"], **wired)
        _check_schedule(algorithm, advantage, environment)
        scaler = RewardScaler(env.num_envs, values["gamma"]) if environment.scale_rewards else None
        complete = algorithm.complete_episodes or advantage.complete_episodes
        collector = Collector(
            env,
            agent,
            streams.actions,
            scaler,
            num_steps=algorithm.num_steps,
            complete_episodes=complete,
            profile=profile,
            episode_seed=streams.training,
            check_bounds=getattr(environment, "check_bounds", True),
        )
    except BaseException:
        env.close()
        raise
    limits = {"total_timesteps": values["total_timesteps"], "total_episodes": values["total_episodes"]}
    trainer = Trainer(agent, collector, algorithm, profile=profile, **limits)
    remembers = _remembers(algorithm, advantage, learner)
    if remembers is not None:
        remembers = {"agent": agent, **remembers, "streams": streams, "collector": collector}
    parts = [values["algo"]["plugin"], net.label, values["advantage"]["plugin"], environment.label]
    return Experiment(values, environment, agent, trainer, env, streams, remembers, callbacks, "-".join(parts))


def _agent(
    values: Values,
    environment: Environment,
    env: VectorEnv[Any, Any, Any],
    net: Network,
    critic_net: Network | None,
    advantage: AdvantageEstimator,
    streams: Streams,
) -> Agent:
    space, policy = env.single_observation_space, values["policy"]
    shape = observation_shape(space)
    if is_image(space) and environment.normalize_observations:
        remedy = "give env.normalize_observations=false"
        raise ConfigError(Problem("env.normalize_observations", True, "images are scaled by the network", remedy))
    normalizer = ObservationNormalizer(shape) if environment.normalize_observations else None
    distribution = action_distribution(env.single_action_space, policy["bounds"])
    torch.manual_seed(streams.weights)
    agent = Agent(shape, distribution, net, critic_net, advantage.critic, normalizer, streams.actions, **policy)
    _check_shapes(agent, values["net"]["plugin"], shape, space.dtype)
    return agent


def _check_shapes(agent: Agent, net: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise ConfigError for a network that gives something else than it says."""
    seen = torch.zeros(2, *shape, dtype=torch.uint8 if dtype == np.uint8 else torch.float32)
    drawn = torch.get_rng_state()
    with torch.no_grad():
        try:
            agent.policy(seen)
        except (RuntimeError, ValueError, TypeError) as error:
            cause = f"its trunk and head do not fit observations {list(seen.shape)} ({one_line(error)})"
            remedy = f"see what is wrong: python -m plexp check net/{net}"
            raise ConfigError(Problem("net.plugin", net, cause, remedy)) from error
    torch.set_rng_state(drawn)


def _remembers(
    algorithm: Algorithm, advantage: AdvantageEstimator, learner: Learner | None
) -> dict[str, Stateful] | None:
    """What plugins and learner keep between updates; None where an algorithm learns by itself and does not say."""
    parts = {"algorithm": algorithm, "advantage": advantage, "learner": learner}
    found: dict[str, Any] = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
    return found if {"algorithm", "learner"} & found.keys() else None


def _check_schedule(algorithm: Algorithm, advantage: AdvantageEstimator, environment: Environment) -> None:
    """Raise ConfigError for minibatches that the rollout does not give."""
    number = getattr(algorithm, "num_minibatches", 1)
    rows = algorithm.num_steps * environment.num_envs
    if advantage.complete_episodes or algorithm.complete_episodes or rows % number == 0:
        return
    cause = f"the rollout has {algorithm.num_steps} steps x {environment.num_envs} environments = {rows} rows"
    cause += ", fewer than minibatches" if number > rows else ", which it does not divide"
    fitting = [n for n in range(1, rows + 1) if rows % n == 0]
    remedy = f"give algo.num_minibatches={min(fitting, key=lambda n: abs(n - number))}"
    raise ConfigError(Problem("algo.num_minibatches", number, cause, remedy))


def make(cls: type, sheet: Values, **wired: Any) -> Any:
    """A plugin from its sheet; it gets those of `wired` that its positional parameters name.

    Raises ConfigError if there are others.
    """
    positional = [
        n for n, p in inspect.signature(cls).parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    unknown = [name for name in positional if name not in wired]
    if unknown:
        given = ", ".join(wired) or "nothing"
        cause = f"{cls.__name__} asks for {', '.join(unknown)}, and {given} is wired into its kind of plugin"
        raise ConfigError(Problem("plugin", sheet["plugin"], cause, "make its own parameters keyword-only"))
    return cls(*(wired[name] for name in positional), **_pick(sheet, registry.own_parameters(cls)))


def _pick(sheet: Values, names: Any) -> dict[str, Any]:
    return {name: sheet[name] for name in sheet if name in names}
