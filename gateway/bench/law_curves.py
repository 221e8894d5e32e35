"""The picture of the scaling laws: what each costs, times its first, over a logarithmic axis."""

import math
from collections.abc import Sequence

from gateway.bench.rows import Law
from gateway.measuring.curves import Axis, Panel, draw

TITLE = "What each costs as something grows"
# What the axis shows even when every curve is flat.
TIMES_MAX_LEAST = 2.0


def picture(laws: Sequence[Law]) -> str:
    """Return an SVG of what each law's points cost, times its first.

    Args:
        laws: one at least, each with one point at least; sizes are 1 or more.
    """
    sizes = [size for law in laws for size, _, _ in law.points]
    first, last = math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes)))
    last = max(last, first + 1)
    highest = max(times for law in laws for _, _, times in law.points)
    top = max(TIMES_MAX_LEAST, math.ceil(highest * 2) / 2)
    across = Axis(
        first=10.0**first,
        last=10.0**last,
        marks=[(10.0**power, f"{10**power:,}") for power in range(first, last + 1)],
        is_log=True,
    )
    up = Axis(0, top, [(half / 2, f"{half / 2:g}x") for half in range(int(top * 2) + 1)])
    curves = [(_named(law), [(size, times) for size, _, times in law.points]) for law in laws]
    return draw(TITLE, [Panel("cost, times the first's", curves, across, up, has_dots=True)])


def _named(law: Law) -> str:
    """Return what a curve is of; sizes that are none are named."""
    return f"{law.grows} ({', '.join(law.labels)})" if law.labels else law.grows
