"""Videos of a controller: one episode as an MP4 file that every browser plays."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.policies.policy import Policy
from robotrl.sim.rendering import Quality, Renderer
from robotrl.tasks.task import Task
from robotrl.training.playback import Act, Playback, deterministic


def record_video(
    policy: Policy | Act,
    task: Task,
    path: Path,
    *,
    seed: int,
    episode_s: float | None = None,
    width: int = 640,
    height: int = 480,
    fps: float = 30.0,
    task_name: str = "",
) -> None:
    """Record the first episode as an MP4 file (H.264), at the speed of real time.

    A policy acts deterministically. Each picture shows the state at the last control step before its
    time. The video ends with the episode. The file appears when it is complete; one that was there
    before is replaced.

    Args:
        policy: a policy, or what maps observation groups, (1, D), to an action, (1, A), in [-1, 1].
        task: the task to play.
        path: of the video, ending in .mp4.
        seed: of the initial state.
        episode_s: end of the video, s; None for the task's time limit.
        width: px, even.
        height: px, even.
        fps: pictures per second.
        task_name: shown in the picture; empty for the class of the task.

    Raises:
        UsageError: the size, duration, rate or path cannot be.
        RobotrlError: drawing or writing failed; nothing is left behind.
    """
    if width % 2 or height % 2:
        raise UsageError(f"a video needs an even width and height, got {width} x {height}")
    for name, value in (("episode_s", episode_s), ("fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} must be above 0, got {value}")
    check_video_path(path)
    act = deterministic(policy) if isinstance(policy, Policy) else policy
    playback = Playback(act, task, task_name or type(task).__name__, seed)
    duration_s = task.episode_length_s if episode_s is None else episode_s
    with Renderer(playback.env.sim, width, height, quality=Quality.VIDEO) as renderer:
        write_mp4(path, _pictures(playback, renderer, duration_s, fps), width, height, fps)


def check_video_path(path: Path) -> None:
    """Raise UsageError unless a video can be put at `path`."""
    if path.suffix != ".mp4":
        raise UsageError(f"a video is an .mp4 file, got {path}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of {path} does not exist")


def _pictures(playback: Playback, renderer: Renderer, duration_s: float, fps: float) -> Iterator[np.ndarray]:
    """Yield (H, W, 3) pictures at `fps` until the episode ends or `duration_s` is over."""
    shown = 0
    ended = False
    while not ended and playback.time_s < duration_s - 1e-9:
        until_s = min(playback.time_s + playback.dt_s, duration_s)
        due = math.ceil(until_s * fps - 1e-6) - shown
        if due > 0:
            text = f"{playback.task_name}   {playback.time_s:5.2f} s   return {playback.episode_return:.1f}"
            picture = caption(renderer.render()[0], text)
            for _ in range(due):
                yield picture
            shown += due
        ended = playback.advance()


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Write a line into the upper left corner of an (H, W, 3) picture."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    size = max(image.height // 30, 9)
    left, top, right, bottom = draw.textbbox((1.2 * size, size), text, font=_font(size))
    pad = size // 2
    panel = (left - pad, top - pad, right + pad, bottom + pad)
    draw.rounded_rectangle(panel, radius=pad, fill=(10, 14, 20, 150))
    draw.text((1.2 * size, size), text, font=_font(size), fill=(255, 255, 255, 235))
    return np.asarray(image)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def write_mp4(path: Path, pictures: Iterator[np.ndarray], width: int, height: int, fps: float) -> None:
    """Encode beside `path`, check that every picture is in the file, then rename."""
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
