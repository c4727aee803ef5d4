"""Comparisons that print as tables, and show as HTML in a notebook."""

from __future__ import annotations

from plexp.analysis.model import Comparison
from plexp.analysis.report import html_fragment, text


class ShownComparison(Comparison):
    """A comparison of groups of runs, shown as the command `plexp compare` prints it."""

    @classmethod
    def of(cls, comparison: Comparison) -> ShownComparison:
        """Return the same comparison with a display."""
        return cls(**vars(comparison))

    def __str__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html_fragment(self)
