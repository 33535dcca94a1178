"""Where the pictures are taken from: a camera of the model, or a free one that follows the robot."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from robotrl.core.errors import UsageError, unknown_name

_FREE_JOINT, _SLIDE_JOINT = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_MOUNTED = int(mujoco.mjtCamLight.mjCAMLIGHT_FIXED)


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
