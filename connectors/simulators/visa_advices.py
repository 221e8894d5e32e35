"""What VISA says unasked: 0120 and 0420 advices, repeated as 0121 and 0421 until acknowledged.

An advice goes out with a trace of its own and names the operation by F37, F38 and F90. A 0420 says
that the operation was undone, so the ledger says so first.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from connectors.simulators.visa_book import (
    ACQUIRER_WIDTH,
    CURRENCY_NUMBERS,
    Book,
    VisaEntry,
)

REPEAT_AFTER_S = 5.0
REPEATS_MAX = 10
KEPT_MAX = 1000

Doc = dict[str, str]


@dataclass(slots=True)
class Advice:
    """One advice on its way. `doc` holds a card number, so `repr` leaves it out."""

    kind: str
    rrn: str
    stan: str
    doc: Doc
    sent: int = 0
    is_acknowledged: bool = False
    timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Advice {self.kind} {self.stan} sent {self.sent}>"


class Advices:
    """The advices of one scheme.

    Args:
        send: puts a message on a connection, and tells whether there was one.
    """

    def __init__(self, book: Book, send: Callable[[Doc], bool]) -> None:
        self._book = book
        self._send = send
        self._advices: list[Advice] = []

    def send(self, entry: VisaEntry, kind: str) -> dict[str, Any]:
        """Begin an advice about `entry`. Args: kind is 0120 or 0420."""
        if kind == "0420" and entry.state in ("approved", "captured", "refunded"):
            entry.state = "reversed"
            entry.undone_by = "unasked"
            self._book.ledger.save(entry)
        doc = self._document(entry, kind)
        advice = Advice(kind=kind, rrn=entry.rrn, stan=doc["11"], doc=doc)
        self._advices.append(advice)
        if len(self._advices) > KEPT_MAX:
            oldest = self._advices.pop(0)
            if oldest.timer is not None:
                oldest.timer.cancel()
        self._send_once(advice)
        return _view(advice)

    def acknowledge(self, mti: str, doc: Doc) -> None:
        """Take a 0130 or 0430; only F39 00 ends the repeats."""
        kind = {"0130": "0120", "0430": "0420"}.get(mti)
        for advice in self._advices:
            is_it = (advice.kind, advice.stan) == (kind, doc.get("11"))
            if is_it and doc.get("7") == advice.doc["7"] and doc.get("39") == "00":
                advice.is_acknowledged = True
                if advice.timer is not None:
                    advice.timer.cancel()

    def view(self) -> list[dict[str, Any]]:
        """List the advices, oldest first."""
        return [_view(advice) for advice in self._advices]

    def clear(self) -> None:
        """Forget them."""
        for advice in self._advices:
            if advice.timer is not None:
                advice.timer.cancel()
        self._advices.clear()

    def network(self, code: str) -> Doc:
        """Build a 0800. Args: code is F70."""
        return {
            "t": "0800",
            "7": time.strftime("%m%d%H%M%S", time.gmtime()),
            "11": f"{self._book.next_number():06d}",
            "37": f"{self._book.next_number():012d}",
            "70": code,
        }

    def _document(self, entry: VisaEntry, kind: str) -> Doc:
        account = self._book.ledger.account_by_token(entry.account)
        taken = entry.captured_amount if entry.state == "captured" else entry.amount
        doc: Doc = {
            "t": kind,
            "3": entry.proc,
            "4": f"{taken:012d}",
            "7": self._book.clock.stamps(self._book.clock.now_ms())[0],
            "11": f"{self._book.next_number():06d}",
            "25": entry.condition or "59",
            "32": entry.acquirer,
            "37": entry.rrn,
            "39": entry.code or "00",
            "41": entry.terminal.ljust(8),
            "42": entry.merchant.ljust(15),
            "49": CURRENCY_NUMBERS.get(entry.currency, entry.currency),
            "90": (
                f"0100{entry.stan}{entry.sent_at}"
                f"{entry.acquirer.zfill(ACQUIRER_WIDTH)}{'0' * ACQUIRER_WIDTH}"
            ),
        }
        if account is not None:
            doc["2"] = account.pan
        if entry.approval:
            doc["38"] = entry.approval
        return doc

    def _send_once(self, advice: Advice) -> None:
        doc = dict(advice.doc)
        if advice.sent:
            doc["t"] = f"{advice.kind[:3]}1"
        self._send(doc)
        advice.sent += 1
        if advice.sent <= REPEATS_MAX:
            advice.timer = asyncio.get_running_loop().call_later(
                REPEAT_AFTER_S, self._send_once, advice
            )


def _view(advice: Advice) -> dict[str, Any]:
    return {
        "kind": advice.kind,
        "rrn": advice.rrn,
        "stan": advice.stan,
        "sent": advice.sent,
        "acknowledged": advice.is_acknowledged,
    }
