"""Where a processor leaves its files: an http(s) URL asked for a day, or a folder.

Reads and never writes. A file is given in parts, so that its size is nobody's memory; it is as
large as its bound at most and comes within its deadline, or it is not believed.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import aiohttp

from connectors.spi.reports import ReportUnavailable
from connectors.transport.settings import SettingsReader

_PART_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place; every member is a setting of the same name, after `report_`.

    Args:
        address: `http(s)://...`, asked with `?day=YYYY-MM-DD`; or a folder, in which the file is
            called `<connector>-<day>.<suffix>`; empty: there is none.
        timeout_ms: for the whole of a file.
        bytes_max: of a whole file.
        tls: verified client context, when the address is https and has its own.
    """

    address: str
    timeout_ms: int
    bytes_max: int
    tls: ssl.SSLContext | None = None


def read_place(reader: SettingsReader, tls: ssl.SSLContext | None) -> Place:
    """Take a place's settings out of a connector's section. Raises ValueError naming the key."""
    return Place(
        address=reader.text("report_place", "", pattern=r"(https?://[!-~]+|/[ -~]+)?"),
        timeout_ms=reader.integer("report_timeout_ms", 300_000, least=1_000, most=3_600_000),
        bytes_max=reader.integer("report_bytes_max", 1 << 30, least=1 << 10, most=1 << 34),
        tls=tls,
    )


async def fetch(place: Place, file_name: str, day: date) -> AsyncIterator[bytes]:
    """Give the bytes of a day's file in parts.

    Args:
        file_name: what it is called in a folder.

    Raises:
        ReportUnavailable: there is no place, or no file in it, or it broke off.
    """
    if not place.address:
        raise ReportUnavailable("no place is configured that it could come from")
    if place.address.startswith("/"):
        async for part in _read(Path(place.address) / file_name, place.bytes_max):
            yield part
        return
    async for part in _get(place, day):
        yield part


async def _get(place: Place, day: date) -> AsyncIterator[bytes]:
    timeout = aiohttp.ClientTimeout(total=place.timeout_ms / 1000, connect=10.0)
    size = 0
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.get(
                place.address,
                params={"day": day.isoformat()},
                headers={"Accept-Encoding": "identity"},
                allow_redirects=False,
                ssl=place.tls or True,
            ) as answer,
        ):
            if answer.status != 200 or answer.headers.get("Content-Encoding", "identity") != (
                "identity"
            ):
                raise ReportUnavailable(f"the place answered {answer.status}")
            async for part in answer.content.iter_chunked(_PART_BYTES):
                size += len(part)
                _check(size, place.bytes_max)
                yield part
    except TimeoutError:
        raise ReportUnavailable("it did not come in time") from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise ReportUnavailable("the place cannot be reached, or broke off") from None


async def _read(path: Path, bytes_max: int) -> AsyncIterator[bytes]:
    size = 0
    try:
        with path.open("rb") as file:  # read in threads, below
            while part := await asyncio.to_thread(file.read, _PART_BYTES):
                size += len(part)
                _check(size, bytes_max)
                yield part
    except OSError:
        raise ReportUnavailable(f"{path.name} cannot be read") from None


def _check(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise ReportUnavailable(f"it is larger than {bytes_max} bytes")
