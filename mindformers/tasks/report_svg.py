"""Curves as SVG, drawn without a library: they stand inside a page and need nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 28, 40  # margins
MOST_POINTS = 400  # of a curve; more could not be told apart
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Points of one line.

    Attributes:
        name: What it is called in the legend.
        points: (x, y) in order of x; y is finite.
        style: Class of the line in the page's style sheet.
        has_marks: Draw a dot at each point.
    """

    name: str
    points: Sequence[Point]
    style: str = "line"
    has_marks: bool = False


def line_chart(title: str, curves: Sequence[Curve], x_label: str = "step") -> str:
    """Return an SVG element with some curves over one pair of axes; empty when there is no point.

    Args:
        title: Stands above.
        curves: Lines to draw, the last on top.
        x_label: Name of the x axis.
    """
    every = [point for curve in curves for point in curve.points]
    if not every:
        return ""
    x, y = (
        _Axis([p[0] for p in every], _LEFT, WIDTH - _RIGHT),
        _Axis([p[1] for p in every], HEIGHT - _BOTTOM, _TOP, is_padded=True),
    )
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
             f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>']  # fmt: skip
    right = WIDTH - _RIGHT
    for tick in y.ticks():
        at = y.place(tick)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>',
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>',
        ]
    for tick in x.ticks():
        parts.append(
            f'<text x="{x.place(tick):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{tick:g}</text>'
        )
    for number, curve in enumerate(curves):
        parts += _drawn(curve, x, y)
        if len(curves) > 1:
            parts.append(
                f'<text class="legend {curve.style}" x="{WIDTH - _RIGHT - 90 * (len(curves) - 1 - number)}" '
                f'y="16" text-anchor="end">{escape(curve.name)}</text>'
            )
    parts.append(
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _drawn(curve: Curve, x: _Axis, y: _Axis) -> list[str]:
    points = thinned(curve.points)
    places = [(x.place(a), y.place(b)) for a, b in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    parts = [f'<polyline class="{curve.style}" points="{line}"/>']
    if curve.has_marks or len(points) == 1:
        parts += [
            f'<circle class="{curve.style}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places
        ]
    return parts


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most about ``most`` points: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    found: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        found += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return found


class _Axis:
    """From values to places along one side of a chart."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, *, is_padded: bool = False
    ):
        low, high = min(values), max(values)
        margin = (high - low) * 0.05 if is_padded else 0.0
        if high == low:
            margin = abs(low) * 0.1 or 1.0
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def place(self, value: float) -> float:
        """Return where a value stands."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return some round values, seven or eight at most, within the axis."""
        rough = (self.high - self.low) / 7
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
        first = math.ceil(self.low / step)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step) + 1)]
