"""Saved views of MLflow's pages: the charts and the table of an experiment, and the links that open them.

The format is that of MLflow's own "share" button, which is not documented; tried with MLflow 3.17. Imports no MLflow.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

CHARTS, TABLE = "plexp", "plexp-table"
"""Keys of the saved views in an experiment's tags and in links."""
ML = "workflowType=machine_learning"
"""Part of a link, without which MLflow opens its pages for language models."""
WIDTHS = {
    "attributes.`Run Name`": 270,
    "metrics.`eval/final_return`": 125,
    "metrics.`speed/steps_to_threshold`": 170,
    "metrics.`stability/max_drawdown`": 165,
    "tags.`choice.algo`": 100,
    "params.`advantage.plugin`": 125,
    "params.`net.plugin`": 90,
    "params.`net.layers`": 85,
    "params.`seed`": 60,
}
"""Columns of the table with their widths in pixels: first the figures to sort by, then what tells runs apart."""
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
"""Tag that all seeds of one configuration share."""


def saved_views() -> dict[str, str]:
    """Return the experiment tags that hold the views: curves over environment steps, and a table.

    Both group runs by the tag `group`; MLflow chooses the colours of the groups.
    """
    views = {
        CHARTS: ("curves averaged over seeds", _state("tags.kind = 'training'")),
        TABLE: ("runs and their figures", _state("")),
    }
    now = int(time.time() * 1000)
    tags = {}
    for key, (name, state) in views.items():
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        view = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
        tags[f"mlflow.sharedViewState.{key}"] = json.dumps(view)
    return tags


def is_same_view(one: str, other: str) -> bool:
    """Return True if two tags hold the same view, whenever they were made."""
    try:
        return bool(json.loads(one)["state"] == json.loads(other)["state"])
    except (ValueError, TypeError, KeyError):
        return False


def link(server: str, experiment_id: str, view: str = CHARTS) -> str:
    """Return the link to an experiment's charts or table."""
    mode = "CHART" if view == CHARTS else "TABLE"
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={view}&{ML}&compareRunsMode={mode}"


def link_to_file(server: str, experiment_id: str, run_id: str, name: str) -> str:
    """Return the link to a run's file, shown on its page."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{name}?{ML}"


def _state(search_filter: str) -> dict[str, Any]:
    return {
        "searchFilter": search_filter,
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
            "groupByKeys": [{"mode": "tag", "groupByData": GROUP}],
        },
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": SECTIONS,
        "compareRunCharts": CARDS,
        "isAccordionReordered": True,
    }
