"""The UZCARD processor: SVGate's JSON-RPC 2.0 over HTTP.

It owns the envelope, the authentication and the table of methods; what they do is in
`uzcard_money` and `uzcard_cards`. Answers are HTTP 200 for results and errors alike.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from connectors.simulators import uzcard_params as params
from connectors.simulators.clock import SimClock
from connectors.simulators.control import Query, Route
from connectors.simulators.faults import AmountCodes, Faults
from connectors.simulators.front import Call, Reply
from connectors.simulators.ledger import Ledger
from connectors.simulators.pans import UZCARD_COUNTERPARTY_BINS
from connectors.simulators.reports import parse_day, uzcard_rows, uzcard_short, uzcard_sums
from connectors.simulators.uzcard_book import Book, UzcardEntry
from connectors.simulators.uzcard_cards import Cards
from connectors.simulators.uzcard_codes import CARD_STATUS_MAX, EXPIRED, MESSAGES, STATUS_CODES
from connectors.simulators.uzcard_money import Money, Refused

CONTENT_TYPE = "application/json"
CODES = AmountCodes(no_funds="-240", issuer_down="-244", duplicate="-207", fraud="-333")

Handler = Callable[[Any, int, int], Any]


class Method(NamedTuple):
    """One SVGate method: how its parameters read, what it does, what it moves."""

    decoder: msgspec.json.Decoder[Any]
    handler: Handler
    amount: Callable[[Any], int] | None = None
    is_keyed: bool = True


class Uzcard:
    """The scheme behind an `HttpFront`.

    Args:
        data_dir: where its journal is.
        login, password: of Basic authentication.
        seed: of the one-time codes and of faults by rate.
    """

    name = "uzcard"
    statuses = (*STATUS_CODES, EXPIRED)

    def __init__(self, data_dir: Path, *, login: str, password: str, seed: int) -> None:
        self.clock = SimClock()
        self.faults = Faults(CODES, seed)
        self.ledger: Ledger[UzcardEntry] = Ledger(
            UzcardEntry, UZCARD_COUNTERPARTY_BINS, data_dir / "uzcard.jsonl", self.clock
        )
        self._book = Book(self.ledger, self.clock)
        self._cards = Cards(self._book, seed)
        self._methods = self._table(Money(self._book))
        self._authorization = "Basic " + b64encode(f"{login}:{password}".encode()).decode()
        self._envelope = msgspec.json.Decoder(params.Envelope)
        self._encoder = msgspec.json.Encoder()

    def _table(self, money: Money) -> dict[str, Method]:
        def method(shape: type, handler: Handler, **more: Any) -> Method:
            return Method(msgspec.json.Decoder(shape), handler, **more)

        return {
            "trans.pay.purpose": method(
                params.PayPurpose, money.pay, amount=lambda request: request.tran.amount
            ),
            "p2p.universal": method(
                params.P2pUniversal, money.transfer, amount=lambda request: request.p2p.amount
            ),
            "p2p.universal.credit": method(
                params.P2pCredit, money.credit, amount=lambda request: request.credit.amount
            ),
            "hold.create": method(
                params.HoldCreate,
                money.hold_create,
                amount=lambda request: request.hold.amount,
                is_keyed=False,
            ),
            "hold.dismiss.charge": method(
                params.HoldCharge, money.hold_charge, amount=lambda request: request.hold.amount
            ),
            "hold.dismiss": method(params.HoldDismiss, money.hold_dismiss),
            "hold.get.id": method(params.HoldGetId, self._hold_by_id),
            "hold.get.cardId": method(params.HoldGetCard, self._holds_by_card),
            "trans.ext": method(params.ExtId, self._by_ext),
            "trans.sv": method(params.SvId, self._by_reference),
            "trans.reverse": method(params.TranId, money.reverse),
            "trans.reverse.partial": method(params.ReversePartial, money.reverse_partial),
            "cards.new.otp": method(params.CardsNewOtp, self._cards.new_otp),
            "cards.new.verify": method(params.CardsNewVerify, self._cards.new_verify),
            "cards.get": method(params.Ids, self._cards.get),
            "balance.get": method(params.Ids, self._cards.balances),
            "p2p.info": method(params.P2pInfo, self._cards.p2p_info),
            "report.sum": method(params.ReportAsk, self._report_sum),
            "report.short": method(params.ReportAsk, self._report_short),
            "report.detail": method(params.ReportAsk, self._report_detail),
        }

    def read(self, path: str, headers: Mapping[str, str], body: bytes) -> Call | Reply:
        """Understand a JSON-RPC request: one object, never a batch."""
        try:
            envelope = self._envelope.decode(body)
        except msgspec.ValidationError:
            return self._error(None, -32600)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._error(None, -32700)
        if headers.get("Authorization") != self._authorization:
            return self._error(envelope.id, -256)
        if envelope.jsonrpc != "2.0":
            return self._error(envelope.id, -32600)
        method = self._methods.get(envelope.method)
        if method is None:
            return self._error(envelope.id, -32601)
        try:
            request = method.decoder.decode(envelope.params)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._error(envelope.id, -103)

        def run(decline: str | None, shift: int) -> Reply:
            self.ledger.sweep()
            try:
                result = method.handler(request, _number(decline), shift)
            except Refused as refused:
                return self._error(envelope.id, refused.code, str(refused))
            answer = {"jsonrpc": "2.0", "id": envelope.id, "result": result}
            return Reply(self._encoder.encode(answer), 200, CONTENT_TYPE)

        amount = 0 if method.amount is None else method.amount(request)
        return Call((envelope.method,), method.amount is not None, amount, method.is_keyed, run)

    def is_status(self, status: str) -> bool:
        """Whether a card can have this status: a word, or SVGate's number 0 to 21."""
        if status in self.statuses:
            return True
        return status.isdecimal() and status.isascii() and int(status) <= CARD_STATUS_MAX

    def reset(self) -> None:
        """Forget everything, faults and clock included."""
        self.faults.clear()
        self.clock.reset()
        self._book.clear()
        self._cards.clear()

    def routes(self) -> dict[tuple[str, str], Route]:
        """The control routes that only UZCARD has."""

        def messages(query: Query, body: bytes) -> Any:
            to = query.get("to")
            # A bare plus in a query string arrives as a space.
            return self._cards.messages(None if to is None else f"+{to.lstrip('+ ')}")

        return {("GET", "/_sim/messages"): messages}

    def _hold_by_id(self, request: params.HoldGetId, decline: int, shift: int) -> Any:
        entry = self._book.holds.get(str(request.id))
        if decline or entry is None or entry.state == "declined":
            raise Refused(decline or -242)
        return self._book.hold_view(entry)

    def _holds_by_card(self, request: params.HoldGetCard, decline: int, shift: int) -> Any:
        if decline or self.ledger.account_by_token(request.cardId) is None:
            raise Refused(decline or -257)
        return [
            self._book.hold_view(entry)
            for entry in self._book.holds_of(request.cardId)
            if entry.state != "declined"
        ]

    def _by_ext(self, request: params.ExtId, decline: int, shift: int) -> Any:
        entry = self._book.by_ext.get(request.extId)
        if decline or entry is None:
            raise Refused(decline or -267)
        return [self._book.transaction(entry, shift)]

    def _by_reference(self, request: params.SvId, decline: int, shift: int) -> Any:
        entry = self._book.by_rrn.get(request.svId)
        if decline or entry is None:
            raise Refused(decline or -208)
        return [self._book.transaction(entry, shift)]

    def _report_sum(self, request: params.ReportAsk, decline: int, shift: int) -> Any:
        return uzcard_sums(self._report_rows(request, decline))

    def _report_short(self, request: params.ReportAsk, decline: int, shift: int) -> Any:
        rows = self._report_rows(request, decline)
        return _page(request.report, [uzcard_short(row) for row in rows])

    def _report_detail(self, request: params.ReportAsk, decline: int, shift: int) -> Any:
        return _page(request.report, self._report_rows(request, decline))

    def _report_rows(self, request: params.ReportAsk, decline: int) -> list[dict[str, Any]]:
        span = request.report.range
        first, last = parse_day(span.from_), parse_day(span.to)
        if decline or first is None or last is None:
            raise Refused(decline or -103)
        return uzcard_rows(self._book, first, last)

    def _error(self, request_id: Any, code: int, message: str | None = None) -> Reply:
        error = {"code": code, "message": message or MESSAGES.get(code, "Processing error")}
        answer = {"jsonrpc": "2.0", "id": request_id, "error": error}
        return Reply(self._encoder.encode(answer), 200, CONTENT_TYPE)


def _page(order: params.ReportOrder, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Cut one page out of rows, as Spring shows it; pages are counted from 0."""
    size, number = order.pageSize, order.pageNumber
    content = rows[number * size : (number + 1) * size]
    return {
        "content": content,
        "totalElements": len(rows),
        "totalPages": -(-len(rows) // size),
        "size": size,
        "number": number,
        "numberOfElements": len(content),
        "first": number == 0,
        "last": (number + 1) * size >= len(rows),
    }


def _number(decline: str | None) -> int:
    """Read a fault's code; one that is no number stands for a refusal nobody has heard of."""
    if decline is None:
        return 0
    try:
        return int(decline)
    except ValueError:
        return -999
