"""The generator of a closed loop: what it tells is what happened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.measuring.helpers import talker
from tests.measuring.helpers import serving

GENERATOR = Path(__file__).resolve().parents[2] / "loadtests" / "generator.py"


async def generated(tmp_path: Path, url: str, **order: Any) -> dict[str, Any]:
    """Run the generator for a moment; returns what it told."""
    seeded = tmp_path / "seeded.json"
    cards = ["card_1", "card_2"]
    seeded.write_text(
        json.dumps({"tokens": ["t1", "t2"], "cards": {"visa": cards}, "merchant": "mer_1"})
    )
    whole = {
        "port": int(url.rpartition(":")[2]),
        "path": "/v1/payments",
        "clients": 4,
        "seconds": 0.3,
        "scheme": "visa",
        "replays": 0.3,
        "ids_file": str(tmp_path / "ids"),
    } | order
    async with talker(GENERATOR, seeded) as generator:
        assert await generator.hear() == {"users": 2}
        told: dict[str, Any] = await generator.ask(whole)
        return told


class Payments:
    """Answers as the gateway does, and remembers; `forgets` makes it pay replays anew."""

    def __init__(self, *, forgets: bool = False, mark: str = "Idempotent-Replayed") -> None:
        self.forgets = forgets
        self.mark = mark
        self.by_key: dict[str, str] = {}
        self.requests = 0
        self.owners: set[tuple[str, str]] = set()

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.requests += 1
        body = json.loads(await request.read())
        self.owners.add((request.headers["Authorization"], body["source"]["card"]))
        key = request.headers["Idempotency-Key"]
        is_known = key in self.by_key and not self.forgets
        if not is_known:
            self.by_key[key] = f"pay_{self.requests:026}"
        answer = {"id": self.by_key[key], "status": "succeeded"}
        headers = {self.mark: "true"} if is_known else {}
        text = json.dumps(answer, separators=(",", ":"))
        return web.Response(status=201, text=text, headers=headers)


class Quotes:
    """Answers any request; remembers each, byte for byte, by its sender."""

    def __init__(self, status: Callable[[int], int] = lambda number: 200) -> None:
        self.status = status
        self.asked: dict[str, list[tuple[object, ...]]] = {}

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        head = request.method, request.path, request.raw_headers
        by_owner = self.asked.setdefault(request.headers["Authorization"], [])
        by_owner.append((*head, await request.read()))
        count = sum(map(len, self.asked.values()))
        return web.Response(status=self.status(count), text='{"total_debit":1}')


QUOTES = {"path": "/v1/payments/quote", "is_prepared": True}


async def test_prepared_requests_are_the_same_each_time(tmp_path: Path) -> None:
    """Everybody's own card and token, whole requests, every answer counted by its status."""
    quotes = Quotes()
    async with serving(quotes) as url:
        told = await generated(tmp_path, url, **QUOTES)
    everything = [one for of_owner in quotes.asked.values() for one in of_owner]
    assert told["problem"] == ""
    assert told["statuses"] == {"200": len(everything)}
    assert told["created"] + told["late"] == len(everything) > 10
    assert (tmp_path / "ids").read_text() == ""
    for owner, card in (("Bearer t1", "card_1"), ("Bearer t2", "card_2")):
        (method, path, headers, body), *others = quotes.asked[owner]
        assert (method, path) == ("POST", "/v1/payments/quote")
        assert json.loads(body)["source"] == {"card": card}
        assert others
        assert all(one == (method, path, headers, body) for one in others)


async def test_each_user_asks_once_when_no_time_is_given(tmp_path: Path) -> None:
    quotes = Quotes()
    async with serving(quotes) as url:
        told = await generated(tmp_path, url, **QUOTES, seconds=None)
    assert {owner: len(asked) for owner, asked in quotes.asked.items()} == {
        "Bearer t1": 1,
        "Bearer t2": 1,
    }
    assert (told["created"], told["late"], told["problem"]) == (2, 0, "")
    assert told["seconds"] == told["until_last_s"] > 0


async def test_one_bad_answer_among_prepared_requests_is_told(tmp_path: Path) -> None:
    """No answer goes by unlooked at."""
    async with serving(Quotes(lambda number: 401 if number == 7 else 200)) as url:
        told = await generated(tmp_path, url, **QUOTES)
    assert told["statuses"].pop("401") == 1
    assert told["statuses"] == {"200": told["created"] + told["late"]}
    assert told["problem"] == '401: {"total_debit":1}'


@pytest.mark.parametrize("mark", ["Idempotent-Replayed", "idempotent-replayed"])
async def test_the_generator_counts_what_happened(tmp_path: Path, mark: str) -> None:
    """Every payment once, by its owner's card, and every id on file; headers in either case."""
    payments = Payments(mark=mark)
    async with serving(payments) as url:
        told = await generated(tmp_path, url)
    assert told["problem"] == ""
    assert told["statuses"] == {"201": payments.requests}
    assert told["created"] + told["late"] == len(payments.by_key)
    assert told["replayed"] > 0
    assert told["replayed_wrongly"] == 0
    assert told["declined"] == 0
    assert payments.owners == {("Bearer t1", "card_1"), ("Bearer t2", "card_2")}
    assert set((tmp_path / "ids").read_text().split()) == set(payments.by_key.values())


async def test_the_generator_notices_a_payment_made_twice(tmp_path: Path) -> None:
    async with serving(Payments(forgets=True)) as url:
        told = await generated(tmp_path, url)
    assert told["replayed_wrongly"] == told["replayed"] > 0


async def test_the_generator_tells_a_refusal(tmp_path: Path) -> None:
    async def refuse(request: web.BaseRequest) -> web.Response:
        return web.Response(status=503, text='{"code":"overloaded"}')

    async with serving(refuse) as url:
        told = await generated(tmp_path, url, clients=1)
    assert told["created"] == 0
    assert set(told["statuses"]) == {"503"}
    assert told["problem"] == '503: {"code":"overloaded"}'
