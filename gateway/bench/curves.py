"""Draws the scaling laws: one small SVG, lines over a logarithmic axis, nothing else.

Colours are readable on white and on dark pages; texts carry what colours say, too.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from gateway.bench.rows import Law

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 40, 28, 76
COLOURS = (
    "#2f81f7", "#d2691e", "#2da44e", "#a371f7", "#cf222e", "#1b7c83", "#bf8700", "#8250df",
)  # fmt: skip
# What the axis shows even when every curve is flat.
TIMES_MAX_LEAST = 2.0

Scale = Callable[[float], float]


def draw(laws: Sequence[Law]) -> str:
    """Return an SVG of what each law's points cost, times its first.

    Args:
        laws: one at least, each with one point at least; sizes are 1 or more.
    """
    sizes = [size for law in laws for size, _, _ in law.points]
    first, last = math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes)))
    last = max(last, first + 1)
    highest = max(times for law in laws for _, _, times in law.points)
    top = max(TIMES_MAX_LEAST, math.ceil(highest * 2) / 2)

    def x(size: float) -> float:
        return LEFT + (math.log10(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(times: float) -> float:
        return HEIGHT - BOTTOM - times / top * (HEIGHT - TOP - BOTTOM)

    parts = [*_axes(first, last, top, x, y)]
    for number, law in enumerate(laws):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x(size), y(times)) for size, _, times in law.points]
        line = " ".join(f"{left:.1f},{down:.1f}" for left, down in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{left:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>'
            for left, down in places
        ]
        down = HEIGHT - BOTTOM + 44 + 18 * number
        parts.append(f'<rect x="{LEFT}" y="{down - 9}" width="14" height="8" fill="{colour}"/>')
        parts.append(_text(LEFT + 22, down, _named(law)))
    inside = "\n".join(parts)
    height = HEIGHT + 18 * max(0, len(laws) - 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">\n'
        "<title>What each costs as something grows</title>\n"
        f"{inside}\n</svg>\n"
    )


def _named(law: Law) -> str:
    """Return what a curve is of; sizes that are none are named."""
    return f"{law.grows} ({', '.join(law.labels)})" if law.labels else law.grows


def _axes(first: int, last: int, top: float, x: Scale, y: Scale) -> list[str]:
    parts = [_text(8, 16, "cost, times the first's")]
    for half in range(int(top * 2) + 1):
        times = half / 2
        is_base = times == 0
        line = "#8b949e" if is_base else "#8b949e55"
        parts.append(_line(LEFT, y(times), WIDTH - RIGHT, y(times), line))
        parts.append(_text(LEFT - 8, y(times) + 4, f"{times:g}x", anchor="end"))
    for power in range(first, last + 1):
        left = x(10.0**power)
        parts.append(_line(left, y(0), left, y(0) + 5, "#8b949e"))
        parts.append(_text(left, y(0) + 20, f"{10**power:,}", anchor="middle"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="1"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="#8b949e" text-anchor="{anchor}">{escape(text)}</text>'
    )
