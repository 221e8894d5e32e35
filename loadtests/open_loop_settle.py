"""Asks again for payments of which nothing is known, until all are."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from open_loop_requests import Requests
from open_loop_told import PAYMENT, Records
from wire import length_of, payment_id

SETTLING_AT_ONCE = 32
SETTLE_AGAIN_S = 0.25


def is_unknown(status: int) -> bool:
    """Return whether an answer leaves open what became of a payment.

    A 503 does not: nothing was sent.
    """
    return not (200 <= status < 300 or 400 <= status < 500 or status == 503)


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of asking again.

    Attributes:
        unknown: how many payments there were.
        still_unknown: of how many nothing is known yet.
        ids: of those that are known now.
    """

    unknown: int
    still_unknown: int
    seconds: float
    ids: list[bytes]


async def settle(port: int, requests: Requests, records: Records, within_s: float) -> Settled:
    """Ask again for payments of which nothing is known, each with its key, until all are.

    Args:
        within_s: how long at most.
    """
    began_s = time.perf_counter()
    unknown = [
        number
        for number, status in enumerate(records.statuses)
        if records.kinds[number] == PAYMENT and is_unknown(status)
    ]
    waiting, slots = set(unknown), asyncio.Semaphore(SETTLING_AT_ONCE)
    ids: list[bytes] = []

    async def one(number: int) -> None:
        while True:
            async with slots:
                status, known_id = await _ask_once(port, requests.request(number))
            if status in (200, 201, 202):
                ids.append(known_id)
            if 200 <= status < 300 or (400 <= status < 500 and status not in (409, 429)):
                waiting.discard(number)
                return
            await asyncio.sleep(SETTLE_AGAIN_S)

    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(one(number) for number in unknown))
    return Settled(len(unknown), len(waiting), time.perf_counter() - began_s, ids)


async def _ask_once(port: int, request: bytes) -> tuple[int, bytes]:
    """Send a request on a connection of its own; returns status (0: no answer) and payment id."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, b""
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(length_of(head, len(head)) or 0)
        return int(head[9:12]), payment_id(body, 0)
    except (OSError, asyncio.IncompleteReadError):
        return 0, b""
    finally:
        writer.transport.abort()
