"""Mine."""

from __future__ import annotations

from plexp import PositiveInt, ReplayBuffer, ReplaySpec, register


@register("replay", "mine")
class Mine:
    """The latest transitions, drawn uniformly (Lin 1992): `make` is the place to change, such as for a buffer of your own.

    Args:
        capacity: transitions of all environments together; larger: older policies' are learnt from too.
    """

    def __init__(self, *, capacity: PositiveInt) -> None:
        self.capacity = capacity

    def make(self, spec: ReplaySpec) -> ReplayBuffer:
        return ReplayBuffer(self.capacity, spec)
