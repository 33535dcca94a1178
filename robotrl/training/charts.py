"""Small charts as inline SVG. Colours are CSS classes of the page, numbers for its tooltips are inside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

_MAX_POINTS = 300
_COLORS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 24


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: in legend and tooltip.
        x: (n,) increasing.
        y: (n,) finite.
        low: (n,) lower ends of intervals, or None.
        high: (n,) upper ends of intervals, or None.
        dots: whether each point gets a dot.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values onto pixels."""

    low: float
    high: float
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        """Return the position of `value`, px."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start_px + share * (self.end_px - self.start_px), 2)

    def ticks(self, count: int) -> list[float]:
        """Return about `count` round values inside the axis."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def line_chart(series: Sequence[Series], width: int = 640, height: int = 260) -> Markup:
    """Draw curves over environment steps, with intervals as bands; at least one point in all.

    Curves of more than 300 points are averaged in that many windows.
    """
    series = [_thinned(one) for one in series if len(one.x)]
    xs = np.concatenate([one.x for one in series])
    ys = np.concatenate([part for one in series for part in (one.y, one.low, one.high) if part is not None])
    x_axis = Axis(*_range(xs, 0.0), _LEFT, width - _RIGHT)
    y_axis = Axis(*_range(ys, 0.06), height - _BOTTOM, _TOP)
    parts = [_grid(x_axis, y_axis, width, height)]
    tips = []
    for index, one in enumerate(series):
        color = f"c{index % _COLORS}"
        points = [(x_axis(x), y_axis(y)) for x, y in zip(one.x, one.y, strict=True)]
        if one.low is not None and one.high is not None:
            upper = [(x_axis(x), y_axis(y)) for x, y in zip(one.x, one.high, strict=True)]
            lower = [(x_axis(x), y_axis(y)) for x, y in zip(one.x, one.low, strict=True)]
            parts.append(f'<polygon class="band {color}" points="{_path(upper + lower[::-1])}"/>')
        parts.append(f'<polyline class="line {color}" points="{_path(points)}"/>')
        if one.dots or len(points) == 1:
            parts += [f'<circle class="dot {color}" cx="{x}" cy="{y}" r="3"/>' for x, y in points]
        tip = {"name": one.name, "color": color, "at": points, "x": _texts(one.x), "y": _texts(one.y)}
        if one.low is not None and one.high is not None:
            ends = zip(_texts(one.low), _texts(one.high), strict=True)
            tip["interval"] = [f"{low} to {high}" for low, high in ends]
        tips.append(tip)
    return _svg(parts, width, height, tips)


def histogram(values: np.ndarray, width: int = 460, height: int = 270) -> Markup:
    """Draw how many of the (n,) `values` lie in each of at most 20 equal bins."""
    bins = max(1, min(20, math.ceil(2 * math.sqrt(len(values)))))
    counts, edges = np.histogram(values, bins=bins, range=_range(values, 0.02))
    x_axis = Axis(float(edges[0]), float(edges[-1]), _LEFT, width - _RIGHT)
    y_axis = Axis(0.0, float(counts.max()) * 1.08, height - _BOTTOM, _TOP)
    parts = [_grid(x_axis, y_axis, width, height, whole=True)]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        x, y = x_axis(left) + 1, y_axis(float(count))
        title = f"{count} from {short(left)} to {short(right)}"
        parts.append(
            f'<rect class="bar c0" x="{x:.1f}" y="{y}" rx="2" width="{max(x_axis(right) - x - 1, 1):.1f}" '
            f'height="{height - _BOTTOM - y:.1f}"><title>{title}</title></rect>'
        )
    return _svg(parts, width, height)


def short(value: float) -> str:
    """Write a number in few characters: 1.2M, 300k, 0.051, 3e-05."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return f"{value:.4g}"


def _thinned(one: Series) -> Series:
    if len(one.x) <= _MAX_POINTS:
        return one
    edges = np.linspace(0, len(one.x), _MAX_POINTS + 1).astype(int)[:-1]
    sizes = np.diff([*edges, len(one.x)])

    def mean(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.add.reduceat(values, edges) / sizes

    x, y = mean(one.x), mean(one.y)
    assert x is not None and y is not None
    return Series(one.name, x, y, mean(one.low), mean(one.high), one.dots)


def _range(values: np.ndarray, margin: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)


def _grid(x_axis: Axis, y_axis: Axis, width: int, height: int, whole: bool = False) -> str:
    parts = []
    for value in y_axis.ticks(max(3, height // 45)):
        if whole and value != round(value):
            continue
        y = y_axis(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{short(value)}</text>'
        )
    for value in x_axis.ticks(max(3, width // 90)):
        x = x_axis(value)
        anchor = "end" if x > width - 24 else "middle"
        parts.append(
            f'<text class="tick" x="{x}" y="{height - 6}" text-anchor="{anchor}">{short(value)}</text>'
        )
    return "".join(parts)


def _svg(parts: Sequence[str], width: int, height: int, tips: Sequence[object] = ()) -> Markup:
    data = f' data-series="{escape(json.dumps(tips))}"' if tips else ""
    frame = f'data-top="{_TOP}" data-bottom="{height - _BOTTOM}"'
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" {frame}{data}>{"".join(parts)}</svg>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _texts(values: np.ndarray) -> list[str]:
    return [short(float(value)) for value in values]
