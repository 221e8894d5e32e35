"""The VISA processor: ISO 8583 over lasting TCP connections.

It owns the sockets: framing, the codec (pyiso8583), faults on replies, sign-on state, and what it
sends unasked (advices, sign-off, rejects). What a message means is decided in `visa_rules`.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import iso8583
import msgspec

from connectors.simulators.clock import SimClock
from connectors.simulators.control import Answer, Problem, Query, Route, day_in, decode
from connectors.simulators.faults import AmountCodes, Drawn, Faults
from connectors.simulators.ledger import Ledger
from connectors.simulators.pans import BINS
from connectors.simulators.reports import visa_file
from connectors.simulators.visa_advices import Advices
from connectors.simulators.visa_book import STATUS_CODES, Book, VisaEntry
from connectors.simulators.visa_rules import (
    REPLY_MTI,
    SIGN_OFF,
    SIGN_ON,
    Decision,
    Rules,
    kind_of,
)
from connectors.simulators.visa_spec import (
    HEADER_SIZE,
    KEEP_ALIVE,
    SPEC,
    STATION,
    Deframer,
    FrameError,
    own_frame,
    reject_frame,
    reply_frame,
    reply_message,
)

CODES = AmountCodes(no_funds="51", issuer_down="91", duplicate="94", fraud="59")
REJECT_UNPARSEABLE = "0290"
REJECT_DEFAULT = "0042"
GARBAGE = b"\xff\xee\x00garbage\x81\x02"
SIGNED_OFF_CODE = "91"
ACKNOWLEDGEMENTS = frozenset({"0130", "0430", "0810"})


class RejectOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /_sim/rejects`."""

    code: str = REJECT_DEFAULT
    count: int | None = None


class AdviceOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /_sim/advices`."""

    rrn: str
    kind: str


class Request(NamedTuple):
    """A message that was read: its header, its fields, and the bytes of each field."""

    header: bytes
    doc: dict[str, str]
    received: dict[str, dict[str, bytes]]

    def __repr__(self) -> str:
        return f"<Request {self.doc['t']}>"


class Connection(asyncio.Protocol):
    """One client's socket."""

    def __init__(self, visa: "Visa") -> None:
        self._visa = visa
        self._deframer = Deframer()
        self.transport: asyncio.Transport | None = None
        self.is_signed_off = False
        self.peer_station = STATION

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the connections that advices go to."""
        # uvloop's transports are asyncio's by shape alone, not by class.
        self.transport = cast(asyncio.Transport, transport)
        self._visa.connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave them."""
        self.transport = None
        self._visa.connections.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Answer every whole frame; the replies that are ready leave in one write."""
        try:
            frames = self._deframer.feed(data)
        except FrameError:
            if self.transport is not None:
                self.transport.abort()
            return
        replies = [reply for whole in frames for reply in self._visa.receive(self, whole)]
        if replies:
            self.send(b"".join(replies))

    def send(self, data: bytes) -> None:
        """Write, unless the client is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class Visa:
    """The scheme: a TCP server's connections over one ledger.

    Args:
        data_dir: where its journal is.
        seed: of faults by rate.
    """

    name = "visa"
    statuses = tuple(STATUS_CODES)

    def __init__(self, data_dir: Path, *, seed: int) -> None:
        self.clock = SimClock()
        self.faults = Faults(CODES, seed)
        self.ledger: Ledger[VisaEntry] = Ledger(
            VisaEntry, BINS["visa"], data_dir / "visa.jsonl", self.clock
        )
        # Insertion order: the newest connection is the last.
        self.connections: dict[Connection, None] = {}
        self._book = Book(self.ledger, self.clock)
        self._rules = Rules(self._book)
        self._advices = Advices(self._book, self._send_newest)
        self._reject_code = REJECT_DEFAULT
        self._rejects_left = 0

    def protocol(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self)

    def close(self) -> None:
        """Drop every connection and stop repeating advices."""
        self._advices.clear()
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.close()

    # -- messages in -----------------------------------------------------------------------------

    def receive(self, connection: Connection, whole: bytes) -> tuple[bytes, ...]:
        """Take one frame (without prefix) and return the frames to answer with now."""
        if not whole:
            return (KEEP_ALIVE,)
        if len(whole) <= HEADER_SIZE or whole[0] != HEADER_SIZE:
            return (reject_frame(REJECT_UNPARSEABLE, whole),)
        header = whole[:HEADER_SIZE]
        try:
            doc, received = iso8583.decode(whole[HEADER_SIZE:], SPEC)
        except (iso8583.DecodeError, KeyError):
            # KeyError: a field that the dialect does not have.
            return (reject_frame(REJECT_UNPARSEABLE, whole),)
        connection.peer_station = header[8:11]
        mti = doc["t"]
        if mti in ACKNOWLEDGEMENTS:
            self._advices.acknowledge(mti, doc)
            return ()
        if mti not in REPLY_MTI:
            return (reject_frame(REJECT_UNPARSEABLE, whole),)
        if mti == "0800":
            self._network(connection, doc)
        elif connection.is_signed_off:
            return (_reply(header, mti, received, Decision(SIGNED_OFF_CODE)),)
        elif self._rejects_left:
            self._rejects_left -= 1
            return (reject_frame(self._reject_code, whole),)
        if self.faults.is_armed:
            drawn = self._draw(doc)
            if drawn is not None:
                return self._receive_badly(connection, Request(header, doc, received), drawn)
        return (_reply(header, mti, received, self._rules.decide(doc, None)),)

    def _network(self, connection: Connection, doc: dict[str, str]) -> None:
        code = doc.get("70", "")
        if code in SIGN_ON:
            connection.is_signed_off = False
        elif code in SIGN_OFF:
            connection.is_signed_off = True

    def _draw(self, doc: dict[str, str]) -> Drawn | None:
        mti = doc["t"]
        kind = kind_of(doc) if mti in ("0100", "0101") else ""
        is_money = mti in ("0120", "0121") or (kind not in ("", "check"))
        amount = doc.get("4", "")
        return self.faults.draw((mti, kind), is_money, int(amount) if amount.isdecimal() else 0)

    def _receive_badly(
        self, connection: Connection, request: Request, drawn: Drawn
    ) -> tuple[bytes, ...]:
        if drawn.delay_s:
            at_last = Drawn(0.0, drawn.kind, drawn.code)
            asyncio.get_running_loop().call_later(
                drawn.delay_s, partial(self._late, connection, request, at_last)
            )
            return ()
        if drawn.kind == "drop_request":
            return ()
        header, doc, received = request
        decision = self._rules.decide(doc, drawn.code if drawn.kind == "decline" else None)
        if drawn.kind == "drop_reply_after_commit":
            return ()
        if drawn.kind == "garbage":
            return (reply_frame(header, GARBAGE),)
        shift = 1 if drawn.kind == "wrong_amount" else 0
        reply = _reply(header, doc["t"], received, decision, shift)
        return (reply, reply) if drawn.kind == "duplicate_reply" else (reply,)

    def _late(self, connection: Connection, request: Request, drawn: Drawn) -> None:
        connection.send(b"".join(self._receive_badly(connection, request, drawn)))

    # -- messages out ----------------------------------------------------------------------------

    def _send_newest(self, doc: dict[str, str]) -> bool:
        """Send a message of our own on the newest connection that is signed on."""
        message, _ = iso8583.encode(doc, SPEC)
        for connection in reversed(self.connections):
            if not connection.is_signed_off:
                connection.send(own_frame(message, connection.peer_station))
                return True
        return False

    # -- control ---------------------------------------------------------------------------------

    def is_status(self, status: str) -> bool:
        """Whether a card can have this status: a word, or two characters of F39."""
        return status in STATUS_CODES or (
            len(status) == 2 and status.isascii() and status.isalnum()
        )

    def reset(self) -> None:
        """Forget everything, faults and clock included; connections stay."""
        self.faults.clear()
        self.clock.reset()
        self._book.clear()
        self._advices.clear()
        self._rejects_left = 0

    def routes(self) -> dict[tuple[str, str], Route]:
        """The control routes that only VISA has."""
        return {
            ("GET", "/_sim/connections"): self._list_connections,
            ("GET", "/_sim/advices"): self._list_advices,
            ("POST", "/_sim/advices"): self._order_advice,
            ("POST", "/_sim/sign-off"): self._order_sign_off,
            ("POST", "/_sim/rejects"): self._order_reject,
            ("GET", "/_sim/clearing"): self._clearing,
        }

    def _clearing(self, query: Query, body: bytes) -> Answer:
        return Answer(visa_file(self._book, day_in(query)), content_type="text/csv")

    def _list_connections(self, query: Query, body: bytes) -> Any:
        return [{"signed_off": connection.is_signed_off} for connection in self.connections]

    def _list_advices(self, query: Query, body: bytes) -> Any:
        return self._advices.view()

    def _order_advice(self, query: Query, body: bytes) -> Any:
        order = decode(body, AdviceOrder)
        if order.kind not in ("0120", "0420"):
            raise Problem(400, "invalid-advice", "kind: 0120 or 0420")
        entry = self._book.by_rrn.get(order.rrn)
        if entry is None:
            raise Problem(404, "not-found", "rrn: no operation has it")
        if all(connection.is_signed_off for connection in self.connections):
            raise Problem(409, "no-connection", "no client is connected and signed on")
        shown = self._advices.send(entry, order.kind)
        return Answer(msgspec.json.encode(shown), 202)

    def _order_sign_off(self, query: Query, body: bytes) -> Any:
        for connection in self.connections:
            message, _ = iso8583.encode(self._advices.network("002"), SPEC)
            connection.send(own_frame(message, connection.peer_station))
            connection.is_signed_off = True
        return {"connections": len(self.connections)}

    def _order_reject(self, query: Query, body: bytes) -> Any:
        """Without a count: an empty reject to every client, now. With one: the next messages."""
        order = decode(body or b"{}", RejectOrder)
        if not (len(order.code) == 4 and order.code.isascii() and order.code.isdecimal()):
            raise Problem(400, "invalid-reject", "code: four digits")
        if order.count is None:
            for connection in self.connections:
                connection.send(reject_frame(order.code, b""))
            return {"connections": len(self.connections)}
        if not 0 <= order.count <= 1_000_000:
            raise Problem(400, "invalid-reject", "count: 0 to 1000000")
        self._reject_code, self._rejects_left = order.code, order.count
        return {"armed": order.count}


def _reply(
    header: bytes,
    mti: str,
    received: dict[str, dict[str, bytes]],
    decision: Decision,
    shift: int = 0,
) -> bytes:
    message = reply_message(REPLY_MTI[mti], received, decision.code, decision.approval, shift)
    return reply_frame(header, message)
