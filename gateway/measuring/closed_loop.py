"""Load by clients each of which waits for its answer: what the generator is asked, what it told.

For rates and costs; latencies hide the stalls that clients wait through (`open_loop` counts those).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.measuring.helpers import Talker

PAYMENTS = "/v1/payments"


async def closed_loop(
    generator: Talker,
    *,
    port: int,
    clients: int,
    seconds: float | None,
    scheme: str,
    ids_file: Path | None,
    replays: float = 0.0,
    path: str = PAYMENTS,
    is_prepared: bool = False,
) -> Mapping[str, Any]:
    """Load a server of payments on this machine for so long; returns what the generator told.

    Args:
        clients: that ask at once.
        seconds: None, of what is prepared alone: until each user has asked once.
        scheme: over which is paid.
        ids_file: where the ids of what was paid are added, for the books.
        replays: share of requests that are asked a second time.
        path: of the request; its answer need not be a payment.
        is_prepared: whether a user's request is the same bytes each time, made before, and of an
            answer status and length alone are looked at: for what is asked and changes nothing.
    """
    told: Mapping[str, Any] = await generator.ask(
        {
            "port": port,
            "path": path,
            "clients": clients,
            "seconds": seconds,
            "scheme": scheme,
            "replays": replays,
            "ids_file": str(ids_file) if ids_file else None,
            "is_prepared": is_prepared,
        }
    )
    return told


def answers(told: Mapping[str, Any]) -> int:
    """Return how many requests were answered, replays not counted.

    Those that came after the time was up are counted, and `per_second` counts their time with them:
    a slow server would else lose all that it had in work at the end.
    """
    return int(told["created"] + told["late"])


def per_second(told: Mapping[str, Any]) -> float:
    """Return answers a second, until the last."""
    return float(answers(told) / told["until_last_s"])


def complaint(told: Mapping[str, Any]) -> str:
    """Return what is wrong with the generator's answers, or nothing."""
    unexpected = {status: n for status, n in told["statuses"].items() if int(status) > 202}
    if unexpected or told["problem"]:
        return f"unexpected answers {unexpected}: {told['problem']}"
    if told["replayed_wrongly"]:
        return f"{told['replayed_wrongly']} replays were not the first answer"
    if told["declined"]:
        return f"{told['declined']} payments were declined"
    return ""
