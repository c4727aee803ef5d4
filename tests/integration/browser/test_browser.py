"""Tests of what a person sees in a real browser, on a real sweep, a run that failed and one that is running.

They share one store, one server and one Chromium, so they belong to one worker: `--dist loadfile`.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from plexp.tracking.format import sqlite_uri
from plexp.tracking.views import WIDTHS
from tests.integration.browser import pages

pytest.importorskip("playwright.sync_api", reason='the pages are not tested: pip install "plexp[browser]"')
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy:DeprecationWarning"
    ),  # MLflow with SQLAlchemy 2.1
    pytest.mark.skipif(pages.CHROMIUM is None, reason="the pages are not tested: there is no chromium on the PATH"),
]

SHORT = ("env.solved_return=30", "evaluation.every=510", "evaluation.episodes=6", "evaluation.final_episodes=5")
SWEEP = ("-m", "algo=a2c,ppo", "seed=0,1", "total_timesteps=2040", *SHORT)
"""Sweep of two groups, to which MLflow gives different colours."""
LIVE = (
    "seed=7",
    "compile=false",
    "tracker.experiment=live",
    "total_timesteps=100_000_000",
    "tracker.every=1024",
    *SHORT,
)
FAILING = (*("tracker.experiment=failing", "env=gymnasium", "total_timesteps=200"), "tracker.log_model=false")
BROKEN = "env.id=tests.integration.browser.broken:plexp-tests/Breaks-v0"


class Store:
    """Folder with runs, its server, a browser, and MLflow's own client on it."""

    def __init__(self, folder: Path, site: pages.Site, context: Any) -> None:
        self.folder, self.site, self.context = folder, site, context
        self.client = MlflowClient(sqlite_uri(folder / "outputs" / "mlflow.db"))
        self.complaints: list[str] = []

    def runs(self, experiment: str, kind: str = "training") -> list[Any]:
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id], f"tags.kind = '{kind}'"))

    def run(self, experiment: str, name: str) -> Any:
        (run,) = (run for run in self.runs(experiment) if run.info.run_name == name)
        return run

    def page(self, run: Any, rest: str = "") -> str:
        return self.site.run(run.info.experiment_id, run.info.run_id, rest)

    def means(self, metric: str) -> dict[str, dict[float, float]]:
        """Return the mean over the seeds of each group at each step."""
        points: dict[str, dict[float, list[float]]] = {}
        for run in self.runs("cartpole"):
            group = points.setdefault(run.data.tags["group"], {})
            for point in self.client.get_metric_history(run.info.run_id, metric):
                group.setdefault(point.step, []).append(point.value)
        return {name: {step: statistics.fmean(all_) for step, all_ in found.items()} for name, found in points.items()}


def fill(folder: Path) -> None:
    """Run two algorithms with two seeds each, a film and a comparison of them, and a run that fails."""
    film, comparison = ("film", "ppo-mlp2x64-gae-cartpole-s1", "--episode", "1"), ("compare", "--env", "cartpole")
    for together in ({SWEEP: 0, (*FAILING, BROKEN): 1}, {film: 0, comparison: 0}):
        commands = [pages.begin(folder, *arguments, stderr=subprocess.STDOUT) for arguments in together]
        for command, status in zip(commands, together.values(), strict=True):
            output, _ = command.communicate(timeout=300)
            assert command.returncode == status, output


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Yield a store with the runs of `fill` and one that is still running."""
    folder = tmp_path_factory.mktemp("browser")
    fill(folder)
    live = pages.begin(folder, *LIVE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = MlflowClient(sqlite_uri(folder / "outputs" / "mlflow.db"))
        until(
            lambda: bool((found := client.get_experiment_by_name("live")) and points(client, found.experiment_id) > 2)
        )
        with pages.serving(folder, links=7) as site, pages.browser() as context:
            yield Store(folder, site, context)
    finally:
        live.kill()
        live.wait()


def points(client: MlflowClient, experiment_id: str) -> int:
    """Return the number of evaluations that the store has of an experiment's first run."""
    runs = client.search_runs([experiment_id])
    return len(client.get_metric_history(runs[0].info.run_id, "eval/return")) if runs else 0


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def live_page(store: Store) -> Any:
    """Return a page that is opened before all others and never reloaded, and its curves."""
    page = store.context.new_page()
    page.goto(store.site.link("live"))
    return page, pages.curves(pages.card(page, "eval/return"))


@pytest.fixture
def page(store: Store, live_page: Any) -> Iterator[Any]:
    """Yield a new page; check in the end that nothing on it has gone wrong."""
    page = store.context.new_page()
    complaints: list[str] = []
    pages.watch(page, complaints)
    yield page
    page.close()
    assert not complaints


def test_the_link_opens_one_curve_for_each_group_averaged_over_its_seeds(store: Store, page: Any) -> None:
    page.goto(store.site.link("cartpole"))
    card = pages.card(page, "eval/return")
    assert card.locator(".xtitle").text_content() == "Step"
    means, curves = store.means("eval/return"), pages.curves(card)
    names = {dot: name.removeprefix("group: ") for dot, name in pages.groups(page).items()}
    assert set(names.values()) == set(means) and len(means) == 2
    assert curves.keys() == names.keys(), "each group has a line in its own colour"
    for dot, line in curves.items():
        expected = means[names[dot]]
        height = max(max(group.values()) for group in means.values())
        assert [round(line[0][0], -1), round(line[-1][0], -1)] == [0, 2040]
        for step, value in line:
            nearest = min(expected, key=lambda known: abs(known - step))
            assert abs(nearest - step) < 30 and abs(expected[nearest] - value) < 0.03 * height
    legend = card.inner_text()
    assert all(f"{name[:20]}" in legend for name in means)
    page.locator("[data-testid=draggable-chart-cards-grid] .bars path").first.wait_for()
    assert page.locator("[data-testid=draggable-chart-cards-grid] .bars path").count() == len(means)


def test_the_table_has_the_values_of_the_store_in_groups_that_open_and_close(store: Store, page: Any) -> None:
    page.set_viewport_size({"width": 1900, "height": 900})  # columns out of sight are not drawn
    page.goto(store.site.link("cartpole", "as a table"))
    page.locator(".ag-row:has-text('Group: ')").first.wait_for()
    page.locator("[col-id='params.`seed`']").first.wait_for()
    expected = [
        *("attributes.`Run Name`", "runDateAndNestInfo"),
        *[column for column in WIDTHS if not column.startswith("attributes")],
        "duration",
    ]
    until(lambda: pages.columns(page)[1:] == expected, 30)
    labels = page.locator(".ag-header-cell span").all()
    assert all(label.evaluate("label => label.scrollWidth <= label.clientWidth") for label in labels)
    rows = {row["attributes.`Run Name`"]: row for row in pages.table(page)}
    for run in store.runs("cartpole"):
        row = rows[run.info.run_name]
        for column in WIDTHS:
            kind, name = column.replace("`", "").split(".", 1)
            if kind == "params":
                assert row[column] == run.data.params[name]
            elif kind == "tags":
                assert row[column] == run.data.tags[name]
            elif kind == "metrics":
                assert float(row[column]) == pytest.approx(run.data.metrics[name])
    number = len(pages.table(page))
    first = page.locator(".ag-pinned-left-cols-container .ag-row[row-index='0']")
    assert "comparison" in first.inner_text(), "the newest comes first"
    opener = first.locator("[col-id='attributes.`Run Name`'] [role=button]")
    opener.click()
    page.wait_for_function(
        f"document.querySelectorAll('.ag-pinned-left-cols-container .ag-row').length == {number - 1}"
    )
    opener.click()
    page.wait_for_function(f"document.querySelectorAll('.ag-pinned-left-cols-container .ag-row').length == {number}")


def test_the_table_can_be_sorted_by_a_metric(store: Store, page: Any) -> None:
    page.goto(store.site.link("cartpole", "as a table"))
    column = "metrics.`eval/final_return`"
    page.locator(f".ag-cell[col-id='{column}']").first.wait_for()

    def order() -> list[str]:
        return [
            row["attributes.`Run Name`"] for row in pages.table(page) if "Group: " not in row["attributes.`Run Name`"]
        ]

    figures = {run.info.run_name: run.data.metrics["eval/final_return"] for run in store.runs("cartpole")}
    groups = {name: statistics.fmean(v for k, v in figures.items() if k[:3] == name) for name in ("a2c", "ppo")}
    for sign in (-1, 1):
        page.locator(
            f".ag-header-cell[col-id='{column}'] [role=button], .ag-header-cell[col-id='{column}'] span"
        ).first.click()
        expected = sorted(figures, key=lambda name: (sign * groups[name[:3]], sign * figures[name]))
        until(lambda expected=expected: [name for name in order() if name in figures] == expected, 30)  # type: ignore[misc]


def test_a_runs_page_begins_with_its_description_and_shows_its_learning_curve(store: Store, page: Any) -> None:
    run = store.run("cartpole", "ppo-mlp2x64-gae-cartpole-s0")
    page.goto(store.page(run))
    description = page.get_by_text("with gae on")
    description.wait_for()
    assert "final return" in description.inner_text() and "seed 0" in description.inner_text()
    assert (
        description.bounding_box()["y"]
        < page.get_by_text("Search metrics").or_(page.get_by_placeholder("Search metrics")).first.bounding_box()["y"]
    )
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("learning_curve.png").first.click()
    assert visible_width(page, "img") >= 1000


def test_the_link_to_the_model_of_a_run_works(store: Store, page: Any) -> None:
    page.goto(store.page(store.run("cartpole", "ppo-mlp2x64-gae-cartpole-s0")))
    page.get_by_role("link", name="policy", exact=True).first.click()
    page.get_by_text("Model ID").or_(page.get_by_text("Model attributes")).first.wait_for()
    assert "not found" not in page.inner_text("body").lower()


def test_a_film_plays_in_the_page(store: Store, page: Any) -> None:
    run = store.run("cartpole", "ppo-mlp2x64-gae-cartpole-s1")
    files = sorted(file.path for file in store.client.list_artifacts(run.info.run_id, "films"))
    film, animation = (next(file for file in files if file.endswith(end)) for end in (".mp4", ".gif"))
    page.goto(store.page(run, f"/artifacts/{animation}"))
    assert visible_width(page, "img") >= 400
    page.goto("about:blank")  # otherwise it stays the same page, which reads its address only once
    page.goto(store.page(run, f"/artifacts/{film}"))
    video = page.locator("video")
    video.wait_for()
    video.evaluate("video => video.play()")
    page.wait_for_function(
        "(video => video.readyState >= 2 && video.currentTime > 0.1)(document.querySelector('video'))"
    )
    assert video.evaluate("video => video.videoWidth") >= 400


def test_a_failed_run_shows_why(store: Store, page: Any) -> None:
    (run,) = store.runs("failing")
    page.goto(store.page(run))
    page.get_by_text("Failed", exact=True).first.wait_for()
    assert "the ground gives way" in page.inner_text("body"), "its tag error"
    page.goto(store.page(run, "/artifacts/traceback.txt"))
    page.get_by_text("Traceback (most recent call last)").first.wait_for()
    assert "raised RuntimeError in step: the ground gives way" in page.inner_text("body")


def test_the_newest_comparison_is_shown_with_its_pictures(store: Store, page: Any) -> None:
    page.goto(store.site.link("cartpole", "newest comparison"))
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Verdict").wait_for()
    images = report.locator("img")
    assert images.count() >= 3
    assert all(image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400 for image in images.all())


def test_the_curve_of_a_running_run_grows_by_itself(store: Store, live_page: Any) -> None:
    page, before = live_page
    run = store.runs("live")[0]
    assert run.info.status == "RUNNING"
    ((colour, line),) = before.items()
    assert len(line) > 1 and line[-1][0] > 0
    page.bring_to_front()
    until(lambda: pages.curves(pages.card(page, "eval/return"))[colour][-1][0] > line[-1][0] + 200)
    page.goto(store.page(run))
    page.get_by_text("Running", exact=True).first.wait_for()
    page.close()


def test_ctrl_c_ends_the_server_and_its_processes_despite_an_open_browser(store: Store) -> None:
    """Stop the server; this test comes last, as the others need it."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(store.site.process.pid)], capture_output=True, text=True, check=True
    )
    (group,) = map(int, listed.stdout.split())
    store.site.process.send_signal(signal.SIGINT)
    assert store.site.process.wait(30) == 0
    assert not subprocess.run(["pgrep", "-g", str(group)], capture_output=True, check=False).stdout


def visible_width(page: Any, kind: str) -> int:
    """Return the width in pixels of the largest picture on the page, once one is visible."""
    page.wait_for_function(
        f"[...document.querySelectorAll('{kind}')].some(each => each.naturalWidth > 300 && each.clientWidth > 300)"
    )
    return int(page.evaluate(f"Math.max(...[...document.querySelectorAll('{kind}')].map(each => each.naturalWidth))"))
