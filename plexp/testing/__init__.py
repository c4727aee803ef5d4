"""The contract that every plugin must satisfy, as checks that plugin authors can run."""

from plexp.testing.contract import faults
from plexp.testing.fixtures import make_rollout

__all__ = ["faults", "make_rollout"]
