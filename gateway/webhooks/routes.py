"""HTTP in and out of webhooks, and the stream of events."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.core import Core, Refusal
from gateway.kernel.clock import Clock
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, Stream, json_response
from gateway.kernel.http.read import body_as, no_body, optional_body_as, query_as
from gateway.kernel.http.routes import Route
from gateway.webhooks.feed import Feed, Listener, Told
from gateway.webhooks.model import (
    DeliveriesQuery,
    EventsQuery,
    PageQuery,
    Position,
    WebhookDeliveryPage,
    WebhookDeliveryView,
    WebhookEndpointBody,
    WebhookEndpointChange,
    WebhookEndpointPage,
    WebhookEndpointView,
    WebhookEndpointWithSecret,
)
from gateway.webhooks.service import Endpoints

_TAG, _EVENTS_TAG = "webhooks", "events"
_READ, _WRITE, _EVENTS = "webhooks:read", "webhooks:write", "payments:read"
_ENDPOINTS_LIST, _DELIVERIES_LIST, _EVENTS_LIST = (
    "webhook_endpoints",
    "webhook_deliveries",
    "events",
)
_FIRST_ENDPOINT, _FIRST_DELIVERY = "whk_~", "whd_~"
EVENT_STREAM = "text/event-stream"
# A client that lost its stream comes again after so long, unless it knows better.
_RETRY = b"retry: 2000\n"


class _Handlers:
    def __init__(self, endpoints: Endpoints, cursors: Cursors) -> None:
        self._endpoints = endpoints
        self._cursors = cursors

    async def add(self, request: Request) -> Response:
        body = body_as(request, WebhookEndpointBody)
        shown = await self._endpoints.add(request.who.sub, body)
        return json_response(201, shown, (("Location", f"/v1/webhook-endpoints/{shown.id}"),))

    async def page(self, request: Request) -> Response:
        owner = request.who.sub
        page = self._cursors.page(_ENDPOINTS_LIST, query_as(request, PageQuery), owner)
        before = page.position or _FIRST_ENDPOINT
        found = await self._endpoints.page(owner, before=before, limit=page.limit)
        return json_response(200, WebhookEndpointPage(*page.cut(found, lambda one: one.id)))

    async def get(self, request: Request) -> Response:
        return json_response(200, await self._endpoints.get(request.who.sub, request.params["id"]))

    async def change(self, request: Request) -> Response:
        body = optional_body_as(request, WebhookEndpointChange)
        shown = await self._endpoints.change(request.who.sub, request.params["id"], body)
        return json_response(200, shown)

    async def delete(self, request: Request) -> Response:
        no_body(request)
        await self._endpoints.delete(request.who.sub, request.params["id"])
        return Response(204, b"")

    async def rotate(self, request: Request) -> Response:
        no_body(request)
        shown = await self._endpoints.rotate(request.who.sub, request.params["id"])
        return json_response(200, shown)

    async def deliveries(self, request: Request) -> Response:
        query, endpoint_id = query_as(request, DeliveriesQuery), request.params["id"]
        owner = request.who.sub
        page = self._cursors.page(_DELIVERIES_LIST, query, owner, endpoint_id, query.status)
        found = await self._endpoints.deliveries(
            owner,
            endpoint_id,
            before=page.position or _FIRST_DELIVERY,
            status=query.status,
            limit=page.limit,
        )
        return json_response(200, WebhookDeliveryPage(*page.cut(found, lambda one: one.id)))

    async def redeliver(self, request: Request) -> Response:
        no_body(request)
        shown = await self._endpoints.redeliver(
            request.who.sub, request.params["id"], request.params["delivery_id"]
        )
        location = f"/v1/webhook-endpoints/{shown.endpoint}/deliveries"
        return json_response(202, shown, (("Location", location),))


class _EventHandlers:
    def __init__(self, feed: Feed, core: Core, clock: Clock, cursors: Cursors) -> None:
        self._feed = feed
        self._core = core
        self._clock = clock
        self._cursors = cursors

    async def follow(self, request: Request) -> Stream:
        """Answer a stream (WHATWG HTML, server-sent events) that ends with the token."""
        subject = request.who.sub
        sent = request.header("last-event-id") or query_as(request, EventsQuery).after
        after = self._position_of(sent, subject) if sent else None
        listener = await self._feed.join(subject, after)
        return Stream(
            chunks=self._chunks(request, listener),
            content_type=EVENT_STREAM,
            on_end=lambda: self._feed.leave(listener),
        )

    async def _chunks(self, request: Request, listener: Listener) -> AsyncGenerator[bytes, None]:
        left_ms = request.who.exp * 1_000 - self._clock()
        if request.deadline_ms is not None:
            left_ms = min(left_ms, request.deadline_ms)
        ends_at = asyncio.get_running_loop().time() + left_ms / 1_000
        yield _RETRY
        async with aclosing(self._feed.told(listener)) as told:
            while True:
                try:
                    async with asyncio.timeout_at(ends_at):
                        one = await anext(told)
                except (TimeoutError, StopAsyncIteration):
                    return
                if not self._is_allowed(request):
                    return
                yield self._block(one, listener.subject)

    def _is_allowed(self, request: Request) -> bool:
        """Whether the token is still good: it may be revoked while its stream is open."""
        claims = self._core.authorize(request.raw_headers, _EVENTS, self._clock())
        return not isinstance(claims, Refusal)

    def _block(self, told: Told, subject: str) -> bytes:
        """Return one block. One with an id alone is no event: it moves where a client goes on."""
        xid, number = told.position
        cursor = self._cursors.encode(f"{xid}.{number}", list_name=_EVENTS_LIST, bound_to=subject)
        if told.event is None:
            return f": alive\nid: {cursor}\n\n".encode()
        head = f"id: {cursor}\nevent: {told.event.type}\ndata: ".encode()
        return head + told.event.body() + b"\n\n"

    def _position_of(self, cursor: str, subject: str) -> Position:
        text = self._cursors.decode(cursor, list_name=_EVENTS_LIST, bound_to=subject)
        xid, _, number = text.partition(".")
        return xid, int(number)


def routes(
    *, endpoints: Endpoints, feed: Feed, core: Core, clock: Clock, cursors: Cursors
) -> list[Route]:
    """Return the routes of webhook endpoints and of events."""
    handlers = _Handlers(endpoints, cursors)
    events = _EventHandlers(feed, core, clock, cursors)
    one = "/v1/webhook-endpoints/{id}"
    return [
        Route(
            method="POST",
            path="/v1/webhook-endpoints",
            handler=handlers.add,
            summary="Add a webhook endpoint; its secret is shown this once",
            tag=_TAG,
            scope=_WRITE,
            priority=Priority.READ,
            body=WebhookEndpointBody,
            answers={201: WebhookEndpointWithSecret},
            problems=("url-not-allowed", "webhook-limit-reached"),
        ),
        Route(
            method="GET",
            path="/v1/webhook-endpoints",
            handler=handlers.page,
            summary="List webhook endpoints, newest first",
            tag=_TAG,
            scope=_READ,
            priority=Priority.READ,
            query=PageQuery,
            answers={200: WebhookEndpointPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path=one,
            handler=handlers.get,
            summary="Get a webhook endpoint",
            tag=_TAG,
            scope=_READ,
            priority=Priority.READ,
            answers={200: WebhookEndpointView},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path=one,
            handler=handlers.change,
            summary="Change a webhook endpoint, switch it off or on",
            tag=_TAG,
            scope=_WRITE,
            priority=Priority.READ,
            body=WebhookEndpointChange,
            answers={200: WebhookEndpointView},
            problems=("not-found", "url-not-allowed"),
        ),
        Route(
            method="DELETE",
            path=one,
            handler=handlers.delete,
            summary="Remove a webhook endpoint and what is kept of its deliveries",
            tag=_TAG,
            scope=_WRITE,
            priority=Priority.READ,
            answers={204: None},
            problems=("not-found",),
        ),
        Route(
            method="POST",
            path=f"{one}/rotate-secret",
            handler=handlers.rotate,
            summary="Make a new secret; the one before signs as well for a day",
            tag=_TAG,
            scope=_WRITE,
            priority=Priority.READ,
            answers={200: WebhookEndpointWithSecret},
            problems=("not-found",),
        ),
        Route(
            method="GET",
            path=f"{one}/deliveries",
            handler=handlers.deliveries,
            summary="List deliveries to a webhook endpoint, newest first",
            tag=_TAG,
            scope=_READ,
            priority=Priority.READ,
            query=DeliveriesQuery,
            answers={200: WebhookDeliveryPage},
            problems=("not-found", "invalid-query", "invalid-cursor"),
        ),
        Route(
            method="POST",
            path=f"{one}/deliveries/{{delivery_id}}/redeliver",
            handler=handlers.redeliver,
            summary="Send a delivery again, under the same id",
            tag=_TAG,
            scope=_WRITE,
            priority=Priority.READ,
            answers={202: WebhookDeliveryView},
            problems=("not-found", "webhook-disabled"),
        ),
        Route(
            method="GET",
            path="/v1/events",
            handler=events.follow,
            summary="Follow what happens to your payments (server-sent events)",
            tag=_EVENTS_TAG,
            scope=_EVENTS,
            priority=Priority.READ,
            query=EventsQuery,
            answers={200: None},
            problems=("invalid-query", "invalid-cursor", "rate-limited"),
            media_type=EVENT_STREAM,
        ),
    ]
