"""What MLflow's pages show first: the charts and the table of an experiment as saved views, and the links that open them.

The format is that of MLflow 3.17's own "share" button; it is documented nowhere. Imports no mlflow.
"""

from __future__ import annotations

import base64
import json
import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

CHARTS, TABLE = "plexp", "plexp-table"
"""Keys of the saved views in an experiment's tags and in links."""
ML = "workflowType=machine_learning"
"""In a link; without it MLflow opens its pages for language models."""
WIDTHS = {
    "attributes.`Run Name`": 270,
    "metrics.`eval/final_return`": 125,
    "metrics.`speed/steps_to_threshold`": 170,
    "metrics.`stability/max_drawdown`": 165,
    "params.`algo.plugin`": 100,
    "params.`advantage.plugin`": 125,
    "params.`net.plugin`": 90,
    "params.`net.layers`": 85,
    "params.`seed`": 60,
}
"""The table's columns, in pixels: the figures by which runs are sorted come first, then what tells runs apart."""
SECTIONS: list[dict[str, Any]] = [
    {"uuid": name, "name": name, "display": True, "isReordered": True, "columns": columns, "cardHeight": height}
    for name, columns, height in (("eval", 2, 460), ("train", 3, 320), ("time", 3, 320))
]
CARD = {"metricSectionId": "eval", "runsCountToCompare": 10, "deleted": False, "isGenerated": False}
LINE = {
    "type": "LINE",
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "displayPoints": False,
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
CARDS: list[dict[str, Any]] = [
    {**CARD, **LINE, "uuid": "return", "metricKey": "eval/return", "displayName": "return"},
    {**CARD, "type": "BAR", "uuid": "final_return", "metricKey": "eval/final_return", "displayName": "final return"},
]
GROUP = "group"
"""The tag that all seeds of one set-up share."""
BESIDE: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("tag", "kind"),),
    (("param", "device"),),
    (("tag", "kind"), ("param", "device")),
    (("param", "env.plugin"),),
    (("tag", "kind"), ("param", "env.plugin")),
)
"""What runs may be grouped by besides: nearly always the same for all of them, so that nothing changes but the colours."""
PALETTE = (
    *("a6630c", "c83243", "b45091", "8a63bf", "434a93", "137dae", "04867d", "308613", "facb66", "1f272d"),
    *("445461", "5f7281", "8396a5", "93320b", "be501e", "de7921", "f2be88", "115026", "277c43", "3ba65e"),
    *("8ddda8", "9e102c", "c82d4c", "e65b77", "f792a6", "0e538b", "2272b4", "4299e0", "8acaff"),
)
"""Those from which MLflow 3.17 takes the colour of a group, by a hash of what it is grouped by."""
DISTINCT = 125.0
"""A distance between two colours (of at most 765) at which nobody takes one for the other."""


def saved_views(runs: Sequence[Mapping[str, str]] = ()) -> dict[str, str]:
    """The experiment tags that hold the views: over environment steps and as a table, grouped by the tag `group`.

    `runs`: tags and params of those that are there, as `tag.NAME` and `param.NAME`, so that groups can be told apart.
    """
    views = {
        CHARTS: ("curves averaged over seeds", _state(_beside(runs), searchFilter="tags.kind = 'training'")),
        TABLE: ("runs and their figures", _state(())),
    }
    now = int(time.time() * 1000)
    tags = {}
    for key, (name, state) in views.items():
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        view = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
        tags[f"mlflow.sharedViewState.{key}"] = json.dumps(view)
    return tags


def is_same_view(one: str, other: str) -> bool:
    """Whether two tags hold the same view, whenever they were made."""
    try:
        return bool(json.loads(one)["state"] == json.loads(other)["state"])
    except (ValueError, TypeError, KeyError):
        return False


def link(server: str, experiment_id: str, view: str = CHARTS) -> str:
    """To an experiment's charts or table."""
    mode = "CHART" if view == CHARTS else "TABLE"
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={view}&{ML}&compareRunsMode={mode}"


def link_to_file(server: str, experiment_id: str, run_id: str, name: str) -> str:
    """To a run's file, shown on its page."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{name}?{ML}"


def _state(beside: Iterable[tuple[str, str]], searchFilter: str = "") -> dict[str, Any]:
    keys = [("tag", GROUP), *beside]
    return {
        "searchFilter": searchFilter,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(WIDTHS),
        "columnOrder": list(WIDTHS),
        "columnWidths": WIDTHS,
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": mode, "groupByData": name} for mode, name in keys],
        },
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": SECTIONS,
        "compareRunCharts": CARDS,
        "isAccordionReordered": True,
    }


def _beside(runs: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    """What to group by besides, so that the groups' colours can be told apart as far as possible; mostly nothing."""

    def apart(beside: Iterable[tuple[str, str]]) -> float:
        keys = [f"{mode}.{name}" for mode, name in [("tag", GROUP), *beside]]
        ids = {",".join(f"{key}.{run.get(key) or 'null'}" for key in keys) for run in runs if run.get(f"tag.{GROUP}")}
        return min((_distance(*pair) for pair in combinations(map(colour, ids), 2)), default=math.inf)

    return next((beside for beside in BESIDE if apart(beside) >= DISTINCT), max(BESIDE, key=apart))


def colour(group_id: str) -> str:
    """Which colour MLflow gives a group."""
    first = second = 0
    for character in group_id:
        first = (first + ord(character)) % 255
        second = (second + first) % 255
    return PALETTE[(first | second << 8) % len(PALETTE)]


def _distance(one: str, other: str) -> float:
    """How different two colours look: Euclidean, weighted by the mean of red."""
    a, b = bytes.fromhex(one), bytes.fromhex(other)
    red, (dr, dg, db) = (a[0] + b[0]) / 2, (x - y for x, y in zip(a, b, strict=True))
    return math.sqrt((2 + red / 256) * dr**2 + 4 * dg**2 + (2 + (255 - red) / 256) * db**2)
