"""Terrain for legged robots: rough ground, slopes, stairs, blocks and gaps, as maps of heights in metres.

Shapes in levels of difficulty, as in Rudin et al. 2022 (arXiv:2109.11978). Slopes, stairs and gaps are
square rings around a flat place in the middle, where robots start.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from robotrl.core.checks import above, at_least
from robotrl.core.errors import UsageError
from robotrl.sim.draws import check_range

# a place that is this much off, for rounding, still counts as on the line, in steps
_ROUNDING = 1e-9


class Kind(enum.Enum):
    """How heights change with the place."""

    ROUGH = "rough"
    SLOPE = "slope"
    STAIRS = "stairs"
    BLOCKS = "blocks"
    GAPS = "gaps"


_SIGNED = (Kind.SLOPE, Kind.STAIRS)


@dataclass
class Shape:
    """One kind of terrain, from its easiest to its hardest level."""

    kind: Kind
    """rough (bumps), slope, stairs, blocks (square tiles at random heights) or gaps (trenches)."""
    height_m: tuple[float, float]
    """At the easiest and the hardest level: rise along `length_m` (slope) or of a step (stairs), below 0 for
    downwards; from the lowest to the highest point (rough, blocks); depth (gaps). m."""
    length_m: tuple[float, float]
    """At the easiest and the hardest level: between two bumps, along the rise of a slope, of a step, side of
    a block, width of a gap. m."""
    spacing_m: float | None = None
    """Solid ground between two gaps, m; for gaps only."""

    def __post_init__(self) -> None:
        above(self, 0.0, "spacing_m")
        if (self.kind is Kind.GAPS) != (self.spacing_m is not None):
            raise ValueError("give spacing_m with kind=gaps, and only there")
        for name, low in (("height_m", -math.inf if self.kind in _SIGNED else 0.0), ("length_m", 0.0)):
            ends = getattr(self, name)
            if len(ends) != 2 or not all(math.isfinite(end) and end >= low for end in ends):
                bound = "" if low < 0 else ", at least 0"
                raise ValueError(f"{name} must be two numbers [easiest, hardest]{bound}, got {list(ends)}")
            setattr(self, name, (float(ends[0]), float(ends[1])))


@dataclass
class Terrain:
    """Height fields in place of the model's floor; each episode of a simulation draws one of them."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    """What an episode draws from, each as likely; none leaves the floor as it is."""
    levels: int = 5
    """Levels of each shape, evenly spaced from the easiest to the hardest; each is a map of its own."""
    difficulty: tuple[float, float] = (0.0, 1.0)
    """Share of the levels from and to which an episode draws, 0 the easiest, 1 the hardest."""
    size_m: float = 20.0
    """Side of the square map, m; beyond is a plane below the terrain's lowest height."""
    resolution_m: float = 0.1
    """Between two heights of the map, m: a step is as steep as it allows; the finer, the slower."""
    flat_radius_m: float = 1.0
    """How far the map is flat around the origin, along x and y, m: where robots start."""
    seed: int = 0
    """Of random heights; independent of the environments' seed, so that the model does not depend on it."""
    floor: str | None = None
    """Name of the floor geom; null for the only horizontal plane that is fixed to the world."""

    def __post_init__(self) -> None:
        at_least(self, 1, "levels")
        at_least(self, 0.0, "flat_radius_m")
        above(self, 0.0, "size_m", "resolution_m")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        cells = self.size_m / self.resolution_m
        if abs(cells - round(cells)) > 1e-6 * cells:
            raise ValueError(
                f"size_m must be a whole multiple of resolution_m, got {self.size_m} and {self.resolution_m}"
            )
        if not 2 * self.flat_radius_m < self.size_m:
            raise ValueError(
                f"flat_radius_m must be below half of size_m, got {self.flat_radius_m} and {self.size_m}"
            )
        for name, shape in self.shapes.items():
            if min(shape.length_m) < self.resolution_m:
                raise ValueError(
                    f"shapes.{name}.length_m must be at least resolution_m, {self.resolution_m}, "
                    f"got {list(shape.length_m)}"
                )
        self.check()
        self.difficulty = (float(self.difficulty[0]), float(self.difficulty[1]))
        given = [option.name for option in fields(self) if getattr(self, option.name) != option.default]
        if given != ["shapes"] and not self.shapes:
            raise ValueError(f"{given[1]} is given, but no shapes: give at least one")

    def check(self) -> None:
        """Refuse a difficulty out of bounds.

        Raises:
            UsageError: says what it must be.
        """
        if check_range("terrain: difficulty", self.difficulty, 0.0)[1] > 1.0:
            raise UsageError(f"terrain: difficulty must be at most 1, got {list(self.difficulty)}")

    @property
    def points(self) -> int:
        """Heights along each side of a map."""
        return round(self.size_m / self.resolution_m) + 1


def heights_m(terrain: Terrain) -> Tensor:
    """Return the maps, (shapes * levels, points, points) float64, m above the floor.

    Maps are ordered by shape, then level; rows run along y, columns along x, both upwards, with the origin
    in the middle.
    """
    rng = torch.Generator().manual_seed(terrain.seed)
    half = terrain.size_m / 2
    axis = torch.linspace(-half, half, terrain.points, dtype=torch.float64)
    beyond = torch.maximum(axis.abs().unsqueeze(1), axis.abs()) - terrain.flat_radius_m
    beyond = beyond.clamp(min=0.0)
    maps = []
    for shape in terrain.shapes.values():
        for share in torch.linspace(0.0, 1.0, terrain.levels, dtype=torch.float64).tolist():
            height, length = (
                easiest + share * (hardest - easiest) for easiest, hardest in (shape.height_m, shape.length_m)
            )
            if shape.kind is Kind.GAPS:
                assert shape.spacing_m is not None
                maps.append(_gaps(beyond, height, length, shape.spacing_m))
            elif shape.kind in _RINGS:
                maps.append(_RINGS[shape.kind](beyond, height, length))
            else:
                maps.append(_RANDOM[shape.kind](axis + half, beyond, height, length, rng))
    return torch.stack(maps)


def _slope(beyond: Tensor, height: float, length: float) -> Tensor:
    return height * beyond / length


def _stairs(beyond: Tensor, height: float, length: float) -> Tensor:
    """The first step is at the edge of the flat place."""
    return height * torch.ceil(beyond / length - _ROUNDING)


def _gaps(beyond: Tensor, depth: float, width: float, spacing: float) -> Tensor:
    """The first gap is `spacing` from the flat place."""
    period = spacing + width
    into = beyond - period * (torch.ceil(beyond / period - _ROUNDING) - 1)
    return torch.where((beyond > 0) & (into > spacing * (1 + _ROUNDING)), -depth, 0.0)


def _rough(place: Tensor, beyond: Tensor, height: float, length: float, rng: torch.Generator) -> Tensor:
    """Bilinear between random heights, `length` apart; as rough as that `length` from the flat place."""
    count = math.ceil(float(place[-1]) / length) + 1
    knots = torch.rand(count, count, dtype=torch.float64, generator=rng) - 0.5
    hats = (1 - (place.unsqueeze(1) / length - torch.arange(count)).abs()).clamp(min=0.0)
    return height * (hats @ knots @ hats.T) * (beyond / length).clamp(max=1.0)


def _blocks(place: Tensor, beyond: Tensor, height: float, length: float, rng: torch.Generator) -> Tensor:
    """Tiles at random heights; those at the edge of the flat place are cut."""
    tile = torch.floor(place / length + _ROUNDING).long()
    count = int(tile[-1]) + 1
    tiles = torch.rand(count, count, dtype=torch.float64, generator=rng) - 0.5
    return torch.where(beyond > 0, height * tiles[tile][:, tile], 0.0)


_RINGS: dict[Kind, Callable[[Tensor, float, float], Tensor]] = {Kind.SLOPE: _slope, Kind.STAIRS: _stairs}
_RANDOM: dict[Kind, Callable[[Tensor, Tensor, float, float, torch.Generator], Tensor]] = {
    Kind.ROUGH: _rough,
    Kind.BLOCKS: _blocks,
}
