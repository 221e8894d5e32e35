"""UZCARD's report of a day: `report.detail`, asked for page by page, or the same rows in a file.

The file is JSON lines: a row of `report.detail` each (a transaction object with `udate`, `utime`,
`reversal` and, of what gives back, `origTranType`), and at the end `{"totalElements": rows}`. What
is fetched is made into just that, so that a file and a fetch of the same day have the same bytes.
"""

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import msgspec

from connectors.spi.reports import (
    AMOUNT_MAX,
    Movement,
    ReportError,
    ReportLine,
    ReportUnavailable,
    TrailedReader,
    day,
    name,
)
from connectors.transport.faults import OutcomeUnknown, TransportFault
from connectors.transport.flow import Ended
from connectors.uzcard import codec
from connectors.uzcard.client import SvgateClient

PAGE_SIZE = 500
PAGES_MAX = 100_000

_MOVEMENTS = {"DEBIT": Movement.DEBIT, "CREDIT": Movement.CREDIT, "P2P": Movement.TRANSFER}


class UzcardReports:
    """UZCARD's reports behind `connectors.spi.reports.Reports`."""

    file_suffix = "jsonl"

    def __init__(self, client: SvgateClient) -> None:
        self._client = client

    def reader(self, day: date) -> "DetailReader":
        return DetailReader(day)

    async def fetch(self, day: date) -> AsyncIterator[bytes]:
        """Ask for page after page; one that is about another number of rows ends it."""
        total = None
        given = 0
        for number in range(PAGES_MAX):
            page = await self._page(day, number)
            content = page.get("content")
            told = page.get("totalElements")
            if not isinstance(content, list) or type(told) is not int or len(content) > PAGE_SIZE:
                raise ReportUnavailable("a page cannot be read")
            if total is not None and told != total:
                # Something was added meanwhile: pages may have moved over one another.
                raise ReportUnavailable("the report changed while it was read; ask again")
            total = told
            given += len(content)
            yield b"".join(msgspec.json.encode(row) + b"\n" for row in content)
            if page.get("last") is True or not content:
                break
        if given != total:
            raise ReportUnavailable("a page is missing")
        yield msgspec.json.encode({"totalElements": total}) + b"\n"

    async def _page(self, day: date, number: int) -> Any:
        text = day.strftime("%Y%m%d")
        params = {
            "report": {
                "range": {"from": text, "to": text},
                "pageNumber": number,
                "pageSize": PAGE_SIZE,
            }
        }
        reference = f"report-{text}-{number}"
        try:
            reply = await self._client.call(
                "report.detail", params, reference, self._client.deadline()
            )
            if reply.error is not None:
                raise ReportUnavailable(f"SVGate answered {reply.error}")
            return codec.mapping(reply.result)
        except TransportFault as fault:
            raise ReportUnavailable(f"SVGate: {fault.code}") from None
        except Ended as ended:
            raise ReportUnavailable(f"SVGate: {ended.result.processor_code}") from None

    def name_of(self, *, sequence: int, created_at_ms: int) -> str | None:
        """SVGate names what it does by our `ext`."""
        return None


class DetailReader(TrailedReader):
    """Reads one report."""

    kind, trailer = "report", "count"

    def _read_line(self, number: int, text: str) -> ReportLine | None:
        try:
            row = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            raise ReportError(number, "is not JSON") from None
        if not isinstance(row, dict):
            raise ReportError(number, "is not an object")
        if "totalElements" in row:
            if row != {"totalElements": self._count}:
                raise ReportError(number, "the count is another than that of the rows")
            self._is_ended = True
            return None
        try:
            line = _line(number, row, self._day)
        except OutcomeUnknown:
            raise ReportError(number, "a member is missing, or is not what it should be") from None
        self._count += 1
        return line


def _line(number: int, row: dict[str, Any], business_day: date) -> ReportLine:
    found = codec.transaction(row)
    if found.currency != codec.CURRENCY:
        raise ReportError(number, "the currency is not 860")
    if not found.ext:
        raise ReportError(number, "has no ext")
    charged = codec.number(row.get("commission", 0))
    if not (0 <= found.amount <= AMOUNT_MAX and 0 <= charged <= AMOUNT_MAX):
        raise ReportError(number, "an amount is out of bounds")
    done = day(number, codec.text(row.get("udate")))
    if done != business_day:
        raise ReportError(number, "is of another business day")
    is_return = row.get("reversal")
    if not isinstance(is_return, bool) or is_return is not (row.get("tranType") == "REVERSAL"):
        raise ReportError(number, "does not say whether it gives back")
    kind = row.get("origTranType" if is_return else "tranType")
    original = _MOVEMENTS.get(kind) if isinstance(kind, str) else None
    if original is None:
        raise ReportError(number, "the kind of transaction is not known")
    net = {Movement.TRANSFER: charged, Movement.CREDIT: -found.amount}.get(original)
    if net is None:
        # What a payment charges stands beside its amount, and was debited with it.
        net = found.amount + charged
    is_approved = found.is_done
    return ReportLine(
        number=number,
        movement=Movement.REFUND if is_return else original,
        is_approved=is_approved,
        reference=name(number, found.ext),
        processor_reference=name(number, found.ref_num),
        amount_minor=found.amount,
        commission_minor=None if is_return else charged,
        fee_minor=0,
        net_minor=(-net if is_return else net) if is_approved else 0,
        currency="UZS",
        day=done,
    )
