"""Pictures of simulations, drawn off-screen.

MuJoCo decides on a graphics library once, from `MUJOCO_GL`, when it is imported; without a screen its
default then fails at the first picture. So the context is chosen here instead, when the first renderer
is made: what `MUJOCO_GL` says if the user set it, else EGL where Linux has no screen, else MuJoCo's
default. It does not matter in which order things were imported.

Any thread may use a renderer, one at a time; `batch_renderer` draws on several threads.
"""

from __future__ import annotations

import copy
import enum
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import mujoco
import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import FreeCamera, ImageKind, View, clip_range_m, find_camera
from robotrl.sim.sim import Sim

_MAX_GEOMS = 10_000
_EVERYTHING = int(mujoco.mjtCatBit.mjCAT_ALL)
_INSTALL = "apt-get install libegl1 libgl1 libgles2"


class Quality(enum.Enum):
    """How much is drawn."""

    FAST = "fast"
    """Shapes, colours and light: for observations, thousands of small pictures."""
    LIVE = "live"
    """With sky and shadows: for people who watch while it is drawn."""
    VIDEO = "video"
    """With reflections, too, and with smooth edges where a graphics card draws: for people who watch later.
    Software OpenGL takes much longer for smooth edges."""


@dataclass(frozen=True)
class _Effects:
    """What a quality means to MuJoCo.

    Software OpenGL spends its time on the corners of round shapes, on the sky's pixels, on drawing
    everything once more for shadows and reflections, and on several samples of every pixel.

    Attributes:
        slices: corners around a round shape: 16 stay within 2 % of its radius, 20 within 1.2 %.
        sky: whether the model's sky is drawn; else it is black.
        shadow_size: of the map that shadows are looked up in, px; 0 for no shadows.
        reflections: of what stands on a floor that reflects.
        samples: per pixel where a graphics card draws, for smooth edges; 0 for one.
    """

    slices: int
    sky: bool
    shadow_size: int
    reflections: bool
    samples: int


_EFFECTS = {
    Quality.FAST: _Effects(slices=16, sky=False, shadow_size=0, reflections=False, samples=0),
    Quality.LIVE: _Effects(slices=20, sky=True, shadow_size=1024, reflections=False, samples=0),
    Quality.VIDEO: _Effects(slices=20, sky=True, shadow_size=1024, reflections=True, samples=4),
}


class Snapshot:
    """A copy of one simulation, to draw it while the others go on.

    Args:
        sim: the simulations.

    Attributes:
        variant: which of the simulator's models it runs on.
        model: that model, with the simulation's own fields.
        data: its state.

    Raises:
        UsageError: they run on another backend than the CPU's.
    """

    def __init__(self, sim: Sim) -> None:
        if not isinstance(sim, BatchSim):
            raise UsageError("pictures need the cpu backend")
        self._sim, self._batch = sim, sim.batch
        # copies of the simulator's models, made when first needed
        self._models: dict[int, mujoco.MjModel] = {}
        self._take(0)
        self.data = mujoco.MjData(self.model)

    def _take(self, variant: int) -> None:
        if variant not in self._models:
            self._models[variant] = copy.copy(self._sim.models[variant])
        self.variant, self.model = variant, self._models[variant]

    def load(self, sim_id: int) -> None:
        """Copy the model fields and the state of one simulation.

        Positions are recomputed: the batch's may lag one substep, or the state was just written.
        """
        self._take(int(self._sim.chosen[sim_id]))
        model, data = self.model, self.data
        self._batch.get_model(sim_id, model)
        self._batch.get_data(sim_id, data)
        # what mjv_updateScene reads; mj_fwdPosition would find contacts, too
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        mujoco.mj_flex(model, data)
        mujoco.mj_tendon(model, data)


class Canvas:
    """An OpenGL context and what MuJoCo needs to draw with it.

    Args:
        models: those of the simulator, whose meshes, textures and height fields are drawn.
        width: of the largest picture, px.
        height: of the largest picture, px.
        quality: see `Quality`.

    Raises:
        RobotrlError: the graphics library is missing or fails.
    """

    def __init__(self, models: Sequence[mujoco.MjModel], width: int, height: int, quality: Quality) -> None:
        self._models, self._size, self._effects = models, (width, height), _EFFECTS[quality]
        self._gl = _make_context(width, height)
        self._option = mujoco.MjvOption()
        # of each model, made when first drawn; the first now, so that what is missing is said now
        self._assets: dict[int, _Assets] = {}
        try:
            with self.current():
                self._assets_of(0)
        except Exception as error:
            raise _graphics_error(error) from error

    def _assets_of(self, variant: int) -> _Assets:
        found = self._assets.get(variant)
        if found is None:
            found = self._assets[variant] = _Assets(self._models[variant], *self._size, self._effects)
        return found

    def current(self) -> AbstractContextManager[None]:
        """Let the calling thread draw inside; only one thread can at a time."""
        return self._gl.as_current()

    def draw(
        self,
        snapshot: Snapshot,
        camera: mujoco.MjvCamera | FreeCamera,
        kind: ImageKind,
        picture: np.ndarray,
    ) -> None:
        """Draw into `picture`, (H, W, 3) uint8 or for depth (H, W) float32; inside `current`."""
        assets = self._assets_of(snapshot.variant)
        model, data, scene, context = snapshot.model, snapshot.data, assets.scene, assets.context
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
        assets.upload_height_fields(model)
        view = camera.view(data) if isinstance(camera, FreeCamera) else camera
        mujoco.mjv_updateScene(model, data, self._option, None, view, _EVERYTHING, scene)
        depth = kind is ImageKind.DEPTH
        # MuJoCo's most exact depth: no effect changes the geometry
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = depth
        scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = depth
        rectangle = mujoco.MjrRect(0, 0, picture.shape[1], picture.shape[0])
        mujoco.mjr_render(rectangle, scene, context)
        if depth:
            mujoco.mjr_readPixels(None, picture, rectangle, context)
            # OpenGL counts rows from the bottom
            picture[...] = _metres(picture, clip_range_m(model), scene.camera[0].orthographic)[::-1]
        else:
            mujoco.mjr_readPixels(picture, None, rectangle, context)
            picture[...] = picture[::-1]

    def close(self) -> None:
        """Free the graphics memory."""
        with self.current():
            for assets in self._assets.values():
                assets.context.free()
        self._gl.free()


class _Assets:
    """One model's meshes, textures and height fields in the graphics memory, and the scene of its geoms."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int, effects: _Effects) -> None:
        model = copy.copy(model)
        visual = model.vis
        visual.global_.offwidth, visual.global_.offheight = width, height
        visual.quality.shadowsize = effects.shadow_size
        visual.quality.numslices, visual.quality.numstacks = effects.slices, effects.slices // 2
        visual.quality.offsamples = 0 if _draws_in_software() else effects.samples
        # a large height field takes a quarter of a second and 30 MB: only what is seen is uploaded
        model.hfield_nrow[:], model.hfield_ncol[:] = 2, 2
        self._uploaded: set[int] = set()
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self.scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = effects.shadow_size > 0
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = effects.reflections
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = effects.sky

    def upload_height_fields(self, model: mujoco.MjModel) -> None:
        """Upload the height fields that a simulation's geoms show, unless they are there."""
        shown = set(model.geom_dataid[model.geom_type == int(mujoco.mjtGeom.mjGEOM_HFIELD)].tolist())
        for index in shown - self._uploaded:
            mujoco.mjr_uploadHField(model, self.context, index)
            self._uploaded.add(index)


class Renderer:
    """Draws chosen simulations as RGB pictures, each with its own model fields and state.

    Args:
        sim: the simulations.
        width: of a picture, px.
        height: of a picture, px.
        camera: see `View`.
        quality: see `Quality`.

    Raises:
        UsageError: the model has no such camera, the size is not positive, or the simulations run on
            another backend than the CPU's.
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
        self.view = View(camera, width, height)
        self.camera = find_camera(sim.model, camera)
        self._canvas = Canvas(sim.models, width, height, quality)
        self._snapshot = Snapshot(sim)

    def render(self, ids: Sequence[int] = (0,)) -> np.ndarray:
        """Draw simulations `ids` as they are now, (len(ids), height, width, 3) uint8 RGB."""
        pictures = self.view.pictures(len(ids))
        with self._canvas.current():
            for picture, sim_id in zip(pictures, ids, strict=True):
                self._snapshot.load(sim_id)
                self._canvas.draw(self._snapshot, self.camera, ImageKind.RGB, picture)
        return pictures

    def free_camera(self, sim_id: int = 0) -> FreeCamera:
        """Return the free camera, changing over to one that starts from the present view."""
        if not isinstance(self.camera, FreeCamera):
            free = FreeCamera(self._snapshot.model)
            self._snapshot.load(sim_id)
            free.take_over(self._snapshot.data, self.camera.fixedcamid)
            self.camera = free
        return self.camera

    def close(self) -> None:
        """Free the graphics memory; the renderer cannot be used afterwards."""
        self._canvas.close()

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


def _metres(reading: np.ndarray, clip_m: tuple[float, float], orthographic: bool) -> np.ndarray:
    """Undo OpenGL's projection of distances in [near, far] to [1, 0]."""
    near, far = np.float32(clip_m[0]), np.float32(clip_m[1])
    ratio = reading.astype(np.float64)
    if orthographic:
        return far - ratio * (far - near)
    # float32, as in OpenGL's own matrix, so that its rounding is undone as well
    c = np.float32(0.5) * ((far + near) / (far - near)) - np.float32(0.5)
    d = np.float32(0.5) * (np.float32(2) * far * near / (far - near))
    return d / (ratio + c)


def _make_context(width: int, height: int) -> Any:
    """Create the OpenGL context that the module's docstring describes."""
    choose_egl = "MUJOCO_GL" not in os.environ and not has_screen()
    # Mesa's software OpenGL would start threads of its own, and every small picture would wait for them
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        if choose_egl:
            from mujoco.egl import GLContext
        else:
            from mujoco.gl_context import GLContext
        return GLContext(width, height)
    except Exception as error:
        raise _graphics_error(error) from error


def _draws_in_software() -> bool:
    """Tell whether the current OpenGL context computes its pixels on the CPU."""
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER).decode().lower()
    return any(software in name for software in ("llvmpipe", "softpipe", "software"))


def _graphics_error(error: Exception) -> RobotrlError:
    reason = " ".join(str(error).split()) or type(error).__name__
    chosen = os.environ.get("MUJOCO_GL")
    if chosen is not None and chosen != "egl":
        return RobotrlError(
            f"cannot draw pictures with MUJOCO_GL={chosen} ({reason}): unset it, or set MUJOCO_GL=egl"
        )
    return RobotrlError(f"cannot draw pictures, an OpenGL library is missing ({reason}): run `{_INSTALL}`")
