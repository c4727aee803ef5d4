"""What MLflow's pages show first: an experiment's curves averaged over seeds; and the server that shows them."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

VIEW = "plexp"
"""Key of the saved view in an experiment's tags and in links."""
COLUMNS = (
    *(f"params.`{name}`" for name in ("algo.plugin", "advantage.plugin", "net.plugin", "net.layers", "seed")),
    *(f"metrics.`{name}`" for name in ("eval/final_return", "eval/return")),
)


def saved_view() -> dict[str, str]:
    """The experiment tag that holds the view: runs grouped by their tag `group`, charts over environment steps.

    The format is that of MLflow 3.17's own "share" button; it is documented nowhere.
    """
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Run Name`", *COLUMNS],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "group"}]},
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    now = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "curves averaged over seeds", "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return {f"mlflow.sharedViewState.{VIEW}": json.dumps(view)}


def link(server: str, experiment_id: str) -> str:
    """To an experiment's charts; without the query MLflow opens a page for language models."""
    query = f"viewStateShareKey={VIEW}&workflowType=machine_learning&compareRunsMode=CHART"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"
