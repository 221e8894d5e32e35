"""HTTP in and out of cards."""

from gateway.cards.model import AddCard, Card, CardList, CardsQuery, VerifyCard
from gateway.cards.service import CardService
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.read import body_as, no_body, query_as
from gateway.kernel.http.routes import Route

_LIST = "cards"
_ISSUER = ("card-refused", "processor-unavailable")


class _Handlers:
    def __init__(self, cards: CardService, cursors: Cursors) -> None:
        self._cards = cards
        self._cursors = cursors

    async def add(self, request: Request) -> Response:
        body = body_as(request, AddCard)
        card = await self._cards.add(request.who.sub, body)
        return json_response(201, card, (("Location", f"/v1/cards/{card.id}"),))

    async def verify(self, request: Request) -> Response:
        body = body_as(request, VerifyCard)
        card = await self._cards.verify(request.who.sub, request.params["id"], body.code)
        return json_response(200, card)

    async def get(self, request: Request) -> Response:
        return json_response(200, await self._cards.get(request.who.sub, request.params["id"]))

    async def list(self, request: Request) -> Response:
        owner = request.who.sub
        page = self._cursors.page(_LIST, query_as(request, CardsQuery), owner)
        cards = await self._cards.page(owner, before=page.position, limit=page.limit)
        return json_response(200, CardList(*page.cut(cards, lambda one: one.id)))

    async def delete(self, request: Request) -> Response:
        no_body(request)
        await self._cards.delete(request.who.sub, request.params["id"])
        return Response(204, b"")


def routes(*, cards: CardService, cursors: Cursors) -> list[Route]:
    """Return the routes of cards."""
    handlers = _Handlers(cards, cursors)
    return [
        Route(
            method="POST",
            path="/v1/cards",
            handler=handlers.add,
            summary="Add a card, or send another code for one that waits",
            tag="Cards",
            scope="cards:write",
            priority=Priority.PAYMENT,
            body=AddCard,
            answers={201: Card},
            problems=(
                "invalid-cvv",
                "invalid-pan",
                "unsupported-scheme",
                "invalid-expiry",
                "card-already-added",
                "card-limit-reached",
                "otp-locked",
                *_ISSUER,
            ),
        ),
        Route(
            method="POST",
            path="/v1/cards/{id}/verify",
            handler=handlers.verify,
            summary="Make a card active with the code that was sent",
            tag="Cards",
            scope="cards:write",
            priority=Priority.PAYMENT,
            body=VerifyCard,
            answers={200: Card},
            problems=(
                "not-found",
                "invalid-state",
                "otp-locked",
                "otp-expired",
                "otp-invalid",
                *_ISSUER,
            ),
        ),
        Route(
            method="GET",
            path="/v1/cards",
            handler=handlers.list,
            summary="List the cards of a customer",
            tag="Cards",
            scope="cards:read",
            priority=Priority.READ,
            query=CardsQuery,
            answers={200: CardList},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path="/v1/cards/{id}",
            handler=handlers.get,
            summary="Show a card",
            tag="Cards",
            scope="cards:read",
            priority=Priority.READ,
            answers={200: Card},
            problems=("not-found",),
        ),
        Route(
            method="DELETE",
            path="/v1/cards/{id}",
            handler=handlers.delete,
            summary="Remove a card",
            tag="Cards",
            scope="cards:write",
            priority=Priority.PAYMENT,
            answers={204: None},
            problems=("not-found",),
        ),
    ]
