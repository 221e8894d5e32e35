"""Draw the state tables of payments as `docs/states.md`: `python scripts/draw_states.py`.

The tables are the source; a test holds the page to them.
"""

from collections.abc import Mapping
from pathlib import Path

from gateway.payments.model import ACTION_TRANSITIONS, ATTEMPT_TRANSITIONS, PAYMENT_TRANSITIONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "states.md"

_HEAD = """# States

What may become of what, drawn from the tables in `gateway/payments/model.py` by
`scripts/draw_states.py`. A state that only ends is terminal: what contradicts it is a conflict for
an operator, and never overwrites it.
"""
_TABLES: tuple[tuple[str, str, Mapping[str, frozenset[str]]], ...] = (
    ("Payment", "Refunds never change it.", PAYMENT_TRANSITIONS),
    ("Attempt", "One try at one processor.", ATTEMPT_TRANSITIONS),
    (
        "Capture, cancel, refund",
        "Sent again under its reference while it is unknown.",
        ACTION_TRANSITIONS,
    ),
)


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for title, note, transitions in _TABLES:
        lines = [f"## {title}", "", note, "", "```mermaid", "stateDiagram-v2"]
        for state, following in transitions.items():
            lines += [f"    {state} --> {after}" for after in sorted(following) if after != state]
            if not following:
                lines.append(f"    {state} --> [*]")
        lines.append("```")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
