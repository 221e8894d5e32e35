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
        page = query_as(request, CardsQuery)
        owner = request.who.sub
        before = None
        if page.cursor is not None:
            before = self._cursors.decode(page.cursor, list_name=_LIST, bound_to=owner)
        cards = await self._cards.page(owner, before=before, limit=page.limit + 1)
        shown = cards[: page.limit]
        following = None
        if len(cards) > page.limit:
            following = self._cursors.encode(shown[-1].id, list_name=_LIST, bound_to=owner)
        return json_response(200, CardList(shown, following))

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
