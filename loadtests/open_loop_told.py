"""What an open-loop run recorded of each request, and what is told of it.

Latencies are kept one by one and sorted, so that every quantile is exact; an answer that never
came is counted as such and has no latency.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any

PAYMENT, REPLAY, REFUSAL = range(3)
KINDS = ("payments", "replays", "refusals")
# Statuses that no server sends.
UNANSWERED, LOST = 0, 1
NAMES = {UNANSWERED: "unanswered", LOST: "lost"}
QUANTILES = (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999))


class Records:
    """One place a request in each array, in the order in which they are due.

    Args:
        schemes: by which `scheme_of` is an index.
        due_s: seconds since the clock began.
        skip_s: what is due before is warming up, and is not told of.

    Attributes:
        own_late_s: how much later than due the generator came to look at a request.
        waited: requests for which no connection was free when they were due.
    """

    def __init__(
        self, schemes: tuple[str, ...], due_s: "array[float]", *, skip_s: float = 0.0
    ) -> None:
        self.schemes = schemes
        self.due_s = due_s
        self.skip_s = skip_s
        self.kinds = array("B")
        self.scheme_of = array("B")
        self.answered_s = array("d", bytes(8 * len(due_s)))
        self.statuses = array("H", bytes(2 * len(due_s)))
        self.own_late_s = array("d")
        self.waited = 0
        self.declined = 0
        self.replayed_wrongly = 0
        self.refused_wrongly = 0
        self.problem = ""

    def latency_ms(self, number: int) -> float:
        """Return how long after it was due a request was answered."""
        return (self.answered_s[number] - self.due_s[number]) * 1_000


def is_completed(status: int) -> bool:
    """Return whether a payment was taken: a final answer, or the promise of one."""
    return status in (200, 201, 202)


def quantiles(latencies: Iterable[float]) -> dict[str, float]:
    """Return the quantiles and the greatest, milliseconds; zeros of nothing."""
    ordered = sorted(latencies)
    if not ordered:
        return {name: 0.0 for name, _ in QUANTILES} | {"max_ms": 0.0}
    last = len(ordered) - 1
    # The nearest rank above: a hundredth that is slow is seen by the 99th percentile.
    found = {
        name: round(ordered[min(last, int(share * len(ordered)))], 3) for name, share in QUANTILES
    }
    return found | {"max_ms": round(ordered[last], 3)}


def _answers(records: Records, numbers: list[int], expected: int) -> dict[str, Any]:
    """Return counts by status, and latencies of the answers that were hoped for."""
    statuses = Counter(records.statuses[number] for number in numbers)
    hoped_for = [
        number
        for number in numbers
        if is_completed(status := records.statuses[number]) or status == expected
    ]
    shown = {NAMES.get(status, str(status)): count for status, count in sorted(statuses.items())}
    return {
        "asked": len(numbers),
        "completed": len(hoped_for),
        "statuses": shown,
    } | quantiles(records.latency_ms(number) for number in hoped_for)


def told(records: Records, *, bucket_s: float, late_ms: float) -> dict[str, Any]:
    """Return everything that is told of a run.

    Args:
        bucket_s: seconds of one row of the course of things.
        late_ms: how much later than due the generator may look at a request without being late.

    Returns:
        By kind (`payments`, `replays`, `refusals`), by scheme (payments alone), in rows of time
        (payments alone), and what the generator did not manage itself.
    """
    numbers = [
        number
        for number in range(len(records.own_late_s))
        if records.due_s[number] >= records.skip_s
    ]
    by_kind: tuple[list[int], ...] = ([], [], [])
    for number in numbers:
        by_kind[records.kinds[number]].append(number)
    own_ms = sorted(records.own_late_s[number] * 1_000 for number in numbers)
    failed = [number for number in by_kind[PAYMENT] if not is_completed(records.statuses[number])]
    return {
        name: _answers(records, by_kind[kind], 422 if kind == REFUSAL else 200)
        for kind, name in enumerate(KINDS)
    } | {
        "asked": len(records.due_s),
        "sent": len(records.own_late_s),
        "by_scheme": _by_scheme(records, by_kind[PAYMENT]),
        "rows": _rows(records, by_kind[PAYMENT], bucket_s),
        "first_failed_s": min((records.due_s[number] for number in failed), default=None),
        "last_failed_s": max((records.due_s[number] for number in failed), default=None),
        "waited": records.waited,
        "late_p99_ms": quantiles(own_ms)["p99_ms"],
        "late_max_ms": quantiles(own_ms)["max_ms"],
        "late_share": sum(late > late_ms for late in own_ms) / (len(own_ms) or 1),
        "declined": records.declined,
        "replayed_wrongly": records.replayed_wrongly,
        "refused_wrongly": records.refused_wrongly,
        "problem": records.problem,
    }


def _by_scheme(records: Records, numbers: list[int]) -> dict[str, Any]:
    return {
        scheme: _answers(
            records, [number for number in numbers if records.scheme_of[number] == index], 200
        )
        for index, scheme in enumerate(records.schemes)
    }


def _rows(records: Records, numbers: list[int], bucket_s: float) -> list[dict[str, Any]]:
    """Return how things went: a row for each stretch of time and scheme, by when it was due."""
    parts: dict[tuple[int, int], list[int]] = {}
    for number in numbers:
        place = int(records.due_s[number] / bucket_s), records.scheme_of[number]
        parts.setdefault(place, []).append(number)
    rows = []
    for (bucket, scheme), part in sorted(parts.items()):
        completed = [number for number in part if is_completed(records.statuses[number])]
        shown = quantiles(records.latency_ms(number) for number in completed)
        rows.append(
            {
                "at_s": round(bucket * bucket_s, 3),
                "scheme": records.schemes[scheme],
                "asked": len(part),
                "completed": len(completed),
                "p50_ms": shown["p50_ms"],
                "p99_ms": shown["p99_ms"],
                "max_ms": shown["max_ms"],
            }
        )
    return rows
