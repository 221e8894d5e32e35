"""What an open-loop run asks for, and when: drawn before the clock runs."""

import random
import secrets
from array import array
from collections.abc import Sequence

from open_loop_told import PAYMENT, REFUSAL, REPLAY, Records
from wire import Seeded, request

# More than any policy of the sandbox lets through: refused by a limit, no processor is asked.
AMOUNT_REFUSED = 900_000_000_000_000


class Requests:
    """What is asked, by number: drawn once, and had again as often as needed.

    Args:
        records: told what kind each request is, and over which scheme.
    """

    def __init__(
        self, seeded: Seeded, records: Records, *, replays: float, refusals: float, mix: list[float]
    ) -> None:
        self._tokens = seeded.tokens
        self._cards = [seeded.cards[scheme] for scheme in records.schemes]
        self._around = {
            PAYMENT: seeded.around_card(),
            REFUSAL: seeded.around_card(AMOUNT_REFUSED),
        }
        self._prefix = secrets.token_hex(6).encode()
        self._records = records
        count, chance, users = len(records.due_s), random.random, len(seeded.tokens)
        # Some users pay far more often than others.
        self._who = array("L", (int(users * chance() ** 3) for _ in range(count)))
        kinds = random.choices(
            (PAYMENT, REPLAY, REFUSAL), (1 - replays - refusals, replays, refusals), k=count
        )
        records.kinds.extend(kinds)
        records.scheme_of.extend(random.choices(range(len(mix)), mix, k=count))

    def request(self, number: int) -> bytes:
        """Return the bytes of a request; a replay's are those of what it asks for again."""
        who, card = self._who[number], self._cards[self._records.scheme_of[number]]
        kind = self._records.kinds[number]
        around = self._around[REFUSAL if kind == REFUSAL else PAYMENT]
        return request(self._tokens[who], b"%b-%d" % (self._prefix, number), card[who], around)


def schedule(phases: Sequence[dict[str, float]]) -> "array[float]":
    """Return when each request is due, in seconds since the clock began.

    Args:
        phases: requests a second, and for how many seconds, one after another.
    """
    due = array("d")
    begins_s = 0.0
    for phase in phases:
        count = round(phase["rate"] * phase["seconds"])
        due.extend(begins_s + number / phase["rate"] for number in range(count))
        begins_s += phase["seconds"]
    return due
