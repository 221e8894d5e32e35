"""Reports are fetched whole or not had: page by page, from a place on the net, from a folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from connectors.spi import Outcome, Result
from connectors.spi.reports import (
    ReportUnavailable,
)
from connectors.transport.faults import NotSent, OutcomeUnknown
from connectors.transport.flow import Ended
from connectors.transport.places import Place
from connectors.uzcard import codec
from connectors.uzcard.client import SvgateClient
from connectors.uzcard.reports import UzcardReports
from tests.reconciliation.files import (
    uzcard_row,
    visa_file,
    visa_row,
)
from tests.reconciliation.test_reports import DAY, NOWHERE, RRN, read_uzcard, visa


class Svgate:
    """An SVGate that answers `report.detail` with pages given to it."""

    def __init__(self, pages: list[Any]) -> None:
        self._pages = pages
        self.asked: list[tuple[int, str, str]] = []

    def deadline(self) -> float:
        return 0.0

    async def call(self, method: str, params: Any, reference: str, deadline: float) -> codec.Reply:
        assert method == "report.detail"
        order = params["report"]
        span = order["range"]
        self.asked.append((order["pageNumber"], span["from"], span["to"]))
        page = self._pages[order["pageNumber"]]
        if isinstance(page, Exception):
            raise page
        return page if isinstance(page, codec.Reply) else codec.Reply(result=page)


def page(rows: list[Any], total: int, *, is_last: bool) -> dict[str, Any]:
    return {"content": rows, "totalElements": total, "last": is_last}


async def fetched(pages: list[Any]) -> tuple[bytes, Svgate]:
    client = Svgate(pages)
    reports = UzcardReports(cast(SvgateClient, client))
    return b"".join([part async for part in reports.fetch(DAY)]), client


async def test_pages_of_a_report_are_one_report() -> None:
    """Asked for in order, of that day alone, and the same bytes as a file of them."""
    rows = [uzcard_row(DAY, f"att_{number}", number) for number in range(1, 6)]
    pages = [page(rows[:2], 5, is_last=False), page(rows[2:], 5, is_last=True)]
    got, client = await fetched(pages)
    assert client.asked == [(0, "20261121", "20261121"), (1, "20261121", "20261121")]
    assert [line.reference for line in read_uzcard(got)] == [f"att_{n}" for n in range(1, 6)]
    empty, _ = await fetched([page([], 0, is_last=True)])
    assert read_uzcard(empty) == []


BAD_PAGES = {
    "a refusal": [codec.Reply(error=-103)],
    "no answer": [OutcomeUnknown("timeout")],
    "nobody there": [NotSent("connect-failed")],
    "not let in": [Ended(Result(outcome=Outcome.AUTH_CLIENT, processor_code="http-401"))],
    "no page": [[1]],
    "no rows": [{"content": None, "totalElements": 1, "last": True}],
    "no count": [{"content": [], "last": True}],
    "a count that is a text": [{"content": [], "totalElements": "0", "last": True}],
    "more rows than asked for": [page([{}] * 501, 501, is_last=True)],
    "a row too few": [page([{}], 2, is_last=True)],
    "a page that is empty before the end": [
        page([{}], 2, is_last=False),
        page([], 2, is_last=False),
    ],
    "a row that came meanwhile": [page([{}], 2, is_last=False), page([{}], 3, is_last=False)],
}


@pytest.mark.parametrize("case", BAD_PAGES)
async def test_a_report_that_does_not_come_whole_is_not_had(case: str) -> None:
    """Whatever is wrong with it, it can be asked for again."""
    with pytest.raises(ReportUnavailable):
        await fetched(BAD_PAGES[case])


async def answer(request: web.Request) -> web.StreamResponse:
    """A place that behaves as its path says."""
    way = request.path.strip("/")
    if way == "moved":
        raise web.HTTPFound("/good")
    if way == "packed":
        return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})
    if way == "cut":
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response
    if way == "silent":
        await asyncio.Event().wait()
    if way == "absent":
        raise web.HTTPNotFound
    assert request.query["day"] == DAY.isoformat()
    return web.Response(body=b"y" * 1_000)


@pytest.fixture
async def place_url() -> AsyncIterator[str]:
    """The address of such places."""
    app = web.Application()
    app.router.add_get("/{way}", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize("way", ["moved", "packed", "cut", "silent", "absent", "large"])
async def test_a_place_that_misbehaves_has_no_report(place_url: str, way: str) -> None:
    """It is followed nowhere, unpacked never, waited for a while, and taken whole or not."""
    bytes_max = 999 if way == "large" else 1_000
    place = Place(address=f"{place_url}/{way}", timeout_ms=300, bytes_max=bytes_max)
    with pytest.raises(ReportUnavailable):
        _ = [part async for part in visa(place).fetch(DAY)]


async def test_a_place_that_behaves_has_one(place_url: str) -> None:
    """Asked for the day, given in parts."""
    place = Place(address=f"{place_url}/good", timeout_ms=5_000, bytes_max=1_000)
    got = b"".join([part async for part in visa(place).fetch(DAY)])
    assert got == b"y" * 1_000


async def test_a_folder_is_a_place_and_nothing_is_told_apart_from_absence(tmp_path: Path) -> None:
    """The file is called by connector and day; one that is not there is not had."""
    file = visa_file([visa_row(DAY, RRN, 5)])
    (tmp_path / f"visa-{DAY}.csv").write_bytes(file)
    place = Place(address=str(tmp_path), timeout_ms=1_000, bytes_max=1 << 20)
    got = b"".join([part async for part in visa(place).fetch(DAY)])
    assert got == file
    small = Place(address=str(tmp_path), timeout_ms=1_000, bytes_max=len(file) - 1)
    for wrong, day in (
        (place, DAY + timedelta(days=1)),
        (NOWHERE, DAY),
        (small, DAY),
        (Place(address="http://127.0.0.1:9/", timeout_ms=1_000, bytes_max=1), DAY),
    ):
        with pytest.raises(ReportUnavailable):
            _ = [part async for part in visa(wrong).fetch(day)]
