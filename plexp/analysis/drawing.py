"""The parts of matplotlib that figures are drawn with: its object interface and Agg, never pyplot.

Importing matplotlib reads MPLBACKEND, and fails where that names a package that is not installed here, as Jupyter and Colab do
for every command that a notebook starts. No backend but Agg is used, so the variable is hidden while matplotlib is imported.
"""

from __future__ import annotations

import os

_backend = os.environ.pop("MPLBACKEND", None)
try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend

__all__ = ["Axes", "Figure", "FigureCanvasAgg", "MaxNLocator", "colormaps"]
