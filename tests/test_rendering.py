"""Pictures and videos are drawn for real here: `make` installs the libraries, so nothing is skipped."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import mujoco
import numpy as np
import pytest
import torch

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import FreeCamera, default_camera, root_body
from robotrl.sim.rendering import Quality, Renderer
from robotrl.tasks.control_suite.walker import Walker
from robotrl.training.video import record_video

BALL = """
<mujoco>
  <worldbody>
    <light pos="0 0 5"/>
    <geom type="plane" size="9 9 .1" rgba="0 0 1 1"/>
    <body name="ball" pos="0 0 1"><freejoint/><geom name="ball" size=".2" rgba="1 0 0 1"/>
      <camera name="eye" pos="0 0 .3"/></body>
  </worldbody>
</mujoco>
"""


def ball_sim(n: int = 3) -> BatchSim:
    return BatchSim(mujoco.MjModel.from_xml_string(BALL), n)


def redness(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: where the red ball is."""
    picture = picture.astype(int)
    return (picture[..., 0] > 60) & (picture[..., 2] < picture[..., 0] // 2)


def test_each_simulation_is_drawn_with_its_own_state_and_model() -> None:
    sim = ball_sim(3)
    sim.param("geom_rgba")[1, 1] = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    sim.data("qpos")[2, 2] = 50.0
    camera = FreeCamera(sim.model)
    camera._root = None  # a fixed view, so that a ball that is elsewhere is out of the picture
    with Renderer(sim, 64, 48, camera) as renderer:
        pictures = renderer.render((0, 1, 2))
        again = renderer.render((2, 0))
    assert pictures.shape == (3, 48, 64, 3) and pictures.dtype == np.uint8
    assert redness(pictures[0]).sum() > 20
    middle = pictures[1][redness(pictures[0])].astype(int)
    assert (middle[:, 1] > middle[:, 0] + 30).mean() > 0.9  # green where the other ball is red
    assert redness(pictures[2]).sum() == 0
    np.testing.assert_array_equal(again, pictures[[2, 0]])


def test_picture_is_upright_and_not_mirrored() -> None:
    sim = ball_sim(1)
    camera = FreeCamera(sim.model)
    camera._root = None
    camera.azimuth_deg, camera.elevation_deg, camera.distance_m = 90.0, 0.0, 6.0  # looks along +y
    with Renderer(sim, 96, 96, camera) as renderer:
        rows, columns = np.nonzero(redness(renderer.render()[0]))
        sim.data("qpos")[0, 0], sim.data("qpos")[0, 2] = 1.0, 2.0
        rows_after, columns_after = np.nonzero(redness(renderer.render()[0]))
    assert rows_after.mean() < rows.mean() - 5  # up is up
    assert columns_after.mean() > columns.mean() + 5  # +x is to the right


def test_free_camera_follows_the_robot() -> None:
    sim = ball_sim(1)
    with Renderer(sim, 64, 64) as renderer:
        before = np.argwhere(redness(renderer.render()[0])).mean(axis=0)
        sim.data("qpos")[0, 0] = 3.0
        after = np.argwhere(redness(renderer.render()[0])).mean(axis=0)
    np.testing.assert_allclose(after, before, atol=1.0)


def test_renderer_sees_state_that_was_written_but_not_stepped() -> None:
    sim = BatchSim(Walker().build_model(), 1)
    with Renderer(sim, 64, 64) as renderer:
        first = renderer.render()
        sim.data("qpos")[0, 2] = 1.5
        assert (renderer.render() != first).mean() > 0.05


def test_model_camera_is_the_default_but_not_the_robots_own_eye() -> None:
    assert default_camera(Walker().build_model()) == "side"
    ball = ball_sim(1).model
    assert default_camera(ball) is None
    assert root_body(ball) == 1
    cartpole = "<mujoco><worldbody><body><joint type='slide'/><geom size='.1'/></body></worldbody></mujoco>"
    assert root_body(mujoco.MjModel.from_xml_string(cartpole)) is None


def test_free_camera_takes_over_the_view_of_a_model_camera() -> None:
    sim = BatchSim(Walker().build_model(), 1)
    with Renderer(sim, 160, 120) as renderer:
        fixed = renderer.render()[0].astype(int)
        camera = renderer.free_camera()
        free = renderer.render()[0].astype(int)
        assert renderer.free_camera() is camera
        camera.turn(azimuth_deg=40.0)
        turned = renderer.render()[0].astype(int)
    assert np.abs(free - fixed).mean() < 4.0
    assert np.abs(turned - fixed).mean() > 10.0


def test_turning_stays_below_the_pole_and_zoom_divides_the_distance() -> None:
    camera = FreeCamera(ball_sim(1).model)
    distance = camera.distance_m
    camera.turn(azimuth_deg=725.0, elevation_deg=-500.0, zoom=2.0)
    assert camera.elevation_deg == -89.0
    assert camera.distance_m == distance / 2
    assert 0 <= camera.azimuth_deg < 360


def test_quality_decides_about_shadows() -> None:
    sim = BatchSim(Walker().build_model(), 1)
    means = []
    for quality in Quality:
        with Renderer(sim, 160, 120, quality=quality) as renderer:
            means.append(renderer.render()[0])
    fast, video = means
    assert (fast.astype(int) - video.astype(int) > 8).mean() > 0.005  # shadows darken some pixels


def test_wrong_requests_name_what_is_possible() -> None:
    sim = BatchSim(Walker().build_model(), 1)
    with pytest.raises(UsageError, match=r"unknown camera 'sid' \(did you mean 'side'\?\)"):
        Renderer(sim, 8, 8, "sid")
    with pytest.raises(UsageError, match="unknown camera '7'"):
        Renderer(sim, 8, 8, 7)
    with pytest.raises(UsageError, match="0 x 8"):
        Renderer(sim, 0, 8)


def draw_in_new_process(**env: str) -> subprocess.CompletedProcess[str]:
    program = """
import mujoco
from robotrl.core.errors import RobotrlError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.rendering import Renderer
sim = BatchSim(mujoco.MjModel.from_xml_string("<mujoco/>"), 1)
try:
    print(Renderer(sim, 8, 8).render().shape)
except RobotrlError as error:
    print("error:", error)
"""
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.run(
        [sys.executable, "-c", program], env={**kept, **env}, capture_output=True, text=True, timeout=120
    )


def test_without_a_screen_egl_is_chosen_even_after_mujoco_was_imported() -> None:
    done = draw_in_new_process()
    assert done.stdout.strip() == "(1, 8, 8, 3)", done.stderr


def test_missing_library_is_one_line_with_the_command(tmp_path: Path) -> None:
    for name in ("libEGL.so", "libEGL.so.1"):
        (tmp_path / name).write_bytes(b"this is not a library")
    done = draw_in_new_process(LD_LIBRARY_PATH=str(tmp_path))
    assert done.stdout.startswith("error: cannot draw pictures"), done.stderr
    assert "`apt-get install libegl1 libgl1 libgles2`" in done.stdout
    assert done.stdout.count("\n") == 1


def test_library_that_needs_a_screen_is_named() -> None:
    done = draw_in_new_process(MUJOCO_GL="glfw")
    assert done.stdout.startswith("error: cannot draw pictures with MUJOCO_GL=glfw"), done.stderr
    assert "set MUJOCO_GL=egl" in done.stdout


def still(obs: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.zeros(1, 6)


def test_video_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "walker.mp4"
    path.write_bytes(b"an older video")
    record_video(still, Walker(), path, seed=1, episode_s=0.5, width=160, height=120, fps=30)
    video = iio.imread(path)
    assert video.shape == (15, 120, 160, 3)
    assert video.mean() > 20
    assert np.abs(video[-1].astype(int) - video[0].astype(int)).mean() > 2  # the walker falls
    meta = iio.immeta(path)
    assert (meta["codec"], meta["fps"], meta["pix_fmt"].split("(")[0]) == ("h264", 30.0, "yuv420p")
    assert [file.name for file in tmp_path.iterdir()] == ["walker.mp4"]


@pytest.mark.parametrize(("fps", "pictures"), [(10, 3), (40, 10), (100, 25)])
def test_video_lasts_as_long_as_the_simulation_at_any_rate(tmp_path: Path, fps: int, pictures: int) -> None:
    path = tmp_path / "v.mp4"
    record_video(still, Walker(), path, seed=1, episode_s=0.25, width=32, height=32, fps=fps)
    assert len(iio.imread(path)) == pictures


def test_video_ends_with_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    record_video(still, Walker(episode_length_s=0.2), path, seed=1, episode_s=5, width=32, height=32, fps=40)
    assert len(iio.imread(path)) == 8


def test_policy_acts_without_exploring(tmp_path: Path) -> None:
    from robotrl.policies.gaussian import GaussianPolicy

    env = VecEnv(Walker(), 1)
    rng = torch.Generator().manual_seed(0)
    policy = GaussianPolicy(env.specs, GaussianPolicy.config_class(), rng)
    for name in ("a.mp4", "b.mp4"):
        record_video(policy, Walker(), tmp_path / name, seed=1, episode_s=0.2, width=32, height=32)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.mp4"), iio.imread(tmp_path / "b.mp4"))


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    calls = 0

    def fails(obs: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(1, 6) if calls < 5 else torch.full((1, 6), torch.nan)

    with pytest.raises(UsageError, match="finite"):
        record_video(fails, Walker(), tmp_path / "v.mp4", seed=0, width=32, height=32)
    assert not list(tmp_path.iterdir())


def test_a_policys_own_error_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="must match"):
        record_video(lambda obs: torch.zeros(2) + torch.zeros(3), Walker(), tmp_path / "v.mp4", seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import robotrl.training.video as module

    write = module.imageio_ffmpeg.write_frames
    monkeypatch.setattr(
        module.imageio_ffmpeg,
        "write_frames",
        lambda part, *args, **kwargs: write("/dev/full", *args, **{**kwargs, "output_params": ["-f", "mp4"]}),
    )
    with pytest.raises(RobotrlError, match=r"cannot write the video .*v\.mp4"):
        record_video(still, Walker(), tmp_path / "v.mp4", seed=0, episode_s=1, width=32, height=32)
    assert not list(tmp_path.iterdir())


def test_impossible_videos_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"width": 33}, "even"),
        ({"fps": 0}, "fps"),
        ({"episode_s": float("nan")}, "episode_s"),
        ({"path": tmp_path / "v.avi"}, "mp4"),
        ({"path": tmp_path / "no" / "v.mp4"}, "folder"),
    ):
        with pytest.raises(UsageError, match=message):
            record_video(still, Walker(), **{"path": tmp_path / "v.mp4", "seed": 0, **options})
