"""The saved views: what they show, that their links open them, and that groups have colours that can be told apart."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from plexp.tracking.views import CHARTS, TABLE, colour, is_same_view, link, link_to_file, saved_views


def state(view: str) -> Any:
    packed = json.loads(view)["state"]
    assert packed.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))


def keys(*groups: str, **constant: str) -> list[dict[str, str]]:
    """What the charts of runs of these groups are grouped by."""
    runs = [{"tag.group": group, "tag.kind": "training", "param.device": "cpu", **constant} for group in groups]
    found: list[dict[str, str]] = state(saved_views(runs)[f"mlflow.sharedViewState.{CHARTS}"])["groupBy"]["groupByKeys"]
    return found


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


def test_a_groups_colour_is_the_one_seen_in_mlflow() -> None:
    """Read off the page; the tests in a browser compare it for other groups."""
    settings = "evaluation.every=1000 evaluation.final_episodes=5 total_timesteps=4000"
    assert colour("tag.group.comparison") == "2272b4"
    assert colour(f"tag.group.a2c-mlp2x64-gae-cartpole {settings}") == "c82d4c"
    assert colour(f"tag.group.ppo-mlp2x64-gae-cartpole {settings}") == "c82d4c"
    assert colour("tag.group.reinforce-mlp2x64-returns-cartpole") == "137dae"


def test_groups_of_one_colour_are_grouped_by_something_constant_besides() -> None:
    alone = [{"mode": "tag", "groupByData": "group"}]
    assert keys() == keys("ppo") == keys("ppo", "ppo") == alone
    same = [f"{name}-mlp2x64-gae-cartpole total_timesteps=4000" for name in ("ppo", "a2c")]
    for tail in range(100):
        groups = [f"{name} algo.clip_eps=0.{tail}" for name in same]
        found = keys(*groups)
        before = {colour(f"tag.group.{group}") for group in groups}
        parts = {"tag.kind": "training", "param.device": "cpu", "param.env.plugin": "null", "tag.group": ""}
        ids = [
            ",".join(
                f"{name}.{parts[name] or group}" for name in (f"{key['mode']}.{key['groupByData']}" for key in found)
            )
            for group in groups
        ]
        assert len(set(map(colour, ids))) == 2
        assert len(before) == 2 or len(found) > 1


def test_a_view_is_the_same_whenever_it_was_made() -> None:
    one = saved_views()[f"mlflow.sharedViewState.{TABLE}"]
    later = json.dumps({**json.loads(one), "createdAt": 1, "updatedAt": 2})
    assert is_same_view(one, later)
    assert not is_same_view(one, saved_views()[f"mlflow.sharedViewState.{CHARTS}"])
    assert not any(is_same_view(text, one) for text in ("", "null", "[]", "{}", "what?"))
