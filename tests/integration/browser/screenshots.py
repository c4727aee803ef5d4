"""Script that takes the README's pictures of MLflow's pages.

    python tests/integration/browser/screenshots.py [OUTPUTS] [EXPERIMENT]

The pictures in `.readme/` show `python -m plexp -m env=cartpole algo=reinforce,a2c,ppo 'seed=range(5)'`, filmed and
compared by `python -m plexp film best --env cartpole` and `python -m plexp compare --by algo`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3]))

from plexp.tracking.format import sqlite_uri
from tests.integration.browser import pages

FOLDER = pages.CHECKOUT / ".readme"
LARGEST = 250_000
"""Largest size of a picture, in bytes."""
ON_A_DESKTOP = """.modebar { display: none } [data-testid="saved-views-banner"] { display: none }"""
"""Style that hides the charts' tools: on a desktop they show only below the pointer, which headless mode lacks."""


def main(arguments: Sequence[str]) -> None:
    """Take all the pictures."""
    outputs, experiment = Path(arguments[0] if arguments else "outputs").absolute(), (arguments[1:] or ["cartpole"])[0]
    client = MlflowClient(sqlite_uri(outputs / "mlflow.db"))
    found = client.get_experiment_by_name(experiment)
    order = ["metrics.`eval/final_return` DESC", "attributes.start_time DESC"]
    best = client.search_runs([found.experiment_id], "tags.kind = 'training'", order_by=order)[0]
    with pages.serving(outputs.parent, links=3) as site, pages.browser(height=1000) as context:
        page = context.new_page()
        page.goto(site.link(experiment))
        pages.card(page, "eval/return")
        save_picture(page, "charts", height=880)
        page.goto(site.link(experiment, "as a table"))
        page.locator(".ag-cell[col-id='metrics.`eval/final_return`']").first.wait_for()
        save_picture(page, "table", height=1000)
        page.goto(site.run(best.info.experiment_id, best.info.run_id))
        page.get_by_placeholder("Search metrics").wait_for()
        save_picture(page, "run", height=620)
        page.goto(site.run(best.info.experiment_id, best.info.run_id, "/artifacts/learning_curve.png"))
        page.wait_for_function("[...document.querySelectorAll('img')].some(image => image.clientWidth > 300)")
        save_picture(page, "curve", height=680)
        page.goto(site.link(experiment, "newest comparison"))
        page.frame_locator("iframe").locator("img").first.wait_for()
        page.frame_locator("iframe").locator("img").first.evaluate("image => image.decode()")
        save_picture(page, "comparison", height=1000)


def save_picture(page: Any, name: str, height: int) -> None:
    """Save the top of a page, 1400 pixels wide, with few enough colours to make the file small."""
    page.add_style_tag(content=ON_A_DESKTOP)
    page.wait_for_timeout(3000)
    shot = Image.open(io.BytesIO(page.screenshot(scale="css"))).convert("RGB").crop((0, 0, 1400, height))
    for colours in (256, 128, 64, 32):
        path = FOLDER / f"{name}.png"
        shot.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    print(f"{path}: {path.stat().st_size:,} bytes, {colours} colours")


if __name__ == "__main__":
    main(sys.argv[1:])
