"""Tests of the saved views: what they show, and that their links open them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from plexp.tracking.views import CHARTS, TABLE, is_same_view, link, link_to_file, saved_views


def state(view: str) -> Any:
    packed = json.loads(view)["state"]
    assert packed.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))


@pytest.mark.parametrize(("view", "mode"), [(CHARTS, "CHART"), (TABLE, "TABLE")])
def test_a_link_opens_its_view(view: str, mode: str) -> None:
    address, _, query = link("http://x", "7", view).partition("?")
    assert address == "http://x/#/experiments/7/runs"
    assert f"mlflow.sharedViewState.{query.split('&')[0].removeprefix('viewStateShareKey=')}" in saved_views()
    assert f"compareRunsMode={mode}" in query and "workflowType=machine_learning" in query
    assert link_to_file("http://x", "7", "r1", "a.html").startswith(
        "http://x/#/experiments/7/runs/r1/artifacts/a.html?"
    )


def test_charts_are_of_training_runs_and_the_table_of_all() -> None:
    charts, table = (state(view) for view in saved_views().values())
    assert charts["searchFilter"] == "tags.kind = 'training'" and table["searchFilter"] == ""
    assert charts["compareRunCharts"][0]["metricKey"] == "eval/return"
    sections = {section["uuid"] for section in charts["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts["compareRunCharts"]} <= sections
    assert table["selectedColumns"] == table["columnOrder"] == list(table["columnWidths"])
    assert charts["groupBy"] == table["groupBy"]
    assert table["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "group"}]


def test_views_are_equal_whenever_they_were_made() -> None:
    one = saved_views()[f"mlflow.sharedViewState.{TABLE}"]
    later = json.dumps({**json.loads(one), "createdAt": 1, "updatedAt": 2})
    assert is_same_view(one, later)
    assert not is_same_view(one, saved_views()[f"mlflow.sharedViewState.{CHARTS}"])
    assert not any(is_same_view(text, one) for text in ("", "null", "[]", "{}", "what?"))
