"""Pictures and videos are drawn for real here: `make` installs the libraries, so nothing is skipped."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.sim.batch_renderer import BatchRenderer
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import FreeCamera, ImageKind, View, default_camera, root_body
from robotrl.sim.rendering import Quality, Renderer
from robotrl.tasks.control_suite.walker import Walker

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
    for quality in (Quality.FAST, Quality.LIVE):
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


# --- many simulations on several threads


@pytest.fixture
def plain_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mujoco.Renderer find a context without a screen, whenever mujoco was imported."""
    from mujoco.egl import GLContext
    from mujoco.rendering.classic import gl_context

    monkeypatch.setattr(gl_context, "GLContext", GLContext, raising=False)


def plain_picture(sim: BatchSim, i: int, view: View) -> np.ndarray:
    """What mujoco.Renderer draws of simulation i, with the settings of Quality.FAST."""
    model, data = sim.batch.get_model(i), sim.batch.get_data(i)
    mujoco.mj_forward(model, data)
    visual = model.vis
    visual.global_.offwidth, visual.global_.offheight = view.width, view.height
    visual.quality.offsamples, visual.quality.numslices, visual.quality.numstacks = 0, 16, 8
    with mujoco.Renderer(model, view.height, view.width) as renderer:
        for flag in ("SHADOW", "REFLECTION", "SKYBOX"):
            renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        renderer.update_scene(data, view.camera)
        if view.kind is ImageKind.DEPTH:
            renderer.enable_depth_rendering()
        return renderer.render()


def walkers(n: int) -> BatchSim:
    """Walkers in n different poses."""
    sim = BatchSim(Walker().build_model(), n)
    sim.data("qpos").copy_(torch.rand(n, 9, generator=torch.Generator().manual_seed(0)) - 0.3)
    sim.forward()
    return sim


def test_pictures_are_those_of_mujocos_own_renderer(plain_renderer: None) -> None:
    sim = walkers(3)
    sim.param("geom_rgba")[1, 2] = torch.tensor([0.1, 0.9, 0.2, 1.0], dtype=torch.float64)
    sim.param("cam_pos")[2, 0, 0] += 0.5
    views = [View("side", 84, 84), View("back", 60, 40), View("side", 50, 90, ImageKind.DEPTH)]
    with BatchRenderer(sim, views, num_threads=2) as renderer:
        pictures = renderer.render((0, 1, 2))
    for view, rows in zip(views, pictures, strict=True):
        for i, picture in enumerate(rows):
            np.testing.assert_array_equal(picture, plain_picture(sim, i, view), strict=True)
    assert len({picture.tobytes() for picture in pictures[0]}) == 3
    assert pictures[0].std() > 20 and pictures[2].std() > 0.5  # there is something to compare


def test_pictures_do_not_depend_on_the_threads_or_on_what_was_drawn_before() -> None:
    sim = walkers(5)
    views = [View("side", 64, 48), View("side", 64, 48, ImageKind.DEPTH), View(None, 32, 32)]
    with BatchRenderer(sim, views, num_threads=1) as one, BatchRenderer(sim, views, num_threads=3) as three:
        expected = one.render()
        for _ in range(3):
            for alone, together in zip(expected, three.render(), strict=True):
                np.testing.assert_array_equal(together, alone)
        for alone, chosen in zip(expected, three.render((4, 0)), strict=True):
            np.testing.assert_array_equal(chosen, alone[[4, 0]])


def test_only_the_changed_simulation_looks_different() -> None:
    sim = ball_sim(4)
    views = [View(fixed_camera(sim), 64, 48)]
    with BatchRenderer(sim, views) as renderer:
        before = renderer.render()[0]
        sim.param("geom_rgba")[1, 1] = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        sim.param("geom_size")[2, 1] = 0.4
        after = renderer.render()[0]
    assert (before == before[0]).all()
    np.testing.assert_array_equal(after[[0, 3]], before[[0, 3]])
    assert redness(after[1]).sum() == 0
    assert redness(after[2]).sum() > 2 * redness(before[2]).sum()


def fixed_camera(sim: BatchSim) -> FreeCamera:
    """A free camera that stays where it is."""
    camera = FreeCamera(sim.model)
    camera._root = None
    return camera


def test_simulations_may_go_on_once_a_drawing_is_submitted() -> None:
    sim = walkers(6)
    with BatchRenderer(sim, [View("side", 84, 84)], num_threads=2) as renderer:
        expected = renderer.render()[0]
        drawings = []
        for _ in range(4):
            drawings.append(renderer.submit())
            sim.data("qpos")[:, 1] += 0.2
        changed = renderer.render()[0]
        first, *later = [drawing.result()[0] for drawing in drawings]
    np.testing.assert_array_equal(first, expected)
    assert all((one != other).any() for one, other in zip([first, *later], [*later, changed], strict=True))


WALLS = """
<mujoco>
  <visual><map znear="0.01" zfar="10"/></visual>
  <statistic extent="2" center="0 0 0"/>
  <worldbody>
    <geom type="plane" size="9 9 .1"/>
    <geom type="box" size=".5 .5 .25" pos="0 0 .25"/>
    <geom type="box" size=".1 5 5" pos="7.1 0 0"/>
    <camera name="down" pos="0 0 2"/>
    <camera name="ahead" pos="0 0 1" xyaxes="0 -1 0 0 0 1"/>
    <camera name="up" pos="0 0 3" xyaxes="1 0 0 0 -1 0"/>
    <camera name="flat" pos="0 0 4" projection="orthographic" fovy="4"/>
  </worldbody>
</mujoco>
"""


def test_depth_is_metres_along_the_line_of_view() -> None:
    sim = BatchSim(mujoco.MjModel.from_xml_string(WALLS), 2)
    sim.param("cam_pos")[1, 0, 2] = 3.0
    names = ("down", "ahead", "up", "flat")
    with BatchRenderer(sim, [View(name, 41, 31, ImageKind.DEPTH) for name in names]) as renderer:
        down, ahead, up, flat = renderer.render()
    assert down.shape == (2, 31, 41) and down.dtype == np.float32
    # the camera looks at the floor 2 m below and at a box of 0.5 m; the second one is 1 m higher
    np.testing.assert_allclose(down[:, 15, 20], [1.5, 2.5], rtol=1e-5)
    # along the line of view: the corner of the floor is not farther than the middle would be
    np.testing.assert_allclose(down[:, 0, 0], [2.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(ahead[0, 15, [0, 20, 40]], 7.0, rtol=1e-5)
    assert (np.diff(ahead[0, 20:, 20]) < 0).all()  # the floor comes nearer towards the lower edge
    np.testing.assert_allclose(up, 20.0, rtol=1e-6)  # nothing there: zfar x extent
    np.testing.assert_allclose(flat[0, 15, 20], 3.5, rtol=1e-5)
    np.testing.assert_allclose(flat[0, 0, 0], 4.0, rtol=1e-5)


def render_threads() -> int:
    return sum(thread.name == "render" for thread in threading.enumerate())


def test_threads_end_with_the_renderer() -> None:
    sim, before = ball_sim(3), render_threads()
    renderer = BatchRenderer(sim, [View(None, 8, 8)], num_threads=3)
    assert render_threads() == before + 3
    renderer.close()
    assert render_threads() == before
    renderer.close()
    with pytest.raises(UsageError, match="closed"):
        renderer.render()

    forgotten = BatchRenderer(sim, [View(None, 8, 8)], num_threads=2)
    workers = [thread for thread in threading.enumerate() if thread.name == "render"]
    forgotten.render()
    del forgotten
    gc.collect()
    for thread in workers:
        thread.join(10)
    assert render_threads() == before


def test_error_in_a_thread_reaches_the_caller_and_the_threads_go_on() -> None:
    with BatchRenderer(ball_sim(2), [View(None, 8, 8)], num_threads=2) as renderer:
        with pytest.raises(IndexError, match="2"):
            renderer.render((0, 2))
        assert renderer.render(())[0].shape == (0, 8, 8, 3)
        assert renderer.render()[0].shape == (2, 8, 8, 3)


def test_impossible_renderers_are_refused() -> None:
    sim = BatchSim(Walker().build_model(), 1)
    with pytest.raises(UsageError, match=r"unknown camera 'sid' \(did you mean 'side'\?\)"):
        BatchRenderer(sim, [View("sid", 8, 8)])
    with pytest.raises(UsageError, match="the model has none"):
        empty = BatchSim(mujoco.MjModel.from_xml_string("<mujoco/>"), 1)
        BatchRenderer(empty, [View("side", 8, 8)])
    with pytest.raises(UsageError, match="8 x 0"):
        View("side", 8, 0)
    with pytest.raises(UsageError, match="num_threads"):
        BatchRenderer(sim, [View("side", 8, 8)], num_threads=0)
    with pytest.raises(UsageError, match="at least one view"):
        BatchRenderer(sim, [])


# --- graphics libraries


def draw_in_new_process(**env: str) -> subprocess.CompletedProcess[str]:
    program = """
import os
import mujoco
from robotrl.core.errors import RobotrlError
from robotrl.sim.batch_renderer import BatchRenderer
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import View
from robotrl.sim.rendering import Renderer
sim = BatchSim(mujoco.MjModel.from_xml_string("<mujoco/>"), 1)
try:
    print(Renderer(sim, 8, 8).render().shape)
except RobotrlError as error:
    print("error:", error)
try:
    left_open = BatchRenderer(sim, [View(None, 8, 8)], num_threads=2)
    print(left_open.render()[0].shape)
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    print(sum(name.startswith("llvmpipe") for name in names), "threads that are not ours")
except RobotrlError as error:
    print("error:", error)
"""
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.run(
        [sys.executable, "-c", program], env={**kept, **env}, capture_output=True, text=True, timeout=120
    )


def test_without_a_screen_egl_is_chosen_even_after_mujoco_was_imported() -> None:
    done = draw_in_new_process()
    assert done.stdout == 2 * "(1, 8, 8, 3)\n" + "0 threads that are not ours\n", done.stderr
    assert done.returncode == 0 and done.stderr == ""  # a renderer that is left open ends quietly, too


def test_missing_library_is_one_line_with_the_command(tmp_path: Path) -> None:
    for name in ("libEGL.so", "libEGL.so.1"):
        (tmp_path / name).write_bytes(b"this is not a library")
    done = draw_in_new_process(LD_LIBRARY_PATH=str(tmp_path))
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith("error: cannot draw pictures")
        assert "`apt-get install libegl1 libgl1 libgles2`" in line


def test_library_that_needs_a_screen_is_named() -> None:
    done = draw_in_new_process(MUJOCO_GL="glfw")
    assert done.stdout.startswith("error: cannot draw pictures with MUJOCO_GL=glfw"), done.stderr
    assert "set MUJOCO_GL=egl" in done.stdout
