"""What pictures show: seen by a camera of the model, or by a free one that follows the robot."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import mujoco
import numpy as np
import torch

from robotrl.core.errors import UsageError, unknown_name

_FREE_JOINT, _SLIDE_JOINT = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_MOUNTED = int(mujoco.mjtCamLight.mjCAMLIGHT_FIXED)


class ImageKind(enum.Enum):
    """What a pixel holds."""

    RGB = "rgb"
    """Red, green and blue, uint8."""
    DEPTH = "depth"
    """Distance from the camera along its line of view (not along the pixel's ray), m, float32."""


@dataclass(frozen=True)
class View:
    """What a picture of a simulation shows.

    Attributes:
        camera: name or number of a camera of the model, or a `FreeCamera`; None takes the model's first
            camera that watches the robot, or else a free one that follows it.
        width: px.
        height: px.
        kind: colours or distances.
    """

    camera: str | int | FreeCamera | None
    width: int
    height: int
    kind: ImageKind = ImageKind.RGB

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UsageError(f"a picture needs a positive size, got {self.width} x {self.height}")

    def pictures(self, n: int) -> np.ndarray:
        """Return room for `n` pictures: (n, height, width, 3) uint8, or (n, height, width) float32."""
        if self.kind is ImageKind.RGB:
            return np.empty((n, self.height, self.width, 3), dtype=np.uint8)
        return np.empty((n, self.height, self.width), dtype=np.float32)


@dataclass
class ImageTerm:
    """An observation group that is the picture of a camera, drawn at every control step.

    Attributes:
        camera: name of a camera of the model.
        width: px.
        height: px.
        kind: colours, or the distance along the camera's line of view.
        near_m: least distance that the depth camera measures, m; what is nearer reads as this. None for
            the nearest that MuJoCo draws.
        far_m: largest distance that the depth camera measures, m; what is farther reads as this. None for
            the farthest that MuJoCo draws.
    """

    camera: str
    width: int = 84
    height: int = 84
    kind: ImageKind = ImageKind.RGB
    near_m: float | None = None
    far_m: float | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UsageError(f"an image needs a positive size, got {self.width} x {self.height}")
        if self.kind is ImageKind.RGB and (self.near_m, self.far_m) != (None, None):
            raise UsageError("near_m and far_m belong to kind=depth, this image has kind=rgb")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a picture."""
        return self.height, self.width, 3 if self.kind is ImageKind.RGB else 1

    @property
    def dtype(self) -> torch.dtype:
        """Of a pixel: uint8 in 0 to 255, or float32 m."""
        return torch.uint8 if self.kind is ImageKind.RGB else torch.float32


def clip_range_m(model: mujoco.MjModel) -> tuple[float, float]:
    """Return the nearest and the farthest distance that cameras of the model see, m."""
    return model.vis.map.znear * model.stat.extent, model.vis.map.zfar * model.stat.extent


def default_camera(model: mujoco.MjModel) -> str | int | None:
    """Return the model's first camera that watches the robot, by name if it has one, or None.

    A camera mounted on a moving body is the robot's own eye and shows little of the robot.
    """
    for i in range(model.ncam):
        on_world = int(model.body_weldid[model.cam_bodyid[i]]) == 0
        if on_world or int(model.cam_mode[i]) != _MOUNTED:
            return model.camera(i).name or i
    return None


def model_camera(model: mujoco.MjModel, camera: str | int) -> mujoco.MjvCamera:
    """Return the view through a camera of the model, given by name or number.

    Raises:
        UsageError: the model has no such camera.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    if not names:
        raise UsageError(f"unknown camera {camera!r}: the model has none, add <camera> to its MJCF")
    if isinstance(camera, str):
        if camera not in names:
            raise unknown_name("camera", camera, filter(None, names))
        camera = names.index(camera)
    elif not 0 <= camera < model.ncam:
        raise unknown_name("camera", str(camera), map(str, range(model.ncam)))
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FIXED
    view.fixedcamid = camera
    return view


def find_camera(
    model: mujoco.MjModel, camera: str | int | FreeCamera | None
) -> mujoco.MjvCamera | FreeCamera:
    """Return the camera that is meant: the model's by name or number, a free one, or the default.

    Args:
        model: the model.
        camera: None for the model's first camera that watches the robot, or else a free one.

    Raises:
        UsageError: the model has no such camera.
    """
    if camera is None:
        camera = default_camera(model)
    if camera is None:
        return FreeCamera(model)
    return camera if isinstance(camera, FreeCamera) else model_camera(model, camera)


def root_body(model: mujoco.MjModel) -> int | None:
    """Return the heaviest body that moves about the world (not one bolted to it), or None."""
    roots = [
        body
        for body in range(1, model.nbody)
        if int(model.body_weldid[model.body_parentid[body]]) == 0 and _travels(model, body)
    ]
    return max(roots, key=lambda body: model.body_subtreemass[body], default=None)


def _travels(model: mujoco.MjModel, body: int) -> bool:
    first = int(model.body_jntadr[body])
    kinds = [int(kind) for kind in model.jnt_type[first : first + int(model.body_jntnum[body])]]
    # one slide is a rail, as of a cart; two are a planar robot
    return _FREE_JOINT in kinds or kinds.count(_SLIDE_JOINT) >= 2


class FreeCamera:
    """A camera that looks at the robot's centre of mass and can be turned around it.

    Where nothing travels, it looks at the centre of the model's extent.

    Attributes:
        azimuth_deg: direction of view in the horizontal plane, deg.
        elevation_deg: angle of view above the horizon, deg; negative looks down.
        distance_m: from the point it looks at, m.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        view = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, view)
        self.azimuth_deg = float(view.azimuth)
        self.elevation_deg = float(view.elevation)
        self.distance_m = float(view.distance)
        self._root = root_body(model)
        self._offset = np.zeros(3)

    def take_over(self, data: mujoco.MjData, camera: int) -> None:
        """Continue from where the model's camera number `camera` stands and looks."""
        position = data.cam_xpos[camera]
        forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        target = self._target(data)
        self.distance_m = max(float(forward @ (target - position)), 0.1 * self.distance_m)
        self.azimuth_deg = math.degrees(math.atan2(forward[1], forward[0]))
        self.elevation_deg = math.degrees(math.asin(float(np.clip(forward[2], -1.0, 1.0))))
        self._offset = position + self.distance_m * forward - target

    def turn(self, azimuth_deg: float = 0.0, elevation_deg: float = 0.0, zoom: float = 1.0) -> None:
        """Turn around the robot and divide the distance by `zoom`; never over the poles."""
        self.azimuth_deg = (self.azimuth_deg + azimuth_deg) % 360.0
        self.elevation_deg = min(max(self.elevation_deg + elevation_deg, -89.0), 89.0)
        self.distance_m /= zoom

    def view(self, data: mujoco.MjData) -> mujoco.MjvCamera:
        """Return the view for the present position of the robot, a new object: threads may share a camera."""
        view = mujoco.MjvCamera()
        view.azimuth, view.elevation, view.distance = self.azimuth_deg, self.elevation_deg, self.distance_m
        view.lookat[:] = self._target(data) + self._offset
        return view

    def _target(self, data: mujoco.MjData) -> np.ndarray:
        return data.model.stat.center if self._root is None else data.subtree_com[self._root]
