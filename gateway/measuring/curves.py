"""Draws curves: one small SVG, a panel a unit, nothing else.

Colours are readable on white and on dark pages; each curve is named in words as well. What is drawn
and along which axes is its callers' business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, PANEL, GAP = 720, 200, 68
LEFT, RIGHT, TOP = 64, 40, 28
# Beneath a panel: the words of its axis, then a line a curve.
MARKS, NAMES, LINE = 20, 44, 18
COLOURS = (
    "#2f81f7", "#d2691e", "#2da44e", "#a371f7", "#cf222e", "#1b7c83", "#bf8700", "#8250df",
)  # fmt: skip
GREY = "#8b949e"
PALE = f"{GREY}55"


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where an axis goes, and what is written along it.

    Args:
        first, last: values at its ends, the second the greater.
        marks: values with their words.
        is_log: a power of ten is as far from the next as any other; values are above zero.
    """

    first: float
    last: float
    marks: Sequence[tuple[float, str]]
    is_log: bool = False

    def part(self, value: float) -> float:
        """Return how far along the axis a value is: 0 to 1."""
        first, last, at = self.first, self.last, value
        if self.is_log:
            first, last, at = math.log10(first), math.log10(last), math.log10(at)
        return (at - first) / (last - first)


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of one unit.

    Args:
        title: what is drawn, with its unit.
        curves: names with (across, up) points, each one at least, within the axes.
        has_dots: whether each point is seen; for curves of few.
    """

    title: str
    curves: Sequence[tuple[str, Points]]
    across: Axis
    up: Axis
    has_dots: bool = False


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Return an SVG of panels, one beneath the other."""
    parts, top = [], TOP
    for panel in panels:
        parts += [*_axes(panel, top), *_curves(panel, top)]
        top += PANEL + GAP + LINE * len(panel.curves)
    height = top - TOP
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="12">\n'
        f"<title>{escape(title)}</title>\n{inside}\n</svg>\n"
    )


def _x(panel: Panel, value: float) -> float:
    return LEFT + panel.across.part(value) * (WIDTH - LEFT - RIGHT)


def _y(panel: Panel, top: float, value: float) -> float:
    return top + PANEL - panel.up.part(value) * PANEL


def _axes(panel: Panel, top: float) -> list[str]:
    parts = [_text(8, top - 12, panel.title)]
    for number, (value, words) in enumerate(panel.up.marks):
        down = _y(panel, top, value)
        parts.append(_line(LEFT, down, WIDTH - RIGHT, down, PALE if number else GREY))
        parts.append(_text(LEFT - 8, down + 4, words, anchor="end"))
    base = top + PANEL
    for value, words in panel.across.marks:
        left = _x(panel, value)
        parts.append(_line(left, base, left, base + 5, GREY))
        parts.append(_text(left, base + MARKS, words, anchor="middle"))
    return parts


def _curves(panel: Panel, top: float) -> list[str]:
    parts = []
    for number, (name, points) in enumerate(panel.curves):
        colour = COLOURS[number % len(COLOURS)]
        places = [(_x(panel, across), _y(panel, top, up)) for across, up in points]
        line = " ".join(f"{left:.1f},{down:.1f}" for left, down in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if panel.has_dots:
            parts += [
                f'<circle cx="{left:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>'
                for left, down in places
            ]
        below = top + PANEL + NAMES + LINE * number
        parts.append(f'<rect x="{LEFT}" y="{below - 9}" width="14" height="8" fill="{colour}"/>')
        parts.append(_text(LEFT + 22, below, name))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="1"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{GREY}" text-anchor="{anchor}">{escape(text)}</text>'
    )
