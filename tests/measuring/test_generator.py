"""The generator of a closed loop: what it tells is what happened."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

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
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, GENERATOR, seeded),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps(whole).encode() + b"\n")
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
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
