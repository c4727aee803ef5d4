"""The replay `prioritized`: transitions with large TD errors are drawn more often."""

from __future__ import annotations

from plexp import PositiveFloat, PositiveInt, PrioritizedReplay, ReplaySpec, UnitInterval, register


@register("replay", "prioritized")
class Prioritized:
    """The latest transitions, drawn with P(i) ∝ (|δ_i| + ε)^α, and weighted by (N · P(i))^−β (Schaul et al. 2016).

    Args:
        capacity: transitions of all environments together; larger: older policies' are learnt from too.
        alpha: α, how much TD errors count for the draw; 0: every transition is drawn as often.
        beta: β at first, how much weights correct for that; it rises to 1 over the training budget.
        eps: ε, added to a TD error's absolute value.
    """

    def __init__(self, *, capacity: PositiveInt, alpha: UnitInterval, beta: UnitInterval, eps: PositiveFloat) -> None:
        self.capacity, self.alpha, self.beta, self.eps = capacity, alpha, beta, eps

    def make(self, spec: ReplaySpec) -> PrioritizedReplay:
        return PrioritizedReplay(self.capacity, spec, alpha=self.alpha, beta=self.beta, eps=self.eps)
