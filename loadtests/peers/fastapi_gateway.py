"""The usual way by another road: FastAPI, SQLAlchemy 2 (async, over asyncpg), redis-py, uvicorn.

The same request, answer, checks, limits, commission, durability and books as the usual gateway's
(usual_gateway.py says what is the same as in the gateway that is measured, and what is not). What
is other than there: pydantic reads the body and FastAPI's injection the headers; rows are mapped
classes that a session writes; uvicorn serves, with one worker on uvloop and httptools. Redis,
tokens (PyJWT) and the call of the processor (aiohttp's client) are the idiomatic usual gateway's.

    python -m loadtests.peers.fastapi_gateway var/sandbox.json seeded.json
"""

import asyncio
import gc
import json
import socket
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import uvicorn
import uvloop
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, DateTime, MetaData, select, update
from sqlalchemy.dialects.postgresql import JSON, insert
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from loadtests.peers.usual_flow import (
    AMOUNT_MAX,
    DESCRIPTION_MAX,
    Found,
    Gateway,
    Ground,
    Payment,
    Refused,
    begin,
)
from loadtests.peers.usual_gateway import open_ground

# As the idiomatic usual gateway has.
POOL_SIZE = 20
JSON_TYPE, PROBLEM_TYPE = "application/json", "application/problem+json"


class Base(DeclarativeBase):
    """Tables of the usual gateway's schema."""

    metadata = MetaData(schema="usual")
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSON,
    }


class CardRow(Base):
    __tablename__ = "cards"
    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    scheme: Mapped[str]
    token_sealed: Mapped[bytes]
    status: Mapped[str]


class MerchantRow(Base):
    __tablename__ = "merchants"
    id: Mapped[str] = mapped_column(primary_key=True)
    acceptor_id: Mapped[str]
    terminal_id: Mapped[str]
    mcc: Mapped[str]


class PaymentRow(Base):
    __tablename__ = "payments"
    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    owner: Mapped[str]
    client_id: Mapped[str]
    operation: Mapped[str]
    scheme: Mapped[str]
    amount_minor: Mapped[int]
    currency: Mapped[str]
    source_card_id: Mapped[str]
    merchant_id: Mapped[str]
    commission_total: Mapped[int]
    commission_vat: Mapped[int]
    total_debit: Mapped[int]
    total_credit: Mapped[int]
    details: Mapped[dict[str, Any]]
    status: Mapped[str]
    decline_code: Mapped[str | None]
    response_status: Mapped[int | None]
    response_body: Mapped[str | None]
    updated_at: Mapped[datetime]


class AttemptRow(Base):
    __tablename__ = "attempts"
    id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str]
    connector: Mapped[str]
    state: Mapped[str]
    rrn: Mapped[str | None]
    approval_code: Mapped[str | None]
    processor_code: Mapped[str | None]


class KeyRow(Base):
    __tablename__ = "idempotency_keys"
    scope: Mapped[bytes] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    payment_id: Mapped[str]


class PostingRow(Base):
    __tablename__ = "postings"
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str]
    amount_minor: Mapped[int]
    currency: Mapped[str]


class EventRow(Base):
    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    payment_id: Mapped[str]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]


class Source(BaseModel):
    card: str


class Destination(BaseModel):
    merchant: str


class Order(BaseModel):
    """The body of a payment; what else is in it takes part in its fingerprint."""

    model_config = ConfigDict(extra="allow", strict=True)

    operation: Literal["purchase"]
    amount: Annotated[int, Field(gt=0, le=AMOUNT_MAX)]
    currency: Literal["UZS"]
    source: Source
    destination: Destination
    capture: Literal["automatic"] = "automatic"
    description: Annotated[str | None, Field(max_length=DESCRIPTION_MAX)] = None
    metadata: dict[str, str] | None = None


class Replayed(Exception):
    """The key has an answer: this one."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class FastApiGateway(Gateway):
    """The idiomatic flow, its rows written by sessions."""

    def __init__(self, ground: Ground, sessions: async_sessionmaker[AsyncSession]) -> None:
        super().__init__(ground)
        self._sessions = sessions

    async def order(self, order: Order, authorization: str, key: str) -> tuple[int, bytes]:
        """Pay; returns status and body. Raises Refused and Replayed."""
        claims = self.verify(authorization)
        payment = begin(claims, order.model_dump(exclude_unset=True), key)
        found = await self.find(payment)
        await self.reserve(payment)
        if not await self.open(payment):
            # The key was taken between the look and the insert.
            await self.give_back(payment)
            await self.find(payment)
            raise Refused(409, "idempotency-in-progress")
        code = await self.ask_processor(payment, found)
        if payment.status == "failed":
            await self.give_back(payment)
        status = 202 if payment.status == "processing" else 201
        body = self.dumps(payment.answer())
        await self.end(payment, code, status, body.decode())
        return status, body

    async def find(self, payment: Payment) -> Found:
        """Return the card and the merchant. Raises Refused, and Replayed when the key is known."""
        known = (
            select(KeyRow.fingerprint, PaymentRow.response_status, PaymentRow.response_body)
            .join(PaymentRow, PaymentRow.id == KeyRow.payment_id)
            .where(KeyRow.scope == payment.scope)
        )
        async with self._sessions() as session:
            row = (await session.execute(known)).one_or_none()
            if row is not None:
                fingerprint, status, body = row
                if fingerprint != payment.fingerprint:
                    raise Refused(422, "idempotency-key-reused")
                if status is None:
                    raise Refused(409, "idempotency-in-progress")
                raise Replayed(status, body)
            card = await session.get(CardRow, payment.card)
            if card is None or card.owner != payment.claims.sub:
                raise Refused(404, "card-not-found")
            if card.status != "active" or card.scheme != "uzcard":
                raise Refused(422, "card-not-usable")
            merchant = await session.get(MerchantRow, payment.merchant)
            if merchant is None:
                raise Refused(404, "merchant-not-found")
            return Found(card.token_sealed, merchant.acceptor_id, merchant.terminal_id)

    async def open(self, payment: Payment) -> bool:
        key = (
            insert(KeyRow)
            .values(scope=payment.scope, fingerprint=payment.fingerprint, payment_id=payment.id)
            .on_conflict_do_nothing()
            .returning(KeyRow.scope)
        )
        async with self._sessions.begin() as session:
            if (await session.execute(key)).one_or_none() is None:
                return False
            session.add_all(_intent(payment))
        return True

    async def end(self, payment: Payment, code: str | None, status: int, body: str) -> None:
        state = "authorized" if payment.status == "succeeded" else payment.status
        async with self._sessions.begin() as session:
            await session.execute(
                update(PaymentRow)
                .where(PaymentRow.id == payment.id)
                .values(
                    status=payment.status,
                    decline_code=payment.decline,
                    response_status=status,
                    response_body=body,
                    updated_at=datetime.now(tz=UTC),
                )
            )
            await session.execute(
                update(AttemptRow)
                .where(AttemptRow.id == payment.attempt_id)
                .values(
                    state=state,
                    rrn=payment.rrn,
                    approval_code=payment.approval_code,
                    processor_code=code,
                )
            )
            if payment.status == "succeeded":
                names = ("entry_id", "line", "account", "amount_minor", "currency")
                session.add_all(
                    PostingRow(**dict(zip(names, one, strict=True))) for one in payment.postings()
                )
            event = f"payment.{payment.status}"
            session.add(EventRow(payment_id=payment.id, type=event, data=json.loads(body)))


def _intent(payment: Payment) -> list[Base]:
    total = payment.commission + payment.vat
    return [
        PaymentRow(
            id=payment.id,
            created_at=payment.created_at,
            owner=payment.claims.sub,
            client_id=payment.claims.client_id,
            operation="purchase",
            scheme="uzcard",
            amount_minor=payment.amount,
            currency="UZS",
            source_card_id=payment.card,
            merchant_id=payment.merchant,
            commission_total=total,
            commission_vat=payment.vat,
            total_debit=payment.amount,
            total_credit=payment.amount - total,
            details=payment.details,
            status="processing",
            updated_at=payment.created_at,
        ),
        AttemptRow(id=payment.attempt_id, payment_id=payment.id, connector="uzcard", state="sent"),
    ]


def make_app(gateway: FastApiGateway) -> FastAPI:
    """Return the application: one route, and problems as the other gateway tells them."""
    app = FastAPI(openapi_url=None)

    @app.post("/v1/payments")
    async def pay(
        order: Order,
        authorization: Annotated[str, Header()] = "",
        idempotency_key: Annotated[str, Header()] = "",
    ) -> Response:
        status, body = await gateway.order(order, authorization, idempotency_key)
        return Response(body, status, media_type=JSON_TYPE)

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Refused) -> Response:
        body = gateway.dumps({"status": refused.status, "code": refused.slug})
        return Response(body, refused.status, media_type=PROBLEM_TYPE)

    @app.exception_handler(Replayed)
    async def replay(request: Request, replayed: Replayed) -> Response:
        headers = {"Idempotent-Replayed": "true"}
        return Response(replayed.body, replayed.status, headers, JSON_TYPE)

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        return await refuse(request, Refused(400, "invalid-body"))

    return app


async def _open_all(engine: AsyncEngine) -> None:
    """Open every connection of the pool, as the usual gateway's is opened at its start."""
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            await stack.enter_async_context(engine.connect())


async def serve(sandbox: dict[str, Any], seeded: dict[str, Any]) -> None:
    """Serve on a port of the machine's choice until standard input ends; print the port."""
    async with AsyncExitStack() as stack:
        ground = await open_ground(sandbox, seeded, stack)
        url = sandbox["database_url"].replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)
        stack.push_async_callback(engine.dispose)
        await _open_all(engine)
        gateway = FastApiGateway(ground, async_sessionmaker(engine, expire_on_commit=False))
        listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        stack.callback(listening.close)
        config = uvicorn.Config(
            make_app(gateway),
            loop="none",
            http="httptools",
            lifespan="off",
            ws="none",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=75,
            backlog=4096,
        )
        server = uvicorn.Server(config)
        gc.collect()
        gc.freeze()
        print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving


def main() -> None:
    """Serve, on uvloop."""
    sandbox, seeded = (json.loads(Path(path).read_text()) for path in sys.argv[1:3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sandbox, seeded))


if __name__ == "__main__":
    main()
