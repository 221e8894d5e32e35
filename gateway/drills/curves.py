"""Draws curves over time: one small SVG, a panel a unit, nothing else.

Colours are readable on white and on dark pages; each curve is named in words as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, PANEL, GAP = 720, 190, 44
LEFT, RIGHT, TOP = 64, 20, 28
COLOURS = ("#2f81f7", "#d2691e", "#2da44e", "#a371f7", "#bf3989")
GREY = "#8b949e"
STEPS = 4


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of one unit.

    Args:
        title: what is drawn, with its unit.
        curves: (seconds, value) points by name; each one at least, values 0 or more.
    """

    title: str
    curves: Mapping[str, Points]


def draw(panels: Sequence[Panel]) -> str:
    """Return an SVG of panels, one beneath the other, over the same time."""
    last_s = max(at for one in panels for points in one.curves.values() for at, _ in points) or 1.0
    parts, top = [], TOP
    for panel in panels:
        parts += _panel(panel, top, last_s)
        top += PANEL + GAP + 16 * len(panel.curves)
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" role="img" font-family="system-ui, sans-serif" font-size="12">\n'
        f"<title>{escape(', '.join(panel.title for panel in panels))}</title>\n{inside}\n</svg>\n"
    )


def _panel(panel: Panel, top: float, last_s: float) -> list[str]:
    highest = max(value for points in panel.curves.values() for _, value in points) or 1.0
    parts = [_text(8, top - 12, panel.title)]
    for step in range(STEPS + 1):
        down = top + PANEL - PANEL * step / STEPS
        parts.append(_line(down))
        parts.append(_text(LEFT - 8, down + 4, f"{highest * step / STEPS:,.0f}", anchor="end"))
        across = LEFT + (WIDTH - LEFT - RIGHT) * step / STEPS
        minutes = f"{last_s * step / STEPS / 60:.1f} min"
        parts.append(_text(across, top + PANEL + 16, minutes, anchor="middle"))
    for number, (name, points) in enumerate(panel.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join(
            f"{LEFT + at / last_s * (WIDTH - LEFT - RIGHT):.1f},"
            f"{top + PANEL - value / highest * PANEL:.1f}"
            for at, value in points
        )
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        down = top + PANEL + 36 + 16 * number
        parts.append(f'<rect x="{LEFT}" y="{down - 9:.0f}" width="14" height="8" fill="{colour}"/>')
        parts.append(_text(LEFT + 22, down, name))
    return parts


def _line(down: float) -> str:
    return (
        f'<line x1="{LEFT}" y1="{down:.1f}" x2="{WIDTH - RIGHT}" y2="{down:.1f}" '
        f'stroke="{GREY}55" stroke-width="1"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{GREY}" text-anchor="{anchor}">{escape(text)}</text>'
    )
