"""Writes frames as MP4 and GIF, scaled and with a caption."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from plexp.files import draft_of, try_writing

Pixels = npt.NDArray[np.uint8]
"""RGB image [H, W, 3] of uint8."""

WIDTH = 400
"""Minimum width of a film in pixels; larger: small frames are scaled up further."""
LINE, MARGIN, FONT_SIZE = 18, 6, 14
"""Line height, margin and font size of the caption in pixels."""
INK, PALE, WARNING, PAPER = (255, 255, 255), (170, 170, 170), (255, 190, 60), (24, 24, 24)
"""RGB colours of the caption: numbers, title, warning, background."""
GIF_FRAMES, GIF_RATE, GIF_BYTES = 150, 15.0, 5_000_000
"""Maximum number of frames, frames per second and bytes of a GIF; larger: smoother GIFs in larger files."""
MAX_FRAME_SECONDS = 0.15
"""Maximum duration of a frame of a GIF; a long episode, of which few frames are left, is shown faster than it was."""
LAST_SECONDS = 1.0
"""Seconds for which a film shows the last frame."""


class Frame(NamedTuple):
    """A frame of an episode, with the numbers of its caption."""

    pixels: Pixels
    step: int
    """Number of steps of the episode so far."""
    total_reward: float
    """Sum of the rewards of the episode so far."""


@dataclass(frozen=True)
class Title:
    """Lines of the caption that are the same in all frames."""

    text: str
    """Name of the episode."""
    warning: str = ""
    """Warning below the numbers; empty: the caption has no such line."""


def record(frames: Iterable[Frame], count: int, rate: float, title: Title, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.mp4 and `stem`.gif from about `count` frames, `rate` of them per second, and return the two paths.

    The GIF leaves out frames as `GIF_FRAMES`, `GIF_RATE` and `GIF_BYTES` demand. One frame is in memory at a time, beside
    the frames of the GIF at one byte per pixel. Raises OSError if the files cannot be written.
    """
    mp4, gif = stem.with_name(f"{stem.name}.mp4"), stem.with_name(f"{stem.name}.gif")
    with draft_of(mp4) as film, draft_of(gif) as picture:
        film.touch()  # raises what is wrong, where ffmpeg would only break its pipe
        try:
            _write(frames, count, rate, title, film, picture)
        finally:
            try_writing(stem.parent)  # raises that the disk is full, of which ffmpeg says nothing
    return mp4, gif


def _write(frames: Iterable[Frame], count: int, rate: float, title: Title, mp4: Path, gif: Path) -> None:
    stride = max(1, math.ceil(rate / GIF_RATE), math.ceil(count / GIF_FRAMES))
    gif_frames: list[Image.Image] = []
    last: Pixels | None = None
    captioned = (add_caption(frame, title) for frame in frames)
    with closing(_Encoder(mp4, rate)) as encoder:
        for index, last in enumerate(captioned):
            encoder.add(last)
            if index % stride == 0:
                gif_frames.append(_quantize(last))
        assert last is not None
        for _ in range(round(rate * LAST_SECONDS)):
            encoder.add(last)
    if index % stride:
        gif_frames.append(_quantize(last))
    _write_gif(gif_frames, gif, min(stride / rate, MAX_FRAME_SECONDS))


def add_caption(frame: Frame, title: Title) -> Pixels:
    """Return the frame below its caption, scaled by an integer to at least `WIDTH`, with even sides as H.264 needs them."""
    pixels = frame.pixels
    if (factor := math.ceil(WIDTH / pixels.shape[1])) > 1:
        pixels = pixels.repeat(factor, 0).repeat(factor, 1)
    height, width = pixels.shape[:2]
    top = (3 if title.warning else 2) * LINE + 2 * MARGIN
    caption = Image.new("RGB", (width, top), PAPER)
    draw, font = ImageDraw.Draw(caption), ImageFont.load_default(FONT_SIZE)
    draw.text((MARGIN, MARGIN), _truncate(title.text, width, font), PALE, font)
    draw.text((MARGIN, MARGIN + LINE), f"step {frame.step}", INK, font)
    draw.text((MARGIN + 96, MARGIN + LINE), f"return {frame.total_reward:.1f}", INK, font)
    if title.warning:
        draw.text((MARGIN, MARGIN + 2 * LINE), _truncate(title.warning, width, font), WARNING, font)
    canvas = np.empty((top + height + (top + height) % 2, width + width % 2, 3), np.uint8)
    canvas[:] = PAPER
    canvas[:top, :width], canvas[top : top + height, :width] = np.asarray(caption), pixels
    return canvas


def _truncate(text: str, width: int, font: Any) -> str:
    """Return the text, cut off so that it fits into `width` pixels."""
    while text and font.getlength(text) > width - 2 * MARGIN:
        text = text.rstrip("…")[:-1] + "…"
    return text


class _Encoder:
    """Encoder of frames as H.264 in a pixel format that browsers play, by the ffmpeg of imageio-ffmpeg."""

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


def _quantize(frame: Pixels) -> Image.Image:
    """Return the frame with a palette of 256 colours, by an octree: it puts colours in fixed places, so nothing flickers."""
    return Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _write_gif(frames: list[Image.Image], path: Path, seconds: float) -> None:
    """Write a GIF of the frames, with every second one left out until it has at most `GIF_BYTES`."""
    while True:
        durations = [max(20, round(seconds * 100) * 10)] * len(frames)
        durations[-1] = round(LAST_SECONDS * 1000)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
        if path.stat().st_size <= GIF_BYTES or len(frames) < 4:
            return
        frames, seconds = [*frames[:-1][::2], frames[-1]], min(2 * seconds, 2 * MAX_FRAME_SECONDS)
