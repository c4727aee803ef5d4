"""Tests of writing frames as MP4 and GIF, which are read back with ffmpeg and Pillow."""

from __future__ import annotations

import re
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from plexp.envs import video as camera
from plexp.envs.video import GIF_BYTES, GIF_FRAMES, PAPER, WIDTH, Frame, Title, add_caption, record

TITLE = Title("a title")


def make_frame(value: int, step: int = 0, shape: tuple[int, int] = (300, 400)) -> Frame:
    return Frame(np.full((*shape, 3), value, np.uint8), step, 1.5 * step)


def make_frames(count: int, shape: tuple[int, int] = (300, 400)) -> Iterator[Frame]:
    """Yield frames, each a little brighter than the one before it."""
    for step in range(count):
        yield make_frame(step * 200 // max(count - 1, 1), step, shape)


def read(path: Path) -> tuple[str, list[np.ndarray[Any, Any]]]:
    """Return what ffmpeg reports about a film, and its frames."""
    arguments = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(arguments, capture_output=True, check=True)
    report = next(line for line in done.stderr.decode().splitlines() if "Video:" in line)
    width, height = map(int, re.findall(r" (\d+)x(\d+)[ ,]", report)[0])
    return report, list(np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3))


@pytest.mark.parametrize(
    ("shape", "factor"),
    [((300, 400), 1), ((210, 160), 3), ((301, 401), 1), ((64, 64), 7), ((399, 399), 2), ((1, 2), 200)],
)
def test_frames_are_scaled_by_a_whole_factor_to_at_least_400_pixels_and_even_sides(
    shape: tuple[int, int], factor: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    frame = add_caption(Frame(pixels, 3, 1.5), TITLE)
    height, width = frame.shape[:2]
    assert width >= WIDTH and width % 2 == height % 2 == 0
    top = height - shape[0] * factor - (height - shape[0] * factor) % 2
    shown = frame[top : top + shape[0] * factor, : shape[1] * factor]
    np.testing.assert_array_equal(shown, np.kron(pixels, np.ones((factor, factor, 1), np.uint8)))


@pytest.mark.parametrize("value", [0, 255])
def test_step_and_return_are_written_bright_on_dark_whatever_the_frame_is(value: int) -> None:
    one, other = (
        add_caption(Frame(np.full((300, 400, 3), value, np.uint8), 7, total), TITLE) for total in (12.5, 13.5)
    )
    top = len(one) - 300
    assert tuple(one[0, 0]) == PAPER and one[:top].max() == 255 and (one[:top] == PAPER).all(-1).mean() > 0.8
    changed = np.argwhere((one != other).any(-1))
    assert len(changed) and changed[:, 0].max() < top and changed[:, 1].min() > 96


def test_a_long_title_is_cut_and_a_warning_has_a_line_of_its_own() -> None:
    plain, long = add_caption(make_frame(0), TITLE), add_caption(make_frame(0), Title("x" * 500))
    assert plain.shape == long.shape and (long[:, -camera.MARGIN :] == plain[:, -camera.MARGIN :]).all()
    warned = add_caption(make_frame(0), Title("a title", "this is odd"))
    assert len(warned) == len(plain) + camera.LINE
    assert (np.abs(warned.astype(int) - camera.WARNING).sum(-1) < 30).any()


def test_the_film_is_h264_for_browsers_with_every_frame_and_a_pause_at_its_end(tmp_path: Path) -> None:
    film, _ = record(make_frames(11), 11, 20.0, TITLE, tmp_path / "name")
    report, frames = read(film)
    assert film == tmp_path / "name.mp4" and "Video: h264" in report and "yuv420p" in report and " 20 fps" in report
    assert len(frames) == 11 + 20
    for index, expected in enumerate(make_frames(11)):
        assert abs(int(frames[index][200].mean()) - int(expected.pixels.mean())) <= 4
    assert abs(int(frames[-1][200].mean()) - 200) <= 4
    data = film.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "it can start to play before it is fully loaded"


def test_the_gif_shows_start_and_end_as_long_as_the_episode_took_and_loops(tmp_path: Path) -> None:
    _, path = record(make_frames(61), 61, 30.0, TITLE, tmp_path / "name")
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0 and gif.n_frames == 31
        shown, values = [], []
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(gif.info["duration"])
            values.append(np.asarray(gif.convert("RGB"))[200, 200, 0])
    assert sum(shown[:-1]) == pytest.approx(2000, rel=0.1) and shown[-1] == 1000
    assert values[0] < 15 and values[-1] > 185 and values == sorted(values)


def test_a_gif_that_leaves_out_frames_still_ends_with_the_last_one(tmp_path: Path) -> None:
    _, path = record(make_frames(60), 60, 30.0, TITLE, tmp_path / "name")
    with Image.open(path) as gif:
        gif.seek(gif.n_frames - 1)
        assert np.asarray(gif.convert("RGB"))[200, 200, 0] > 185


def test_the_gif_of_a_long_episode_has_few_frames_and_takes_little_memory(tmp_path: Path) -> None:
    made: list[weakref.ref[Any]] = []
    most = 0

    class Pixels(np.ndarray[Any, Any]):
        """Array that can be weakly referenced."""

    def long() -> Iterator[Frame]:
        nonlocal most
        for step in range(700):
            pixels = np.full((40, 400, 3), step % 250, np.uint8).view(Pixels)
            made.append(weakref.ref(pixels))
            most = max(most, sum(each() is not None for each in made))
            yield Frame(pixels, step, 0.0)

    _, path = record(long(), 700, 30.0, TITLE, tmp_path / "name")
    assert most <= 3
    with Image.open(path) as gif:
        assert GIF_FRAMES / 2 < gif.n_frames <= GIF_FRAMES + 1


def test_a_gif_that_is_too_large_leaves_out_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert GIF_BYTES <= 5_000_000
    monkeypatch.setattr(camera, "GIF_BYTES", 1_000_000)
    rng = np.random.default_rng(0)
    noise = (Frame(rng.integers(0, 256, (200, 400, 3), np.uint8), step, 0.0) for step in range(40))
    _, path = record(noise, 40, 15.0, TITLE, tmp_path / "name")
    assert path.stat().st_size <= 1_000_000
    with Image.open(path) as gif:
        assert 3 <= gif.n_frames < 40


def test_a_missing_folder_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        record(make_frames(3), 3, 10.0, TITLE, tmp_path / "nowhere" / "name")
