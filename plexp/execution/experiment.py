"""Builds the objects of an experiment from its configuration: the one place where the two meet."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from plexp.config import registry
from plexp.config.schema import RunConfig, check
from plexp.envs import generators
from plexp.envs.environment import Environment
from plexp.envs.faults import DeclaredBounds
from plexp.envs.film import with_frames
from plexp.envs.seeding import Streams
from plexp.envs.spaces import (
    action_distribution,
    is_image,
    layout_of,
    mismatch_of_scale,
    observation_dtype,
    observation_shape,
)
from plexp.envs.stacking import frames_of
from plexp.errors import ConfigError, Problem, one_line
from plexp.execution.device import device_of, is_compiled
from plexp.nn.layout import LEGAL, ObservationReader
from plexp.nn.networks import Network
from plexp.nn.normalization import RewardScaler
from plexp.training.agent import Agent
from plexp.training.collector import Collector
from plexp.training.interfaces import AdvantageEstimator, Algorithm, Stateful, TrainingCallback
from plexp.training.learner import Learner
from plexp.training.networks import Networks
from plexp.training.policy import Policy
from plexp.training.progress import Profile
from plexp.training.replay.buffer import ReplaySpec
from plexp.training.replay.learner import ReplayLearner
from plexp.training.replay.memory import Replay, ReplayMemory
from plexp.training.trainer import Trainer

log = logging.getLogger("plexp")


@dataclass(frozen=True)
class Experiment:
    """Objects of one run; as a context manager it closes the environments in the end."""

    config: RunConfig
    """Checked configuration of the run."""
    environment: Environment
    """Plugin that makes the environments."""
    agent: Policy
    """Policy of the algorithm; with its critic, for an actor-critic."""
    trainer: Trainer
    training_env: VectorEnv[Any, Any, Any]
    """Vector environment of the training."""
    streams: Streams
    """Sources of randomness, by purpose."""
    stateful: Mapping[str, Stateful] | None
    """Objects with a state that checkpoints keep; None: the algorithm has no `state_dict`."""
    memory: ReplayMemory | None
    """Memory of the transitions that the algorithm learns from; None: it learns from its own rollouts."""
    callbacks: dict[str, TrainingCallback]
    """Callback plugins, by the names of their sections."""
    algo: str
    """Config of the group `algo` that was chosen, such as `ddpg` for a configuration of TD3."""
    group: str
    """Name of the run without its seed, such as `ppo-mlp2x64-gae-cartpole`."""
    outer: generators.States
    """States of the global generators before the experiment seeded them."""

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments of the training, and give the global generators the states back that they had before."""
        self.training_env.close()
        generators.restore(self.outer)

    @property
    def values(self) -> dict[str, Any]:
        """The resolved values of the configuration, for the record."""
        return self.config.values

    @property
    def name(self) -> str:
        """Name of the run: the group and the seed."""
        return f"{self.group}-s{self.config.seed}"


def build(values: Mapping[str, Any], algo: str | None = None) -> Experiment:
    """Check resolved values, and return the objects of one experiment.

    Args:
        values: the resolved configuration.
        algo: the config of the group `algo` that was chosen, which names the run; None: the plugin does.

    The global generators of `random`, `numpy.random` and torch are seeded, until the experiment is closed. Raises
    ConfigError with all problems at once; nothing has been created or written by then.
    """
    config = check(values)
    outer = generators.states()
    torch.set_num_threads(config.torch_threads)
    device, streams, classes = device_of(config.device), Streams(config.seed), config.classes
    advantage: AdvantageEstimator = make(classes["advantage"], config.advantage)
    callbacks: dict[str, TrainingCallback] = {
        name: make(classes[f"callbacks.{name}"], parameters) for name, parameters in config.callbacks.items()
    }
    environment: Environment = make(classes["env"], config.env)
    if config.evaluation.film:
        with_frames(environment, config.env)  # raises ConfigError if the environment cannot be filmed
    net: Network = make(classes["net"], config.net)
    critic_net: Network | None = None
    if config.critic_net is not None:
        critic_net = make(classes["critic_net"], config.critic_net)
    profile = Profile()
    compiled = is_compiled(config, advantage, environment)
    with ExitStack() as undo:
        undo.callback(generators.restore, outer)
        streams.seed_global_generators()
        env = environment.make(environment.num_envs, streams.training)
        undo.callback(env.close)
        wired: dict[str, Any] = {"advantage": advantage, "rng": streams.minibatches}
        learner: Learner | ReplayLearner | None = None
        memory, networks = None, None
        if config.replay is not None:
            networks, replay_learner = _off_policy(
                config, environment, env, net, critic_net, streams, compiled, profile, device
            )
            learner, memory = replay_learner, replay_learner.memory
            wired |= {"networks": networks, "learner": learner}
        else:
            agent = _agent(config, environment, env, net, critic_net, advantage, streams).to(device)
            wired["agent"] = agent
            if "learner" in inspect.signature(classes["algo"]).parameters:
                parameters = _pick(config.algo, registry.parameters(Learner))
                learner = Learner(agent, advantage, streams.minibatches, compiled, profile, **parameters)
                wired["learner"] = learner
        algorithm: Algorithm = make(classes["algo"], config.algo, **wired)
        policy = agent if networks is None else _policy_of(algorithm, networks, config)
        if compiled:
            policy.compile(profile)
        collector = Collector(
            env,
            policy,
            streams.actions,
            RewardScaler(env.num_envs, config.gamma) if environment.scale_rewards else None,
            num_steps=algorithm.num_steps,
            complete_episodes=algorithm.complete_episodes or advantage.complete_episodes,
            max_rollout_steps=config.max_rollout_steps,
            profile=profile,
            episode_seed=streams.training,
            bounds=DeclaredBounds(env.single_observation_space, environment.label),
        )
        undo.pop_all()
    trainer = Trainer(
        policy,
        collector,
        algorithm,
        profile=profile,
        total_timesteps=config.total_timesteps,
        total_episodes=config.total_episodes,
    )
    stateful = _stateful(algorithm, advantage, learner)
    if stateful is not None:
        stateful = {"agent": policy, **stateful, "streams": streams, "collector": collector}
        stateful |= {} if memory is None else {"memory": memory}
    estimator = [] if memory else [config.advantage["plugin"]]
    algo = algo or config.algo["plugin"]
    group = "-".join([algo.replace("/", "-"), net.label, *estimator, environment.label])
    return Experiment(
        config, environment, policy, trainer, env, streams, stateful, memory, callbacks, algo, group, outer
    )


def make(cls: type, parameters: Mapping[str, Any], **wired: Any) -> Any:
    """Return a plugin made from its section of the configuration.

    Its positional parameters get the objects of `wired` that they name. Raises ConfigError for other names.
    """
    positional = [
        name for name, p in inspect.signature(cls).parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    unknown = [name for name in positional if name not in wired]
    if unknown:
        available = ", ".join(wired) or "nothing"
        cause = f"{cls.__name__} asks for {', '.join(unknown)}, and {available} is wired into its kind of plugin"
        raise ConfigError(Problem("plugin", parameters["plugin"], cause, "make its own parameters keyword-only"))
    return cls(*(wired[name] for name in positional), **_pick(parameters, registry.own_parameters(cls)))


def _off_policy(
    config: RunConfig,
    environment: Environment,
    env: VectorEnv[Any, Any, Any],
    net: Network,
    critic_net: Network | None,
    streams: Streams,
    compiled: bool,
    profile: Profile,
    device: torch.device,
) -> tuple[Networks, ReplayLearner]:
    """Return the maker of networks, and the learner, of an algorithm that learns from past transitions."""
    reader, space = _reader(environment, env, net), env.single_observation_space
    distribution = action_distribution(env.single_action_space, "clip")
    example = distribution.mode(torch.zeros(1, distribution.num_parameters))
    shape, dtype = observation_shape(space), observation_dtype(space)
    state_size = getattr(net, "state_size", 0)
    action = tuple(example.shape[1:]), example.dtype
    spec = ReplaySpec(env.num_envs, shape, dtype, *action, state_size, frames_of(space))
    replay: Replay = make(config.classes["replay"], config.replay or {})
    memory = ReplayMemory(replay, spec)
    torch.manual_seed(streams.weights)
    networks = Networks(config.algo["plugin"], reader, env.single_action_space, env.num_envs, net, critic_net, device)
    parameters = _pick(config.algo, registry.parameters(ReplayLearner))
    learner = ReplayLearner(memory, reader, streams.minibatches, config.gamma, compiled, profile, **parameters)
    return networks, learner


def _policy_of(algorithm: Algorithm, networks: Networks, config: RunConfig) -> Policy:
    """Return the policy of an algorithm that made its own networks. Raises ConfigError if it has none."""
    name = config.algo["plugin"]
    policy = getattr(algorithm, "policy", None)
    if not isinstance(policy, Policy):
        cause = f"{type(algorithm).__name__} takes networks, and has no policy that acts"
        raise ConfigError(Problem("algo", name, cause, "set self.policy in its __init__, as to networks.q_policy(…)"))
    if config.critic_net is not None and not networks.made_critics:
        cause = f"algo={name} has no critic beside its policy"
        raise ConfigError(Problem("critic_net", config.critic_net["plugin"], cause, "leave out net@critic_net"))
    return policy


def _reader(environment: Environment, env: VectorEnv[Any, Any, Any], net: Network) -> ObservationReader:
    """Return what gives observations as the networks take them."""
    space = env.single_observation_space
    shape = observation_shape(space)
    if is_image(space) and environment.normalize_observations:
        remedy = "give env.normalize_observations=false"
        raise ConfigError(Problem("env.normalize_observations", True, "images are scaled by the network", remedy))
    by_parts = bool(getattr(net, "by_parts", False))
    return ObservationReader(
        shape, normalized=environment.normalize_observations, layout=layout_of(space), by_parts=by_parts
    )


def _agent(
    config: RunConfig,
    environment: Environment,
    env: VectorEnv[Any, Any, Any],
    net: Network,
    critic_net: Network | None,
    advantage: AdvantageEstimator,
    streams: Streams,
) -> Agent:
    reader = _reader(environment, env, net)
    assert config.policy is not None  # as it is for algorithms without a replay buffer
    distribution = action_distribution(env.single_action_space, config.policy.bounds)
    policy = config.policy.model_dump()
    for key in ("observes", "critic_observes"):
        _check_parts(f"policy.{key}", policy[key], reader)
    if config.policy.bounds == "clip":
        std = 1.0 if config.policy.log_std == "identity" else math.exp(config.policy.log_std_init)
        if mismatch := mismatch_of_scale(env.single_action_space, std):
            log.warning("policy.bounds=clip: %s; give policy.bounds=tanh, which starts in their middle", mismatch)
    torch.manual_seed(streams.weights)
    agent = Agent(reader, distribution, net, critic_net, advantage.critic, streams.actions, **policy)
    _check_shapes(agent, config.net["plugin"], env.single_observation_space)
    return agent


def _check_parts(key: str, names: list[str] | None, reader: ObservationReader) -> None:
    """Raise ConfigError for names that are no parts of the observations."""
    parts = [] if reader.layout is None else [name for name in reader.layout.parts if name != LEGAL]
    if names is None or (names and set(names) <= {*parts}):
        return
    if not parts:
        remedy = "leave it out, or give an environment with Dict or Tuple observations"
        raise ConfigError(Problem(key, names, "the observations have no parts", remedy))
    cause = "names what is no part of the observations" if names else "a network must see something"
    raise ConfigError(Problem(key, names, cause, f"give some of {', '.join(parts)}"))


def _check_shapes(agent: Agent, net: str, space: spaces.Space[Any]) -> None:
    """Raise ConfigError for a network whose layers do not have the shapes that it states."""
    observations = torch.from_numpy(np.zeros((2, *observation_shape(space)), observation_dtype(space)))
    random_state = torch.get_rng_state()
    with torch.no_grad():
        try:
            agent.step(agent.read(observations), torch.zeros(2, agent.state_size))
        except (RuntimeError, ValueError, TypeError) as error:
            cause = f"its trunk and head do not fit observations {list(observations.shape)} ({one_line(error)})"
            remedy = f"see what is wrong: python -m plexp check net/{net}"
            raise ConfigError(Problem("net.plugin", net, cause, remedy)) from error
    torch.set_rng_state(random_state)


def _stateful(
    algorithm: Algorithm, advantage: AdvantageEstimator, learner: Learner | ReplayLearner | None
) -> dict[str, Stateful] | None:
    """Return the plugins, and the learner, that have a state; None if the algorithm learns by itself and has none."""
    parts = {"algorithm": algorithm, "advantage": advantage, "learner": learner}
    stateful: dict[str, Any] = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
    return stateful if {"algorithm", "learner"} & stateful.keys() else None


def _pick(parameters: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name in names}
