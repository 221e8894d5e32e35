"""What every instance answers about itself: health, metrics, its own reference.

It owns no state. What readiness depends on is passed in as named checks, so that the kernel knows
no room. Nothing here is authorized: keep `/metrics` and `/readyz` behind the balancer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from gateway.kernel.http import pages
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.edge import PAGE_HEADERS
from gateway.kernel.http.messages import JSON, Request, Response, json_response
from gateway.kernel.http.openapi import document
from gateway.kernel.http.problems import KINDS, Problem
from gateway.kernel.http.routes import Route

log = structlog.get_logger("system")

Check = Callable[[], Awaitable[bool]]
"""True when what it looks at can be used. Raising, or taking too long, is False."""

Exposition = Callable[[], Awaitable[bytes]]
"""Makes the metrics' text, in Prometheus' format."""

CHECK_TIMEOUT_S = 2.0
_TAG = "system"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_HTML = "text/html; charset=utf-8"


class AliveView(msgspec.Struct):
    status: str


class ReadyView(msgspec.Struct):
    """Each check by its name, `ok`."""

    status: str
    checks: dict[str, str]


class ProblemKindView(msgspec.Struct):
    """What a problem's `type` leads to."""

    type: str
    title: str
    status: int
    code: str
    retryable: bool
    advice: str


class ProblemKindList(msgspec.Struct):
    data: list[ProblemKindView]
    next_cursor: str | None


class System:
    """The handlers.

    Args:
        checks: what must be usable before a request is worth sending here.
    """

    def __init__(self, *, metrics: Exposition, checks: Mapping[str, Check]) -> None:
        self._metrics = metrics
        self._checks = checks
        self._document = b""
        self._docs = b""

    def describe(self, routes: Sequence[Route], version: str) -> None:
        """Make the document and its page once: the routes do not change while we run."""
        described = document(routes, version)
        self._document = msgspec.json.encode(described)
        self._docs = pages.docs(described).encode()

    async def livez(self, request: Request) -> Response:
        return json_response(200, AliveView("alive"))

    async def readyz(self, request: Request) -> Response:
        names = list(self._checks)
        answers = await asyncio.gather(*(_is_usable(name, self._checks[name]) for name in names))
        away = [name for name, is_usable in zip(names, answers, strict=True) if not is_usable]
        if away:
            raise Problem("unavailable", f"Away: {', '.join(away)}.")
        return json_response(200, ReadyView("ready", dict.fromkeys(names, "ok")))

    async def metrics(self, request: Request) -> Response:
        return Response(200, await self._metrics(), content_type=_EXPOSITION)

    async def openapi(self, request: Request) -> Response:
        return Response(200, self._document)

    async def docs(self, request: Request) -> Response:
        return _page(self._docs)

    async def problem(self, request: Request) -> Response:
        kind = KINDS.get(request.params["slug"])
        if kind is None:
            raise Problem("not-found", "There is no such problem.")
        if _prefers_json(request.header("accept") or ""):
            return json_response(200, _kind_view(kind.slug))
        return _page(pages.problem(kind).encode())

    async def problems(self, request: Request) -> Response:
        if _prefers_json(request.header("accept") or ""):
            return json_response(200, ProblemKindList([_kind_view(slug) for slug in KINDS], None))
        return _page(pages.problems().encode())


async def _is_usable(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            is_usable = await check()
    except Exception as error:
        # Whatever went wrong, the answer is the same, and the reason is in the log.
        log.warning("a readiness check failed", check=name, error=repr(error))
        return False
    return is_usable


def _prefers_json(accept: str) -> bool:
    """Whether JSON is asked for before HTML; a caller that takes anything gets the page."""
    offered = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    for part in offered:
        if part in (JSON, "application/problem+json"):
            return True
        if part in ("text/html", "text/*", "*/*"):
            return False
    return False


def _kind_view(slug: str) -> ProblemKindView:
    kind = KINDS[slug]
    return ProblemKindView(
        type=f"/problems/{slug}",
        title=kind.title,
        status=kind.status,
        code=slug,
        retryable=kind.retryable,
        advice=pages.ADVICE[slug],
    )


def _page(html: bytes) -> Response:
    headers = (("Content-Security-Policy", pages.POLICY), *PAGE_HEADERS)
    return Response(200, html, headers, content_type=_HTML)


def routes(
    rooms: Sequence[Route],
    *,
    version: str,
    metrics: Exposition,
    checks: Mapping[str, Check],
) -> list[Route]:
    """Return the system's routes; the document they serve holds `rooms` and themselves.

    Args:
        rooms: every other route of the process.
        version: of the product.
        metrics: makes the text for Prometheus.
        checks: see `Check`; each gets `CHECK_TIMEOUT_S`, all run at once.
    """
    system = System(metrics=metrics, checks=checks)
    own = [*_health_routes(system), *_reference_routes(system)]
    system.describe([*rooms, *own], version)
    return own


def _health_routes(system: System) -> list[Route]:
    return [
        Route(
            method="GET",
            path="/livez",
            handler=system.livez,
            summary="Whether the process runs; restart it when this is not answered",
            tag=_TAG,
            scope=None,
            priority=Priority.SYSTEM,
            answers={200: AliveView},
        ),
        Route(
            method="GET",
            path="/readyz",
            handler=system.readyz,
            summary="Whether requests are worth sending here, and what is away if not",
            tag=_TAG,
            scope=None,
            priority=Priority.SYSTEM,
            answers={200: ReadyView},
            problems=("unavailable",),
        ),
        Route(
            method="GET",
            path="/metrics",
            handler=system.metrics,
            summary="Counters and latencies of every worker of this host, for Prometheus",
            tag=_TAG,
            scope=None,
            priority=Priority.SYSTEM,
            answers={200: None},
            media_type="text/plain",
        ),
    ]


def _reference_routes(system: System) -> list[Route]:
    return [
        Route(
            method="GET",
            path="/openapi.json",
            handler=system.openapi,
            summary="This document",
            tag=_TAG,
            scope=None,
            priority=Priority.READ,
            answers={200: dict[str, Any]},
        ),
        Route(
            method="GET",
            path="/docs",
            handler=system.docs,
            summary="This document as a page",
            tag=_TAG,
            scope=None,
            priority=Priority.READ,
            answers={200: None},
            media_type="text/html",
        ),
        Route(
            method="GET",
            path="/problems",
            handler=system.problems,
            summary="Every problem there is, as a page or as JSON",
            tag=_TAG,
            scope=None,
            priority=Priority.READ,
            answers={200: ProblemKindList},
            media_type="text/html",
        ),
        Route(
            method="GET",
            path="/problems/{slug}",
            handler=system.problem,
            summary="What a problem means and what to do about it, as a page or as JSON",
            tag=_TAG,
            scope=None,
            priority=Priority.READ,
            answers={200: ProblemKindView},
            problems=("not-found",),
            media_type="text/html",
        ),
    ]
