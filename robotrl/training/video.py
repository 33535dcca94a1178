"""Videos of a controller: the first episode of one or many simulations as an MP4 file for every browser."""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.policies.policy import Policy
from robotrl.sim.batch_renderer import BatchRenderer, Drawing
from robotrl.sim.cameras import View
from robotrl.sim.rendering import Quality
from robotrl.tasks.task import Task
from robotrl.training.controller import Controller, deterministic
from robotrl.training.playback import FirstEpisodes

# imageio_ffmpeg moves the encoder into a process group of its own before it starts, for which Python has
# to fork; Linux refuses that to a process that has reserved more memory than there is, as the arenas of
# thousands of simulations do
os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")

_MAX_SIDE = 20
_MAX_WIDTH, _MAX_HEIGHT = 1280, 960


@dataclass(frozen=True)
class Grid:
    """Simulations side by side in one video."""

    rows: int = 1
    columns: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.rows <= _MAX_SIDE and 1 <= self.columns <= _MAX_SIDE):
            raise UsageError(
                f"a video grid is 1x1 to {_MAX_SIDE}x{_MAX_SIDE} simulations, got {self.rows}x{self.columns}"
            )

    @classmethod
    def parse(cls, text: str) -> Grid:
        """Read "ROWSxCOLUMNS".

        Raises:
            UsageError: it is something else, or too many.
        """
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if match is None:
            raise UsageError(f"a video grid is ROWSxCOLUMNS such as 3x4, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def picture_size(self) -> tuple[int, int]:
        """Width and height of one simulation's picture, px: 4:3, all of them within 1280 x 960."""
        fitting = min(640, _MAX_WIDTH // self.columns, _MAX_HEIGHT // self.rows * 4 // 3)
        width = fitting // 8 * 8
        return width, width * 3 // 4


def chosen_grid(text: str | None, video: bool) -> Grid:
    """Return the grid of an option `--video-grid`, one simulation without it.

    Raises:
        UsageError: it is no grid, or no video is asked for.
    """
    if text is None:
        return Grid()
    if not video:
        raise UsageError("--video-grid says what a video shows: give --video, too")
    return Grid.parse(text)


def record_video(
    policy: Policy | Controller,
    task: Task,
    path: Path,
    *,
    seed: int,
    episode_s: float | None = None,
    grid: Grid | None = None,
    width: int | None = None,
    height: int | None = None,
    fps: float = 30.0,
    task_name: str = "",
) -> None:
    """Record first episodes as an MP4 file (H.264), at the speed of real time.

    A policy acts deterministically. Each picture shows the state at the last control step before its
    time. In a grid an episode that has ended is shown dimmed as it was last; the video ends with the
    last episode. The file appears when it is complete; one that was there before is replaced.

    Args:
        policy: a policy, or a controller of any other kind.
        task: the task to play.
        path: of the video, ending in .mp4.
        seed: of the initial states, and of the noise that a policy may decide from.
        episode_s: end of the video, s; None for the task's time limit.
        grid: how many simulations, and their places; None for one.
        width: of one simulation's picture, px, even; None for the grid's choice.
        height: of one simulation's picture, px, even; None for the grid's choice.
        fps: pictures per second.
        task_name: shown in the picture; empty for the class of the task.

    Raises:
        UsageError: the size, duration, rate or path cannot be.
        RobotrlError: drawing or writing failed; nothing is left behind.
    """
    grid = grid or Grid()
    width, height = width or grid.picture_size()[0], height or grid.picture_size()[1]
    if width % 2 or height % 2:
        raise UsageError(f"a video needs an even width and height, got {width} x {height}")
    for name, value in (("episode_s", episode_s), ("fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} must be above 0, got {value}")
    check_video_path(path)
    controller = deterministic(policy, seed) if isinstance(policy, Policy) else policy
    episodes = FirstEpisodes(controller, task, grid.rows * grid.columns, seed)
    duration_s = task.episode_length_s if episode_s is None else episode_s
    board = _Board(grid, width, height, task_name or type(task).__name__)
    view = View(None, width, height)
    with BatchRenderer(episodes.env.sim, [view], Quality.VIDEO) as renderer:
        shots = _shots(episodes, renderer, duration_s, fps)
        size = grid.columns * width, grid.rows * height
        write_mp4(path, _pictures(shots, board, renderer.num_threads), *size, fps)


def check_video_path(path: Path) -> None:
    """Raise UsageError unless a video can be put at `path`."""
    if path.suffix != ".mp4":
        raise UsageError(f"a video is an .mp4 file, got {path}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of {path} does not exist")


@dataclass(frozen=True)
class _Shot:
    """What is on a picture: drawings of simulations `ids`, and how often it is repeated."""

    drawing: Drawing
    ids: list[int]
    returns: list[float]
    time_s: float
    repeats: int


def _shots(
    episodes: FirstEpisodes, renderer: BatchRenderer, duration_s: float, fps: float
) -> Iterator[_Shot]:
    """Yield shots at `fps` until the episodes end or `duration_s` is over."""
    shown = 0
    while bool(episodes.running.any()) and episodes.time_s < duration_s - 1e-9:
        until_s = min(episodes.time_s + episodes.dt_s, duration_s)
        due = math.ceil(until_s * fps - 1e-6) - shown
        if due > 0:
            ids = episodes.running.nonzero().squeeze(1).tolist()
            drawing = renderer.submit(ids)
            yield _Shot(drawing, ids, episodes.returns.tolist(), episodes.time_s, due)
            shown += due
        episodes.advance()


def _pictures(shots: Iterator[_Shot], board: _Board, ahead: int) -> Iterator[np.ndarray]:
    """Yield the pictures in order while `ahead` later ones are being drawn."""
    waiting: deque[_Shot] = deque()
    for shot in shots:
        waiting.append(shot)
        if len(waiting) > ahead:
            yield from board.pictures(waiting.popleft())
    while waiting:
        yield from board.pictures(waiting.popleft())


class _Board:
    """Puts the simulations' pictures and captions together."""

    def __init__(self, grid: Grid, width: int, height: int, title: str) -> None:
        self._title = title
        self._pixels = np.zeros((grid.rows * height, grid.columns * width, 3), dtype=np.uint8)
        split = self._pixels.reshape(grid.rows, height, grid.columns, width, 3)
        self._tiles = [split[row, :, column] for row in range(grid.rows) for column in range(grid.columns)]
        self._corners = [
            (column * width, (row + 1) * height) for row in range(grid.rows) for column in range(grid.columns)
        ]
        self._small_px = max(height // 16, 9)
        self._running = set(range(len(self._tiles)))

    def pictures(self, shot: _Shot) -> Iterator[np.ndarray]:
        """Yield the shot's picture, (H, W, 3), as often as it is shown."""
        for i in self._running.difference(shot.ids):
            self._tiles[i] //= 2
        self._running = set(shot.ids)
        for i, picture in zip(shot.ids, shot.drawing.result()[0], strict=True):
            self._tiles[i][...] = picture
        image = Image.fromarray(self._pixels)
        draw = ImageDraw.Draw(image, "RGBA")
        alone = len(self._tiles) == 1
        mean = sum(shot.returns) / len(shot.returns)
        text = f"{self._title}   {shot.time_s:5.2f} s   {'' if alone else 'mean '}return {mean:.1f}"
        _write_caption(draw, text, image.height)
        if not alone:
            pad = self._small_px
            for (left, bottom), value in zip(self._corners, shot.returns, strict=True):
                _write(draw, (left + pad, bottom - 2.2 * pad), f"{value:.1f}", pad)
        picture = np.asarray(image)
        for _ in range(shot.repeats):
            yield picture


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Return an (H, W, 3) picture with a line in its upper left corner."""
    image = Image.fromarray(picture)
    _write_caption(ImageDraw.Draw(image, "RGBA"), text, image.height)
    return np.asarray(image)


def _write_caption(draw: ImageDraw.ImageDraw, text: str, height: int) -> None:
    size = max(height // 30, 9)
    _write(draw, (1.2 * size, size), text, size)


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size_px: int) -> None:
    """Write text on a dark panel."""
    left, top, right, bottom = draw.textbbox(place, text, font=_font(size_px))
    pad = size_px // 2
    panel = (left - pad, top - pad, right + pad, bottom + pad)
    draw.rounded_rectangle(panel, radius=pad, fill=(10, 14, 20, 150))
    draw.text(place, text, font=_font(size_px), fill=(255, 255, 255, 235))


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def write_mp4(path: Path, pictures: Iterator[np.ndarray], width: int, height: int, fps: float) -> None:
    """Encode beside `path`, check that every picture is in the file, then rename.

    Args:
        path: of the video; one that is there is replaced.
        pictures: (height, width, 3) uint8.
        width: of a picture.
        height: of a picture.
        fps: pictures per second.

    Raises:
        RobotrlError: it cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
    writer: Generator[None, bytes, None] = imageio_ffmpeg.write_frames(
        str(part),
        (width, height),
        fps=fps,
        codec="libx264",
        macro_block_size=2,
        quality=7,
        output_params=["-preset", "veryfast", "-movflags", "+faststart"],
        ffmpeg_log_level="error",
    )
    count = 0
    try:
        with closing(writer):
            writer.send(None)  # type: ignore[arg-type]  # starts the generator
            for picture in pictures:
                writer.send(np.ascontiguousarray(picture).tobytes())
                count += 1
        if (kept := _count_pictures(part)) != count:
            raise OSError(f"the encoder kept {kept} of {count} pictures, is the disk full?")
        os.replace(part, path)
    except OSError as error:
        raise RobotrlError(f"cannot write the video {path}: {' '.join(str(error).split())}") from error
    finally:
        part.unlink(missing_ok=True)


def _count_pictures(path: Path) -> int:
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0]) if path.is_file() else 0
    except RuntimeError:  # not a video
        return 0
