"""The replay `uniform`: every transition is drawn as often."""

from __future__ import annotations

from plexp import PositiveInt, ReplayBuffer, ReplaySpec, register


@register("replay", "uniform")
class Uniform:
    """The latest transitions, drawn uniformly (Lin 1992; Mnih et al. 2015).

    Args:
        capacity: transitions of all environments together; larger: older policies' are learnt from too.
    """

    def __init__(self, *, capacity: PositiveInt) -> None:
        self.capacity = capacity

    def make(self, spec: ReplaySpec) -> ReplayBuffer:
        return ReplayBuffer(self.capacity, spec)
