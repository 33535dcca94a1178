"""Make the pictures of the README and the documentation: robots, terrain, controllers at work, a report page.

    python scripts/make_pictures.py [--report RUN] [--episode FILE RUN]...
    python scripts/make_pictures.py --report QUICKSTART --episode walk.png QUICKSTART --episode arm.png ARM

RUN is the folder of a finished run: one whose report is photographed (that needs a Chromium on the
path, robotrl itself does not), others whose controllers are drawn at work.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

import robotrl
from robotrl.compose import compose_task
from robotrl.core.paths import CONFIGS
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.rendering import Quality, Renderer
from robotrl.training.play import load_controller
from robotrl.training.playback import Playback
from robotrl.training.report import write_report

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
ROBOTS = ("walker_walk", "cheetah_run", "Ant-v5", "hopper_hop")
TERRAIN = ("rough", "stairs_down", "blocks", "gaps")
ROBOT_SIZE = (300, 240)
FRAME_SIZE = (200, 160)
FRAMES = 6
STRIP_S = 3.0
GAP = 4
REPORT_SIZE = (1080, 756)


def draw_robots(path: Path) -> None:
    """Draw one robot of each kind, some control steps into an episode."""
    pictures = []
    for task in ROBOTS:
        env = robotrl.make_env(task)
        # the model's own pose, not the random one in which an episode begins
        env.sim.reset()
        env.sim.forward()
        amplitude = torch.linspace(-0.6, 0.6, env.specs.action_dim)
        for _ in range(4):
            env.step(amplitude.unsqueeze(0))
        with Renderer(env.sim, *ROBOT_SIZE, quality=Quality.VIDEO) as renderer:
            pictures.append(renderer.render()[0])
    _save_row(pictures, path)


def draw_terrain(path: Path) -> None:
    """Draw a robot that stands on the hardest level of some shapes of `realism=terrain`."""
    terrain = yaml.safe_load((CONFIGS / "realism" / "terrain.yaml").read_text())["terrain"]
    pictures = []
    for name in TERRAIN:
        hardest = {"shapes": {name: terrain["shapes"][name]}, "difficulty": [1.0, 1.0]}
        env = VecEnv(compose_task("quadruped_walk", {"realism": {"terrain": terrain | hardest}}), 1)
        env.reset()
        env.sim.reset()
        env.sim.data("qpos")[0, 2] = 0.6
        for _ in range(10):
            env.step(torch.zeros(1, env.specs.action_dim))
        with Renderer(env.sim, *ROBOT_SIZE, quality=Quality.VIDEO) as renderer:
            camera = renderer.free_camera()
            camera.azimuth_deg, camera.elevation_deg, camera.distance_m = 25.0, -30.0, 7.0
            pictures.append(renderer.render()[0])
    _save_row(pictures, path)


def draw_episode(run: Path, path: Path) -> None:
    """Draw a run's controller at times that are evenly spread over the first seconds of an episode."""
    playback = Playback(*load_controller(run), seed=3)
    steps = round(STRIP_S / playback.dt_s)
    due = np.linspace(0, steps, FRAMES).round().astype(int).tolist()
    pictures = []
    with Renderer(playback.env.sim, *FRAME_SIZE, quality=Quality.VIDEO) as renderer:
        for step in range(steps + 1):
            if step in due:
                pictures.append(renderer.render()[0])
            playback.advance()
    _save_row(pictures, path)


def draw_report(run: Path, path: Path) -> None:
    """Photograph the top of a run's report."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no Chromium to photograph the report with: apt-get install chromium")
    page = write_report(run).resolve()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        width, height = REPORT_SIZE
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={folder}/profile", f"--window-size={width},{height}",
                f"--screenshot={shot}", page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        _save(Image.open(shot).convert("RGB"), path)


def _save_row(pictures: list[np.ndarray], path: Path) -> None:
    height, width, _ = pictures[0].shape
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for i, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture), (i * (width + GAP), 0))
    _save(row, path)


def _save(picture: Image.Image, path: Path) -> None:
    """Write a small PNG: 256 colours are enough for a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Make the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", metavar="RUN", type=Path, help="run for report.png")
    parser.add_argument(
        "--episode", metavar=("FILE", "RUN"), nargs=2, action="append", default=[], help="a film strip"
    )
    args = parser.parse_args()
    draw_robots(IMAGES / "robots.png")
    draw_terrain(IMAGES / "terrain.png")
    for name, run in args.episode:
        draw_episode(Path(run), IMAGES / name)
    if args.report is not None:
        draw_report(args.report, IMAGES / "report.png")


if __name__ == "__main__":
    main()
