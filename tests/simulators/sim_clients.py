"""Clients of the simulators for their tests: plain requests, nothing of the platform's own.

They speak each protocol as a stranger would, so that what the tests see is what a connector sees.
"""

import asyncio
import itertools
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import iso8583
from lxml import etree

from connectors.simulators.visa_spec import HEADER_SIZE, SPEC

UZCARD_PAN = "8600000000000015"
UZCARD_PAN_2 = "5614680000000014"
HUMO_PAN = "9860000000000018"
VISA_PAN = "4242420000000018"
OPENING_BALANCE = 10**13

_sequence = itertools.count(1)


def unique(prefix: str) -> str:
    """Return a key that no other call returned."""
    return f"{prefix}_{next(_sequence)}"


async def until(happened: Callable[[], Awaitable[bool]], timeout_s: float = 15.0) -> None:
    """Wait until another process has done something that only looking can tell."""
    async with asyncio.timeout(timeout_s):
        while not await happened():  # noqa: ASYNC110 # another process sets no event of ours
            await asyncio.sleep(0.02)


def basic(login: str, password: str) -> str:
    """Return the value of a Basic Authorization header."""
    return f"Basic {b64encode(f'{login}:{password}'.encode()).decode()}"


@dataclass
class Control:
    """The control routes of one scheme."""

    session: aiohttp.ClientSession
    url: str

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Call a control route. Returns: status and JSON."""
        sent = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.session.request(
            method, f"{self.url}/_sim/{path}", **(sent if body is not None else {})
        ) as response:
            return response.status, await response.json(content_type=None)

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        """Call a control route that must succeed. Returns: JSON."""
        status, answer = await self.call(method, path, body)
        assert 200 <= status < 300, answer
        return answer

    async def ledger(self, ref: str | None = None) -> list[dict[str, Any]]:
        """Read the ledger."""
        entries: list[dict[str, Any]] = await self.ok(
            "GET", "ledger" if ref is None else f"ledger?ref={ref}"
        )
        return entries

    async def fault(self, kind: str, **more: Any) -> None:
        """Arm a fault, once unless told otherwise."""
        if "rate" not in more and kind != "by_amount":
            more.setdefault("count", 1)
        await self.ok("POST", "faults", {"kind": kind, **more})

    async def advance(self, seconds: float) -> None:
        """Move the clock."""
        await self.ok("POST", "clock", {"advance_seconds": seconds})

    async def card(self, pan: str, **settings: Any) -> dict[str, Any]:
        """Set a card, or only look at it."""
        shown: dict[str, Any] = await self.ok("POST", "cards", {"pan": pan, **settings})
        return shown

    async def moved(self, pan: str) -> int:
        """Tell by how much a card's balance differs from the opening one."""
        balance: int = (await self.card(pan))["balance"]
        return balance - OPENING_BALANCE


class UzcardClient:
    """JSON-RPC over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)
        self.auth = basic("oqim", "sandbox")

    async def raw(self, body: bytes, auth: str | None = None) -> bytes:
        """Post bytes; the answer's status is always 200."""
        async with self.session.post(
            f"{self.url}/", data=body, headers={"Authorization": auth or self.auth}
        ) as response:
            assert response.status == 200
            return await response.read()

    async def call(self, method: str, params: Any, timeout_s: float = 10.0) -> dict[str, Any]:
        """Call a method. Returns: the whole envelope."""
        request = {"jsonrpc": "2.0", "id": next(_sequence), "method": method, "params": params}
        async with self.session.post(
            f"{self.url}/",
            json=request,
            headers={"Authorization": self.auth},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            assert response.status == 200
            envelope: dict[str, Any] = await response.json()
        assert envelope["jsonrpc"] == "2.0"
        assert envelope["id"] == request["id"]
        return envelope

    async def result(self, method: str, params: Any) -> Any:
        """Call a method that must succeed."""
        envelope = await self.call(method, params)
        assert "error" not in envelope, envelope
        return envelope["result"]

    async def error(self, method: str, params: Any) -> int:
        """Call a method that must be refused. Returns: the code."""
        envelope = await self.call(method, params)
        assert "result" not in envelope
        assert envelope["error"]["message"]
        code: int = envelope["error"]["code"]
        return code

    async def token(self, pan: str) -> str:
        """Return a card's token."""
        info = await self.result("p2p.info", {"hpan": pan})
        token: str = info["CARDID"]
        return token


def pay(token: str, ext: str, amount: int, **more: Any) -> dict[str, Any]:
    """Parameters of `trans.pay.purpose`."""
    return {
        "tran": {
            "purpose": "payment",
            "receiverId": "r",
            "cardId": token,
            "amount": amount,
            "commission": 0,
            "currency": "860",
            "ext": ext,
            "merchantId": "90123456",
            "terminalId": "91234567",
            **more,
        }
    }


def hold(token: str, amount: int, minutes: int = 60) -> dict[str, Any]:
    """Parameters of `hold.create`."""
    return {
        "hold": {
            "cardId": token,
            "merchantId": "90123456",
            "terminalId": "91234567",
            "amount": amount,
            "time": minutes,
        }
    }


def charge(hold_id: int, ext: str, amount: int) -> dict[str, Any]:
    """Parameters of `hold.dismiss.charge`."""
    return {
        "hold": {
            "holdId": hold_id,
            "ext": ext,
            "merchantId": "90123456",
            "terminalId": "91234567",
            "port": "12345",
            "stan": "000001",
            "amount": amount,
            "date12": "261121143000",
        }
    }


@dataclass
class Soap:
    """A SOAP answer, flattened."""

    status: int
    element: str
    fields: dict[str, str]
    details: dict[str, str]
    error: int | None = None


class HumoClient:
    """SOAP and JSON over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)
        self.auth = basic("oqim", "sandbox")

    async def post(self, body: bytes, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Post an envelope. Returns: status and bytes."""
        async with self.session.post(
            f"{self.url}/",
            data=body,
            headers={
                "Authorization": self.auth,
                "Content-Type": "text/xml",
                "SOAPAction": '""',
            },
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            return response.status, await response.read()

    async def call(
        self,
        operation: str,
        fields: Mapping[str, str],
        details: Mapping[str, object] | None = None,
        items: Mapping[str, object] | None = None,
        prefix: str = "ebppif1",
    ) -> Soap:
        """Call an operation."""
        body = envelope(operation, fields, details, items, prefix)
        return read_soap(*await self.post(body))

    async def create(self, biller: str, ref: str, amount: int, **details: object) -> Soap:
        """Create a payment on the usual card."""
        pan = "pan2" if biller.startswith("SOAP_TOCARD") else "pan"
        known: dict[str, object] = {
            pan: HUMO_PAN,
            "expiry": "3012",
            "ccy_code": "860",
            "amount": amount,
            "merchant_id": "M1",
            "terminal_id": "T1",
            "point_code": "100010104110",
            "centre_id": "HUMO",
        }
        fields = {
            "language": "en",
            "billerRef": biller,
            "payinstrRef": biller,
            "sessionID": ref,
            "paymentRef": ref,
            "paymentOriginator": "oqim",
        }
        return await self.call("Payment", fields, {**known, **details})

    async def confirm(self, ref: str, amount: int | None = None) -> Soap:
        """Confirm a payment by its paymentRef."""
        fields = {
            "paymentRef": ref,
            "confirmed": "true",
            "finished": "true",
            "paymentOriginator": "oqim",
        }
        return await self.call("Payment", fields, None if amount is None else {"amount": amount})

    async def request(self, ref: str, pan2: str, amount: int, fee: int | None = None) -> Soap:
        """Create a card-to-card transfer from the usual card."""
        details: dict[str, object] = {
            "pan": HUMO_PAN,
            "expiry": "3012",
            "pan2": pan2,
            "amount": amount,
            "ccy_code": "860",
            "merchant_id": "M1",
            "terminal_id": "T1",
        }
        if fee is not None:
            details["amount_fee"] = fee
        return await self.call("Request", {"paymentRef": ref, "autoSwitch": "1"}, details)

    async def inquire(self, ref: str) -> Soap:
        """Ask for a payment by its paymentRef."""
        return await self.call("GetPayment", {"paymentRef": ref, "sessionID": ""})

    async def cancel(self, ref: str) -> Soap:
        """Cancel an unfinished payment."""
        return await self.call("CancelRequest", {"paymentRef": ref}, prefix="urn")

    async def give_back(self, ref: str, **items: object) -> Soap:
        """Return a finished payment."""
        bare = {"merchant_id": "M1", "centre_id": "HUMO", "terminal_id": "T1", **items}
        return await self.call("ReturnPayment", {"paymentRef": ref}, None, bare, prefix="urn")


def envelope(
    operation: str,
    fields: Mapping[str, str],
    details: Mapping[str, object] | None = None,
    items: Mapping[str, object] | None = None,
    prefix: str = "ebppif1",
) -> bytes:
    """Write a SOAP request."""
    parts = [f"<{name}>{value}</{name}>" for name, value in fields.items()]
    if details is not None:
        parts.append(f"<details>{_items(details)}</details>")
    parts.append(_items(items or {}))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><SOAP-ENV:Envelope '
        'xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/" '
        f'xmlns:{prefix}="urn:PaymentServer"><SOAP-ENV:Body><{prefix}:{operation}>'
        f"{''.join(parts)}</{prefix}:{operation}></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    ).encode()


def _items(values: Mapping[str, object]) -> str:
    return "".join(
        f"<item><name>{name}</name><value>{value}</value></item>" for name, value in values.items()
    )


def read_soap(status: int, body: bytes) -> Soap:
    """Read a SOAP answer."""
    root = etree.fromstring(body)
    element = root[0][0]
    soap = Soap(status, element.tag.rpartition("}")[2], {}, {})
    for child in element:
        soap.fields[child.tag.rpartition("}")[2]] = child.text or ""
    for item in element.iterfind("details/item"):
        soap.details[item.findtext("name")] = item.findtext("value") or ""
    if soap.element == "Fault":
        soap.error = int(element.findtext(".//error"))
    return soap


class VisaClient:
    """One TCP connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> "VisaClient":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    def send(self, doc: dict[str, str]) -> None:
        """Send a message from station 412345."""
        message, _ = iso8583.encode(dict(doc), SPEC)
        total = HEADER_SIZE + len(message)
        length = total.to_bytes(2, "big")
        self.write(
            length
            + b"\0\0\x16\x01\x02"
            + length
            + bytes.fromhex("000000412345")
            + bytes(11)
            + bytes(message)
        )

    async def frame(self, timeout_s: float = 10.0) -> bytes:
        """Read a frame, without its prefix."""
        async with asyncio.timeout(timeout_s):
            prefix = await self._reader.readexactly(4)
            return await self._reader.readexactly(int.from_bytes(prefix[:2], "big"))

    async def message(self, timeout_s: float = 10.0) -> dict[str, str]:
        """Read a message."""
        whole = await self.frame(timeout_s)
        doc, _ = iso8583.decode(whole[HEADER_SIZE:], SPEC)
        return doc

    async def ask(self, doc: dict[str, str]) -> dict[str, str]:
        """Send a message and read the next one."""
        self.send(doc)
        return await self.message()

    async def is_silent(self) -> bool:
        """Tell that nothing was sent before the answer to an echo sent now."""
        reply = await self.ask(network("301"))
        return reply["t"] == "0810"

    async def is_closed(self) -> bool:
        """Tell that the other side closed the connection."""
        async with asyncio.timeout(10.0):
            return await self._reader.read(1) == b""


def trace() -> dict[str, str]:
    """F7, F11 and F37 of a new message."""
    stan = f"{next(_sequence):06d}"
    return {
        "7": time.strftime("%m%d%H%M%S", time.gmtime()),
        "11": stan,
        "37": time.strftime("%y%j%H", time.gmtime())[1:] + stan,
    }


def authorisation(
    amount: int, proc: str = "000000", condition: str = "59", **more: str
) -> dict[str, str]:
    """Fields of a 0100."""
    return {
        "t": "0100",
        "2": VISA_PAN,
        "3": proc,
        "4": f"{amount:012d}",
        **trace(),
        "14": "3012",
        "18": "5999",
        "19": "860",
        "22": "0100",
        "25": condition,
        "32": "412345",
        "41": "TERM0001",
        "42": "MERCHANT0000001",
        "43": f"{'OQIM TEST SHOP':25}{'TASHKENT':13}UZ",
        "49": "860",
        **{name.removeprefix("f"): value for name, value in more.items()},
    }


def about(mti: str, original: dict[str, str], amount: int | None = None) -> dict[str, str]:
    """Fields of a message about `original`, with a trace of its own and F90."""
    return {
        "t": mti,
        "2": original["2"],
        "3": original["3"],
        "4": original["4"] if amount is None else f"{amount:012d}",
        **trace(),
        "37": original["37"],
        "25": original["25"],
        "32": original["32"],
        "41": original["41"],
        "42": original["42"],
        "49": original["49"],
        "90": f"0100{original['11']}{original['7']}{original['32'].zfill(11)}{'0' * 11}",
    }


def network(code: str) -> dict[str, str]:
    """Fields of a 0800."""
    return {"t": "0800", **trace(), "70": code}
