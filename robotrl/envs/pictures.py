"""Pictures of environments in other projects' terms: a render mode, and a renderer made when first needed."""

from __future__ import annotations

import numpy as np

from robotrl.core.errors import UsageError, unknown_name
from robotrl.envs.env import Env
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.cameras import FreeCamera
from robotrl.sim.rendering import Quality, Renderer

RENDER_MODES = ("rgb_array",)


class Pictures:
    """Draws the simulations of a `VecEnv` as they are now.

    Args:
        env: what to draw.
        render_mode: "rgb_array", or None to draw nothing.
        width: of a picture, px.
        height: of a picture, px.
        camera: as for `Renderer`.

    Raises:
        UsageError: there is no such render mode, or the environments are another library's.
    """

    def __init__(
        self,
        env: Env,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str | int | FreeCamera | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise unknown_name("render_mode", render_mode, RENDER_MODES)
        self.render_mode = render_mode
        if render_mode is not None and not isinstance(env, VecEnv):
            raise UsageError("environments of another library draw themselves: give no render_mode here")
        self._env = env
        self._view = (width, height, camera)
        self._renderer: Renderer | None = None

    def draw(self) -> np.ndarray | None:
        """Return (num_envs, height, width, 3) uint8 RGB, or None without a render mode.

        Raises:
            UsageError: the size or the camera cannot be.
            RobotrlError: the graphics library is missing or fails.
        """
        if self.render_mode is None or not isinstance(self._env, VecEnv):
            return None
        if self._renderer is None:
            self._renderer = Renderer(self._env.sim, *self._view, Quality.VIDEO)
        return self._renderer.render(range(self._env.num_envs))

    def close(self) -> None:
        """Free the graphics memory; the next picture would start anew."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
