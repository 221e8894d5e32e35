"""What each processor reports of a business day, from its own ledger.

A report lists movements: what was taken or given that day, and what of earlier or the same day was
given back. UZCARD and HUMO list what they declined too. Days are of Tashkent.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from connectors.simulators.humo_book import OK_CODE, HumoEntry
from connectors.simulators.humo_book import Book as HumoBook
from connectors.simulators.ledger import Entry
from connectors.simulators.uzcard_book import Book as UzcardBook
from connectors.simulators.uzcard_book import UzcardEntry
from connectors.simulators.visa_book import Book as VisaBook
from connectors.simulators.visa_book import VisaEntry

TASHKENT = timedelta(hours=5)
# What VISA charges the acquirer for a sale: this many parts of a thousand, rounded down.
VISA_FEE_PER_MILLE = 1
VISA_COLUMNS = (
    "business_date,transaction_code,processing_code,rrn,approval_code,card_last4,"
    "amount,currency,processing_fee,transaction_date"
)


def day_of(moment_ms: int) -> date:
    """Return the business day of a moment, Unix milliseconds."""
    return (datetime.fromtimestamp(moment_ms // 1000, UTC) + TASHKENT).date()


def _local(moment_ms: int) -> datetime:
    return datetime.fromtimestamp(moment_ms // 1000, UTC) + TASHKENT


def parse_day(text: str) -> date | None:
    """Read `YYYY-MM-DD` or `YYYYMMDD`; None when it is no date."""
    for form in ("%Y-%m-%d", "%Y%m%d"):
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None


def _taken(entry: Entry) -> int:
    """What was taken or given: a hold's captured part, else the amount."""
    return entry.captured_amount if entry.kind == "hold" else entry.amount


# -- UZCARD: report.detail ---------------------------------------------------------------------


def uzcard_rows(book: UzcardBook, first: date, last: date) -> list[dict[str, Any]]:
    """List the transactions of the days from `first` to `last`, as `report.detail` shows them."""
    rows: list[dict[str, Any]] = []
    for entry in book.ledger.entries:
        if entry.kind == "credit" and entry.tran_type == "P2P":
            # Half of a transfer: its debit stands for both.
            continue
        for row in _uzcard_movements(book, entry):
            if first <= row["day"] <= last:
                rows.append(_uzcard_row(row))
    return rows


def _uzcard_movements(book: UzcardBook, entry: UzcardEntry) -> Iterator[dict[str, Any]]:
    shown = book.transaction(entry)
    if entry.state == "declined":
        if entry.kind != "hold":
            yield {**shown, "reversal": False, "day": day_of(entry.created_ms), "at": entry}
        return
    if entry.kind == "refund":
        parent = book.ledger.entries[entry.parent]
        origin = {"reversal": True, "origTranType": parent.tran_type, "origRefNum": parent.rrn}
        yield {**shown, **origin, "status": "OK", "day": day_of(entry.created_ms), "at": entry}
        return
    if entry.done_ms:
        yield {
            **shown,
            "status": "OK",
            "reversal": False,
            "day": day_of(entry.done_ms),
            "at": entry,
        }
    if entry.undone_ms:
        yield {
            **shown,
            "tranType": "REVERSAL",
            "status": "OK",
            "reversal": True,
            "origTranType": entry.tran_type,
            "origRefNum": entry.rrn,
            "day": day_of(entry.undone_ms),
            "at": entry,
        }


def _uzcard_row(row: dict[str, Any]) -> dict[str, Any]:
    entry: UzcardEntry = row.pop("at")
    day: date = row.pop("day")
    row["udate"] = int(day.strftime("%Y%m%d"))
    row["utime"] = int(_local(entry.done_ms or entry.created_ms).strftime("%H%M%S"))
    return row


def uzcard_short(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as `report.short` shows it."""
    names = ("refNum", "ext", "tranType", "amount", "currency", "status", "reversal", "udate")
    return {name: row[name] for name in names}


def uzcard_sums(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Add rows up as `report.sum` does."""
    sums = {"count": 0, "debitSum": 0, "creditSum": 0, "reversalSum": 0, "commissionSum": 0}
    names = {"DEBIT": "debitSum", "CREDIT": "creditSum", "REVERSAL": "reversalSum"}
    for row in rows:
        if row["status"] != "OK":
            continue
        sums["count"] += 1
        name = names.get(row["tranType"])
        if name is not None:
            sums[name] += row["amount"]
        sums["commissionSum"] += row.get("commission", 0)
    return sums


# -- HUMO: SOAP_RECO and the day's file --------------------------------------------------------


class HumoRecord(NamedTuple):
    """One line of HUMO's file. `amount` is without the fee."""

    day: date
    operation: str
    original: str
    payment_ref: str
    payment_id: int
    rrn: str
    code: str
    amount: int
    fee: int
    moment_ms: int
    terminal: str

    def text(self) -> str:
        """Return the line, without its end."""
        values: tuple[object, ...] = (
            "D",
            self.operation,
            self.original,
            self.payment_ref,
            self.payment_id,
            self.rrn,
            self.code,
            self.amount,
            self.fee,
            "860",
            _local(self.moment_ms).strftime("%Y%m%d%H%M%S"),
        )
        return ";".join(str(value) for value in values)


def humo_records(book: HumoBook, day: date) -> list[HumoRecord]:
    """List what happened on a day."""
    records: list[HumoRecord] = []
    for entry in book.ledger.entries:
        if entry.kind == "credit" and entry.biller == "P2P":
            continue
        records += [one for one in _humo_movements(entry) if one.day == day]
    return records


def _humo_movements(entry: HumoEntry) -> Iterator[HumoRecord]:
    def record(
        operation: str, ref: str, amount: int, moment_ms: int, *, fee: int = 0, code: str = OK_CODE
    ) -> HumoRecord:
        is_return = operation in ("RETURN", "REVERSAL")
        return HumoRecord(
            day=day_of(moment_ms),
            operation=operation,
            original=entry.biller if is_return else "",
            payment_ref=ref,
            payment_id=entry.payment_id,
            rrn=entry.rrn,
            code=code,
            amount=amount,
            fee=fee,
            moment_ms=moment_ms,
            terminal=entry.terminal,
        )

    amount = _taken(entry) - entry.fee
    if entry.state == "declined":
        code = entry.code.zfill(3)
        if code != "0-1" and entry.kind != "hold":
            created_ms = entry.created_ms
            yield record(entry.biller, entry.ref, amount, created_ms, fee=entry.fee, code=code)
        return
    if entry.done_ms:
        yield record(entry.biller, entry.ref, amount, entry.done_ms, fee=entry.fee)
    for ref, part, moment_ms in entry.returns:
        yield record("RETURN", ref or entry.ref, part, moment_ms)
    if entry.undone_ms:
        yield record("REVERSAL", entry.ref, amount, entry.undone_ms, fee=entry.fee)


def humo_sums(records: Iterable[HumoRecord]) -> dict[str, int]:
    """Add a day up as `SOAP_RECO` tells it; fees are in the debits."""
    debits = [one for one in records if one.code == OK_CODE]
    credits = [one for one in debits if _is_credit(one)]
    taken = [one for one in debits if not _is_credit(one)]
    return {
        "debits_number": len(taken),
        "debits_amount": sum(one.amount + one.fee for one in taken),
        "credits_reversal_number": len(credits),
        "credits_reversal_amount": sum(one.amount + one.fee for one in credits),
    }


def _is_credit(record: HumoRecord) -> bool:
    return record.operation in ("RETURN", "REVERSAL", "SOAP_TOCARD", "SOAP_TOCARD_2")


def humo_file(book: HumoBook, day: date) -> bytes:
    """Write the day's file: a header, a line a movement, a trailer with count and sums."""
    records = humo_records(book, day)
    sums = humo_sums(records)
    lines = [f"H;HUMO;{day:%Y%m%d}"]
    lines += [one.text() for one in records]
    lines.append(f"T;{len(records)};" + ";".join(str(value) for value in sums.values()))
    return ("\r\n".join(lines) + "\r\n").encode()


# -- VISA: the clearing file -------------------------------------------------------------------


def visa_file(book: VisaBook, day: date) -> bytes:
    """Write the clearing of a day: what was cleared and not undone before the day's end."""
    lines = [VISA_COLUMNS]
    total = 0
    for entry in book.ledger.entries:
        for code, fee in _visa_codes(entry, day):
            amount = _taken(entry)
            total += amount
            values: tuple[object, ...] = (
                day.isoformat(),
                code,
                entry.proc,
                entry.rrn,
                entry.approval,
                entry.pan_last4,
                amount,
                entry.currency,
                fee,
                day_of(entry.done_ms).isoformat(),
            )
            lines.append(",".join(str(value) for value in values))
    lines.append(f"TRAILER,{len(lines) - 1},{total}")
    return ("\n".join(lines) + "\n").encode()


def _visa_codes(entry: VisaEntry, day: date) -> Iterator[tuple[str, int]]:
    """Return transaction codes and fees: 05 sale, 06 credit, 25 and 26 undo one cleared before."""
    if not entry.done_ms or entry.state == "declined" or entry.kind == "tombstone":
        return
    is_credit = entry.kind in ("credit", "refund")
    done = day_of(entry.done_ms)
    undone = day_of(entry.undone_ms) if entry.undone_ms else None
    if undone == done:
        return
    if done == day:
        fee = 0 if is_credit else _taken(entry) * VISA_FEE_PER_MILLE // 1000
        yield ("06" if is_credit else "05"), fee
    if undone == day:
        yield ("26" if is_credit else "25"), 0
