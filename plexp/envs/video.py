"""Frames to a film: scaled, captioned, and written as MP4 and GIF. Knows no environment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3] RGB."""

WIDTH = 400
"""The least width, in pixels; a larger one scales small frames up further."""
LINE, MARGIN, FONT_SIZE = 18, 6, 14
"""Of the caption, in pixels."""
INK, PALE, WARNING, PAPER = (255, 255, 255), (170, 170, 170), (255, 190, 60), (24, 24, 24)
GIF_FRAMES, GIF_RATE, GIF_BYTES = 150, 15.0, 5_000_000
"""The most frames, frames a second and bytes of a GIF; larger: smoother and heavier."""
SLOWEST = 0.15
"""Seconds that a frame of a GIF is shown at most, so that a long episode is shown faster than it was."""
LAST_SECONDS = 1.0
"""How long the end of an episode is to be seen."""


class Frame(NamedTuple):
    """One frame of an episode."""

    pixels: Pixels
    step: int
    total_reward: float
    """Of the episode so far."""


@dataclass(frozen=True)
class Title:
    """What stands above a film: which episode it is, and what is odd about it."""

    text: str
    warning: str = ""


def record(moments: Iterable[Frame], count: int, rate: float, title: Title, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.mp4 and `stem`.gif of about `count` frames, `rate` of them a second; a frame is in memory at a time.

    The GIF leaves out what makes it too heavy; of it at most `GIF_FRAMES` frames of a byte a pixel are in memory.
    Raises OSError if they cannot be written.
    """
    film, still = stem.with_name(f"{stem.name}.mp4"), stem.with_name(f"{stem.name}.gif")
    film.touch()  # ffmpeg would only say that a pipe broke
    stride = max(1, math.ceil(rate / GIF_RATE), math.ceil(count / GIF_FRAMES))
    kept: list[Image.Image] = []
    last: Pixels | None = None
    frames = (captioned(moment, title) for moment in moments)
    with closing(_Encoder(film, rate)) as encoder:
        for index, last in enumerate(frames):
            encoder.add(last)
            if index % stride == 0:
                kept.append(_indexed(last))
        assert last is not None
        for _ in range(round(rate * LAST_SECONDS)):
            encoder.add(last)
    if index % stride:
        kept.append(_indexed(last))
    _write_gif(kept, still, min(stride / rate, SLOWEST))
    return film, still


def captioned(moment: Frame, title: Title) -> Pixels:
    """A frame at least `WIDTH` wide, by a whole factor, below a caption; its sides are even, as H.264 wants them."""
    pixels = moment.pixels
    if (factor := math.ceil(WIDTH / pixels.shape[1])) > 1:
        pixels = pixels.repeat(factor, 0).repeat(factor, 1)
    height, width = pixels.shape[:2]
    top = (3 if title.warning else 2) * LINE + 2 * MARGIN
    caption = Image.new("RGB", (width, top), PAPER)
    draw, font = ImageDraw.Draw(caption), ImageFont.load_default(FONT_SIZE)
    draw.text((MARGIN, MARGIN), _fitting(title.text, width, font), PALE, font)
    draw.text((MARGIN, MARGIN + LINE), f"step {moment.step}", INK, font)
    draw.text((MARGIN + 96, MARGIN + LINE), f"return {moment.total_reward:.1f}", INK, font)
    if title.warning:
        draw.text((MARGIN, MARGIN + 2 * LINE), _fitting(title.warning, width, font), WARNING, font)
    canvas = np.empty((top + height + (top + height) % 2, width + width % 2, 3), np.uint8)
    canvas[:] = PAPER
    canvas[:top, :width], canvas[top : top + height, :width] = np.asarray(caption), pixels
    return canvas


def _fitting(text: str, width: int, font: Any) -> str:
    """The text, cut so that it fits into the frame."""
    while text and font.getlength(text) > width - 2 * MARGIN:
        text = text.rstrip("…")[:-1] + "…"
    return text


class _Encoder:
    """H.264 with the pixel format that browsers play, by the ffmpeg that imageio-ffmpeg brings."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.writer: Any = None

    def add(self, frame: Pixels) -> None:
        if self.writer is None:
            import imageio_ffmpeg

            size = frame.shape[1], frame.shape[0]
            settings: dict[str, Any] = {"fps": self.rate, "codec": "libx264", "pix_fmt_out": "yuv420p", "quality": None}
            settings["ffmpeg_log_level"] = "quiet"
            options = ["-crf", "23", "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart"]
            self.writer = imageio_ffmpeg.write_frames(
                str(self.path), size, macro_block_size=1, output_params=options, **settings
            )
            self.writer.send(None)
        self.writer.send(frame.tobytes())

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _indexed(frame: Pixels) -> Image.Image:
    """With a palette of its own of 256 colours, whose places an octree fixes, so that flat areas do not flicker."""
    return Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _write_gif(frames: list[Image.Image], path: Path, seconds: float) -> None:
    """Every second frame is left out until it is light enough."""
    while True:
        shown = [max(20, round(seconds * 100) * 10)] * len(frames)
        shown[-1] = round(LAST_SECONDS * 1000)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=shown, loop=0, optimize=False)
        if path.stat().st_size <= GIF_BYTES or len(frames) < 4:
            return
        frames, seconds = [*frames[:-1][::2], frames[-1]], min(2 * seconds, 2 * SLOWEST)


def thinned(length: int, stride: int) -> Iterator[int]:
    """The steps of an episode that are filmed: its start, every `stride`-th, and its end."""
    yield from range(0, length, stride)
    yield length
