"""A workbench for reinforcement-learning experiments whose every ingredient is a plugin.

The names below are plexp's public face, for plugins and for scripts. Each is imported when it is first used, so that
`import plexp` takes milliseconds and imports no torch, MLflow or gymnasium. What is not listed here may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plexp._version import __version__
from plexp.config.paths import find_plugins

if TYPE_CHECKING:
    from plexp.api import Run as Run
    from plexp.api import Runs as Runs
    from plexp.api import build as build
    from plexp.api import compare as compare
    from plexp.api import compose as compose
    from plexp.api import load_run as load_run
    from plexp.api import runs as runs
    from plexp.api import train as train
    from plexp.config.fields import Fraction as Fraction
    from plexp.config.fields import NonNegativeFloat as NonNegativeFloat
    from plexp.config.fields import NonNegativeInt as NonNegativeInt
    from plexp.config.fields import PositiveFloat as PositiveFloat
    from plexp.config.fields import PositiveFraction as PositiveFraction
    from plexp.config.fields import PositiveInt as PositiveInt
    from plexp.config.fields import UnitInterval as UnitInterval
    from plexp.config.plain import unrecordable as unrecordable
    from plexp.config.registry import register as register
    from plexp.envs.environment import Environment as Environment
    from plexp.envs.environment import EpisodeSeed as EpisodeSeed
    from plexp.envs.environment import Filmable as Filmable
    from plexp.envs.envpool import make_pool as make_pool
    from plexp.envs.packing import mask_source as mask_source
    from plexp.envs.seeding import SeededEpisodes as SeededEpisodes
    from plexp.envs.stacking import stack_frames as stack_frames
    from plexp.envs.vector import SerialVectorEnv as SerialVectorEnv
    from plexp.envs.vector import SubprocessVectorEnv as SubprocessVectorEnv
    from plexp.errors import ConfigError as ConfigError
    from plexp.errors import Problem as Problem
    from plexp.errors import StoreError as StoreError
    from plexp.errors import TrainingError as TrainingError
    from plexp.errors import one_line as one_line
    from plexp.errors import with_place as with_place
    from plexp.nn.distributions import Categorical as Categorical
    from plexp.nn.exploration import NoiseKind as NoiseKind
    from plexp.nn.layout import Observations as Observations
    from plexp.nn.layout import Part as Part
    from plexp.nn.networks import CriticKind as CriticKind
    from plexp.nn.networks import Network as Network
    from plexp.nn.optimizer import Terms as Terms
    from plexp.nn.recurrent import Core as Core
    from plexp.nn.recurrent import GRUCore as GRUCore
    from plexp.nn.recurrent import Inputs as Inputs
    from plexp.nn.recurrent import LSTMCore as LSTMCore
    from plexp.nn.recurrent import Recurrent as Recurrent
    from plexp.nn.recurrent import Sequences as Sequences
    from plexp.training import losses as losses
    from plexp.training.agent import Agent as Agent
    from plexp.training.frames import whole_observations as whole_observations
    from plexp.training.interfaces import AdvantageEstimator as AdvantageEstimator
    from plexp.training.interfaces import Algorithm as Algorithm
    from plexp.training.interfaces import TrainingCallback as TrainingCallback
    from plexp.training.learner import Learner as Learner
    from plexp.training.networks import Networks as Networks
    from plexp.training.policy import Policy as Policy
    from plexp.training.progress import TrainingProgress as TrainingProgress
    from plexp.training.replay.buffer import PrioritizedReplay as PrioritizedReplay
    from plexp.training.replay.buffer import ReplayBuffer as ReplayBuffer
    from plexp.training.replay.buffer import ReplaySpec as ReplaySpec
    from plexp.training.replay.learner import ReplayLearner as ReplayLearner
    from plexp.training.replay.memory import Replay as Replay
    from plexp.training.types import AgentOutput as AgentOutput
    from plexp.training.types import Metrics as Metrics
    from plexp.training.types import Minibatch as Minibatch
    from plexp.training.types import Rollout as Rollout
    from plexp.training.types import Targets as Targets
    from plexp.training.types import Trajectory as Trajectory
    from plexp.training.types import Transitions as Transitions

_HOMES = {
    "plexp.api": ("Run", "Runs", "build", "compare", "compose", "load_run", "runs", "train"),
    "plexp.config.fields": (
        *("Fraction", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveFraction", "PositiveInt"),
        "UnitInterval",
    ),
    "plexp.config.plain": ("unrecordable",),
    "plexp.config.registry": ("register",),
    "plexp.envs.environment": ("Environment", "EpisodeSeed", "Filmable"),
    "plexp.envs.envpool": ("make_pool",),
    "plexp.envs.packing": ("mask_source",),
    "plexp.envs.seeding": ("SeededEpisodes",),
    "plexp.envs.stacking": ("stack_frames",),
    "plexp.envs.vector": ("SerialVectorEnv", "SubprocessVectorEnv"),
    "plexp.errors": ("ConfigError", "Problem", "StoreError", "TrainingError", "one_line", "with_place"),
    "plexp.nn.layout": ("Observations", "Part"),
    "plexp.nn.networks": ("CriticKind", "Network"),
    "plexp.nn.distributions": ("Categorical",),
    "plexp.nn.exploration": ("NoiseKind",),
    "plexp.nn.optimizer": ("Terms",),
    "plexp.nn.recurrent": ("Core", "GRUCore", "Inputs", "LSTMCore", "Recurrent", "Sequences"),
    "plexp.training": ("losses",),
    "plexp.training.agent": ("Agent",),
    "plexp.training.frames": ("whole_observations",),
    "plexp.training.interfaces": ("AdvantageEstimator", "Algorithm", "TrainingCallback"),
    "plexp.training.learner": ("Learner",),
    "plexp.training.networks": ("Networks",),
    "plexp.training.policy": ("Policy",),
    "plexp.training.progress": ("TrainingProgress",),
    "plexp.training.replay.buffer": ("PrioritizedReplay", "ReplayBuffer", "ReplaySpec"),
    "plexp.training.replay.learner": ("ReplayLearner",),
    "plexp.training.replay.memory": ("Replay",),
    "plexp.training.types": (
        *("AgentOutput", "Metrics", "Minibatch", "Rollout", "Targets", "Trajectory", "Transitions"),
    ),
}
"""The public names of each module; the imports above tell type checkers and editors the same."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


if not TYPE_CHECKING:  # so that type checkers know the names above and no others

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _HOME:
            raise AttributeError(f"module 'plexp' has no attribute {name!r}")
        module = import_module(_HOME[name])
        value = getattr(module, name, None) or import_module(f"{_HOME[name]}.{name}")  # `losses` is a module
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__


find_plugins()
