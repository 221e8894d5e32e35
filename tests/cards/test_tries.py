"""How many numbers a customer may try: somebody with a list of stolen cards learns little."""

from __future__ import annotations

import asyncio

import pytest

from connectors.spi import CardCheck, Outcome
from gateway.settings import load
from tests.cards.test_cards import _add, _token
from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Reply, Worker, pan, running_worker

SETTINGS = load({}).cards
OTHER = "+998901234568"


async def _asked(worker: Worker, scheme: str = "visa") -> int:
    return len(worker.issuers[scheme].asked)


async def test_numbers_that_issuers_refuse_are_bounded(worker: Worker) -> None:
    """Then nobody's issuer is asked for this customer, not even about a good card."""
    worker.issuers["visa"].check = CardCheck(outcome=Outcome.DO_NOT_HONOR)
    token = await _token(worker)
    for number in range(SETTINGS.refusals_per_hour_max):
        reply = await _add(worker, token, pan("visa", number))
        assert reply.verdict == (422, "card-refused")
    asked = await _asked(worker)
    refused = await _add(worker, token, pan("visa", 900))
    assert refused.verdict == (429, "rate-limited")
    assert 3_500 < int(refused.headers["Retry-After"]) <= 3_600
    assert (await _add(worker, token, pan("humo", 900))).verdict == (429, "rate-limited")
    assert await _asked(worker) == asked
    assert await _asked(worker, "humo") == 0
    # Another customer is not held to it.
    worker.issuers["visa"].check = CardCheck(outcome=Outcome.APPROVED)
    assert (await _add(worker, await _token(worker, OTHER), pan("visa", 901))).status == 201


async def test_an_issuer_that_does_not_answer_has_refused_nothing(worker: Worker) -> None:
    worker.issuers["visa"].check = CardCheck(outcome=Outcome.ISSUER_UNAVAILABLE)
    token = await _token(worker)
    for _ in range(SETTINGS.refusals_per_hour_max + 2):
        reply = await _add(worker, token)
        assert reply.verdict == (503, "processor-unavailable")


async def test_another_persons_cards_are_refusals(worker: Worker) -> None:
    """The phone that the issuer knows is not the customer's: that is what a stolen number is."""
    worker.issuers["humo"].check = CardCheck(outcome=Outcome.APPROVED, phone=OTHER)
    token = await _token(worker)
    verdicts = [
        (await _add(worker, token, pan("humo", number))).verdict
        for number in range(SETTINGS.refusals_per_hour_max + 1)
    ]
    assert verdicts[-1] == (429, "rate-limited")
    assert set(verdicts[:-1]) == {(422, "card-refused")}


@pytest.mark.parametrize("at_once", [False, True])
async def test_different_numbers_are_bounded_and_the_same_counts_once(
    place: Place, clock: Hand, at_once: bool
) -> None:
    """However they come: one after another and removed again, or all at once."""
    urls, most = (place.database_url, place.redis_url), SETTINGS.numbers_per_hour_max
    async with running_worker(*urls, clock=clock, per_user_max=100) as worker:
        token = await _token(worker)
        numbers = [pan("visa", number) for number in range(most + 5)]
        if at_once:
            replies = await asyncio.gather(*(_add(worker, token, one) for one in numbers))
        else:
            replies = [await _add_and_remove(worker, token, one) for one in numbers]
        assert await _asked(worker) == most
        verdicts = [reply.verdict for reply in replies]
        assert verdicts.count((429, "rate-limited")) == 5
        assert verdicts.count((201, "")) == most
        # One of those that were tried may be tried again.
        tried = numbers[verdicts.index((201, ""))]
        assert (await _add(worker, token, tried)).status == 201


async def _add_and_remove(worker: Worker, token: str, number: str) -> Reply:
    reply = await _add(worker, token, number)
    if reply.status == 201:
        await worker.call("DELETE", f"/v1/cards/{reply.body['id']}", token=token)
    return reply
