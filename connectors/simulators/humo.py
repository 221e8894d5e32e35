"""The HUMO processor: SOAP payments (`urn:PaymentServer`) and the JSON card information.

It owns authentication, the routing by body element and the operations; XML is in `humo_xml`, the
JSON side in `humo_card`. A SOAP Fault travels with HTTP 500, as the protocol has it.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

from connectors.simulators.clock import SimClock
from connectors.simulators.control import Answer, Query, Route, day_in
from connectors.simulators.faults import AmountCodes, Faults
from connectors.simulators.front import Call, Reply
from connectors.simulators.humo_book import (
    ASK_LATER,
    CREATED,
    FINISHED,
    STATUS_CODES,
    Book,
    HumoEntry,
)
from connectors.simulators.humo_card import CARD_PATHS, card_information
from connectors.simulators.humo_money import Declined, Money
from connectors.simulators.humo_xml import (
    SoapRequest,
    XmlError,
    empty_reply,
    fault_reply,
    parse,
    payment_reply,
)
from connectors.simulators.ledger import Ledger
from connectors.simulators.pans import BINS
from connectors.simulators.reports import day_of, humo_file, humo_records, humo_sums

CONTENT_TYPE = "text/xml"
CODES = AmountCodes(no_funds="116", issuer_down="907", duplicate="913", fraud="129")
TTL_MINUTES_DEFAULT = 10_080
RECONCILE = "SOAP_RECO"
RECONCILING_MAX = 1_000
UNAUTHORIZED = Reply(b"", 401, "text/plain")

Handler = Callable[[SoapRequest, int, int], bytes]


class Humo:
    """The scheme behind an `HttpFront`.

    Args:
        login, password: of the SOAP service's Basic authentication.
        bearer: token of the JSON service.
        ttl_minutes: how long unconfirmed money stays locked.
        request_action: `action` after a P2P create, 4 or 10: clients disagree about it.
        sender_data_from: SOAP_TOCARD of this many tiyin or more wants sender data; None never does.
    """

    name = "humo"
    statuses = tuple(STATUS_CODES)

    def __init__(
        self,
        data_dir: Path,
        *,
        login: str,
        password: str,
        bearer: str,
        seed: int,
        ttl_minutes: int = TTL_MINUTES_DEFAULT,
        request_action: int = 4,
        sender_data_from: int | None = None,
    ) -> None:
        self.clock = SimClock()
        self.faults = Faults(CODES, seed)
        self.ledger: Ledger[HumoEntry] = Ledger(
            HumoEntry, BINS["humo"], data_dir / "humo.jsonl", self.clock
        )
        self._book = Book(self.ledger, self.clock, ttl_minutes)
        self._money = Money(self._book, sender_data_from)
        self._request_action = request_action
        self._reconciling: dict[str, tuple[int, str]] = {}
        self._basic = "Basic " + b64encode(f"{login}:{password}".encode()).decode()
        # One public client writes the colon.
        self._bearers = (f"Bearer {bearer}", f"Bearer: {bearer}")

    def read(self, path: str, headers: Mapping[str, str], body: bytes) -> Call | Reply:
        """Understand a request: JSON by its path, anything else is SOAP."""
        authorization = headers.get("Authorization")
        if path in CARD_PATHS:
            if authorization not in self._bearers:
                return UNAUTHORIZED

            def tell(decline: str | None, shift: int) -> Reply:
                return card_information(self.ledger, body, decline)

            return Call(("card", path), False, 0, True, tell)
        if authorization != self._basic:
            return UNAUTHORIZED
        try:
            request = parse(body)
        except XmlError as error:
            return _fault(-1, str(error))
        return self._call(request)

    def _call(self, request: SoapRequest) -> Call | Reply:
        operation, fields = request.operation, request.fields
        handler: Handler
        names: tuple[str, ...] = (operation,)
        is_money = False
        if operation == "Payment" and fields.get("billerRef") == RECONCILE:
            handler, names = self._reconcile, (operation, "create", RECONCILE)
        elif operation == "Payment" and fields.get("paymentRef") in self._reconciling:
            handler, names = self._reconciled, (operation, "confirm", RECONCILE)
        elif operation == "Payment" and fields.get("billerRef"):
            handler, is_money = self._create, True
            names = (operation, "create", fields["billerRef"])
        elif operation == "Payment":
            handler, is_money = self._confirm, True
            names = (operation, "confirm")
        elif operation == "Request":
            handler, is_money = self._request, True
            names = (operation, "create")
        elif operation == "GetPayment":
            handler = self._inquire
        elif operation == "CancelRequest":
            handler = self._cancel
        elif operation == "ReturnPayment":
            handler = self._return
        else:
            return _fault(-1, "Unknown operation")

        def run(decline: str | None, shift: int) -> Reply:
            self.ledger.sweep()
            try:
                return Reply(handler(request, _number(decline), shift), 200, CONTENT_TYPE)
            except Declined as declined:
                return _fault(declined.code, str(declined))

        amount = request.details.get("amount", "")
        if is_money and not amount:
            entry = self._book.find(fields)
            amount = "0" if entry is None else str(entry.amount - entry.fee)
        return Call(names, is_money, int(amount) if amount.isdecimal() else 0, True, run)

    def is_status(self, status: str) -> bool:
        """Whether a card can have this status: a word, or a three-digit action code."""
        return status in STATUS_CODES or (len(status) == 3 and status.isdecimal())

    def reset(self) -> None:
        """Forget everything, faults and clock included."""
        self.faults.clear()
        self.clock.reset()
        self._book.clear()
        self._reconciling.clear()

    def _create(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        entry = self._money.create(request, decline)
        return self._told("PaymentResponse", entry, shift)

    def _reconcile(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        """`SOAP_RECO`: begin to reconcile a terminal's business day."""
        ref, terminal = request.fields.get("paymentRef", ""), request.details.get("terminal_id", "")
        if decline or not ref or not terminal:
            raise Declined(decline or -1)
        if len(self._reconciling) >= RECONCILING_MAX:
            self._reconciling.pop(next(iter(self._reconciling)))
        self._reconciling[ref] = (self._book.next_number(), terminal)
        details = {"ttl": 10, "ttl_action": "0001"}
        return payment_reply("PaymentResponse", self._reconciling[ref][0], ref, details, CREATED)

    def _reconciled(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        """Confirm `SOAP_RECO`: what the terminal did on the day that is going on."""
        if decline:
            raise Declined(decline)
        ref = request.fields["paymentRef"]
        number, terminal = self._reconciling.pop(ref)
        today = day_of(self.clock.now_ms())
        records = humo_records(self._book, today)
        sums = humo_sums(one for one in records if one.terminal == terminal)
        details = {**sums, "reconcile_info": f"{today:%Y%m%d}"}
        return payment_reply("PaymentResponse", number, ref, details, FINISHED)

    def routes(self) -> dict[tuple[str, str], Route]:
        """The control routes that only HUMO has."""

        def report(query: Query, body: bytes) -> Answer:
            return Answer(humo_file(self._book, day_in(query)), content_type="text/plain")

        return {("GET", "/_sim/report"): report}

    def _request(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        entry = self._money.request(request, decline)
        return payment_reply(
            "RequestResponse",
            entry.payment_id,
            entry.ref,
            self._book.details(entry, shift),
            self._request_action,
        )

    def _confirm(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        entry = self._money.confirm(request, decline)
        return self._told("PaymentResponse", entry, shift)

    def _inquire(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        entry = self._book.find(request.fields)
        if decline or entry is None:
            raise Declined(decline or 914)
        return payment_reply(
            "GetPaymentResponse",
            entry.payment_id,
            entry.ref,
            self._book.inquiry_details(entry, shift),
            self._book.action(entry),
        )

    def _cancel(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        self._refuse_first(decline)
        self._money.cancel(request)
        self._refuse_after(decline)
        return empty_reply("CancelRequestResponse")

    def _return(self, request: SoapRequest, decline: int, shift: int) -> bytes:
        self._refuse_first(decline)
        self._money.give_back(request)
        self._refuse_after(decline)
        return empty_reply("ReturnPaymentResponse")

    def _told(self, element: str, entry: HumoEntry, shift: int) -> bytes:
        details = self._book.details(entry, shift)
        return payment_reply(
            element, entry.payment_id, entry.ref, details, self._book.action(entry)
        )

    @staticmethod
    def _refuse_first(decline: int) -> None:
        if decline and decline not in ASK_LATER:
            raise Declined(decline)

    @staticmethod
    def _refuse_after(decline: int) -> None:
        if decline:
            raise Declined(decline)


def _fault(code: int, description: str) -> Reply:
    return Reply(fault_reply(code, description), 500, CONTENT_TYPE)


def _number(decline: str | None) -> int:
    if decline is None:
        return 0
    try:
        return int(decline)
    except ValueError:
        return 999
