"""Pictures of simulations, drawn off-screen.

MuJoCo decides on a graphics library once, from `MUJOCO_GL`, when it is imported; without a screen its
default then fails at the first picture. So the context is chosen here instead, when the first renderer
is made: what `MUJOCO_GL` says if the user set it, else EGL where Linux has no screen, else MuJoCo's
default. It does not matter in which order things were imported.

A renderer belongs to the thread that made it.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import mujoco
import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import FreeCamera, default_camera, model_camera
from robotrl.sim.sim import Sim

_MAX_GEOMS = 10_000
_INSTALL = "apt-get install libegl1 libgl1 libgles2"


class Quality(enum.Enum):
    """How much is drawn. Shadows cost more than everything else, smooth edges as much again."""

    FAST = "fast"
    """No shadows: for observations, thousands of small pictures."""
    VIDEO = "video"
    """Shadows: for people."""


class Renderer:
    """Draws chosen simulations as RGB pictures, each with its own model fields and state.

    Args:
        sim: the simulations.
        width: of a picture, px.
        height: of a picture, px.
        camera: name or number of a camera of the model, or a `FreeCamera`; None takes the model's first
            camera that watches the robot, or else a free one that follows it.
        quality: see `Quality`.

    Raises:
        UsageError: the model has no such camera, the size is not positive, or the simulations are elsewhere
            than in a `BatchSim`.
        RobotrlError: the graphics library is missing or fails.
    """

    def __init__(
        self,
        sim: Sim,
        width: int,
        height: int,
        camera: str | int | FreeCamera | None = None,
        quality: Quality = Quality.FAST,
    ) -> None:
        if width < 1 or height < 1:
            raise UsageError(f"a picture needs a positive size, got {width} x {height}")
        if not isinstance(sim, BatchSim):
            raise UsageError("pictures need the cpu backend")
        self.width, self.height = width, height
        self._batch = sim.batch
        self._model = sim.batch.get_model(0)
        self._data = mujoco.MjData(self._model)
        chosen = default_camera(self._model) if camera is None else camera
        self.camera: mujoco.MjvCamera | FreeCamera = (
            FreeCamera(self._model)
            if chosen is None
            else chosen
            if isinstance(chosen, FreeCamera)
            else model_camera(self._model, chosen)
        )

        visual = self._model.vis
        visual.global_.offwidth, visual.global_.offheight = width, height
        visual.quality.offsamples = 0
        visual.quality.shadowsize = 1024
        self._gl = _make_context(width, height)
        try:
            self._gl.make_current()
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:
            raise _graphics_error(error) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = quality is Quality.VIDEO
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), dtype=np.uint8)

    def render(self, ids: Sequence[int] = (0,)) -> np.ndarray:
        """Draw simulations `ids` as they are now, (len(ids), height, width, 3) uint8 RGB."""
        pictures = np.empty((len(ids), self.height, self.width, 3), dtype=np.uint8)
        self._gl.make_current()
        for picture, sim_id in zip(pictures, ids, strict=True):
            self._load(sim_id)
            camera = self.camera
            view = camera.view(self._data) if isinstance(camera, FreeCamera) else camera
            everything = mujoco.mjtCatBit.mjCAT_ALL.value
            mujoco.mjv_updateScene(self._model, self._data, self._option, None, view, everything, self._scene)
            mujoco.mjr_render(self._rectangle, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
            picture[...] = self._pixels[::-1]  # OpenGL counts rows from the bottom
        return pictures

    def free_camera(self, sim_id: int = 0) -> FreeCamera:
        """Return the free camera, changing over to one that starts from the present view."""
        if not isinstance(self.camera, FreeCamera):
            free = FreeCamera(self._model)
            self._load(sim_id)
            free.take_over(self._data, self.camera.fixedcamid)
            self.camera = free
        return self.camera

    def _load(self, sim_id: int) -> None:
        """Copy one simulation; its positions are recomputed, as the batch's may lag one substep."""
        self._batch.get_model(sim_id, self._model)
        self._batch.get_data(sim_id, self._data)
        mujoco.mj_fwdPosition(self._model, self._data)

    def close(self) -> None:
        """Free the graphics memory; the renderer cannot be used afterwards."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def has_screen() -> bool:
    """Tell whether a window could be opened."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def _make_context(width: int, height: int) -> Any:
    """Create the OpenGL context that the module's docstring describes."""
    choose_egl = "MUJOCO_GL" not in os.environ and not has_screen()
    try:
        if choose_egl:
            from mujoco.egl import GLContext
        else:
            from mujoco.gl_context import GLContext
        return GLContext(width, height)
    except Exception as error:
        raise _graphics_error(error) from error


def _graphics_error(error: Exception) -> RobotrlError:
    reason = " ".join(str(error).split()) or type(error).__name__
    chosen = os.environ.get("MUJOCO_GL")
    if chosen is not None and chosen != "egl":
        return RobotrlError(
            f"cannot draw pictures with MUJOCO_GL={chosen} ({reason}): unset it, or set MUJOCO_GL=egl"
        )
    return RobotrlError(f"cannot draw pictures, an OpenGL library is missing ({reason}): run `{_INSTALL}`")
