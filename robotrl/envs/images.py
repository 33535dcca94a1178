"""Camera pictures as observations: an observation group per camera, colours or distances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.batch_renderer import BatchRenderer
from robotrl.sim.cameras import ImageKind, ImageTerm, View, clip_range_m
from robotrl.sim.rendering import Quality
from robotrl.sim.sim import Sim


class Images:
    """Draws the image observations of all simulations, or of chosen ones.

    Args:
        sim: the simulations.
        terms: observation group -> what it shows.
        num_threads: of drawing, None for all CPUs; the pictures do not depend on it.

    Raises:
        UsageError: a term asks for a camera or for distances that the model does not have.
        RobotrlError: the graphics library is missing or fails.
    """

    def __init__(self, sim: Sim, terms: Mapping[str, ImageTerm], num_threads: int | None = None) -> None:
        self.terms = dict(terms)
        self._range_m = {}
        for group, term in self.terms.items():
            if term.kind is ImageKind.DEPTH:
                self._range_m[group] = _depth_range(group, term, clip_range_m(sim.model))
        views = [View(term.camera, term.width, term.height, term.kind) for term in self.terms.values()]
        self._renderer = BatchRenderer(sim, views, Quality.FAST, num_threads)

    def observe(self, ids: Tensor | None = None) -> dict[str, Tensor]:
        """Draw simulations `ids`, (n,) int64, or all of them, as they are now.

        Returns:
            Group -> (n, height, width, 3) uint8, or for depth (n, height, width, 1) float32 m; rows in
            the order of `ids`.
        """
        pictures = self._renderer.render(None if ids is None else ids.tolist())
        obs = {}
        for group, picture in zip(self.terms, pictures, strict=True):
            image = torch.from_numpy(picture)
            if group in self._range_m:
                image = image.clamp_(*self._range_m[group]).unsqueeze(-1)
            obs[group] = image
        return obs

    def close(self) -> None:
        """End the threads; without it they end with this object."""
        self._renderer.close()


def _depth_range(group: str, term: ImageTerm, clip_m: tuple[float, float]) -> tuple[float, float]:
    """Return what the depth camera measures, which must be within what MuJoCo draws."""
    near = clip_m[0] if term.near_m is None else term.near_m
    far = clip_m[1] if term.far_m is None else term.far_m
    if not near < far:
        raise UsageError(f"image {group!r}: needs near_m < far_m, got {near:g} m and {far:g} m")
    if not (clip_m[0] <= near and far <= clip_m[1]):
        raise UsageError(
            f"image {group!r}: near_m = {near:g} and far_m = {far:g} must be within {clip_m[0]:g} to "
            f"{clip_m[1]:g} m, which the model draws (visual/map znear and zfar x statistic/extent)"
        )
    return near, far
