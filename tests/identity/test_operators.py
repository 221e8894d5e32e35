"""What operators revoke, and what they are told of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core import Refusal
from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Reply, Worker, running_worker

PHONE = "+998901234567"
PATH = "/admin/v1/revocations"


def _operator(worker: Worker, *scopes: str) -> str:
    return worker.tokens.issue(
        sub="opr_1", client_id="console", scope=scopes, channel="console", ttl_s=600
    )


async def _revoke(worker: Worker, kind: str, value: str) -> Reply:
    token = _operator(worker, "admin:revocations:write")
    return await worker.call("POST", PATH, body={"kind": kind, "value": value}, token=token)


async def _is_in(worker: Worker, tokens: dict[str, Any]) -> bool:
    reply = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    return reply.status == 200


REFUSED: list[tuple[dict[str, Any], tuple[int, str]]] = [
    ({}, (422, "schema-violation")),
    ({"kind": "sid"}, (422, "schema-violation")),
    ({"kind": "user", "value": "x"}, (422, "schema-violation")),
    ({"kind": "sid", "value": ""}, (422, "schema-violation")),
    ({"kind": "sid", "value": "x" * 256}, (422, "too-long")),
    ({"kind": "sid", "value": "x", "reason": "y"}, (422, "unknown-member")),
]


async def test_revoke_refuses(worker: Worker) -> None:
    """A body that names nothing is refused, and nothing is written."""
    token = _operator(worker, "admin:revocations:write")
    for body, verdict in REFUSED:
        assert verdict == (await worker.call("POST", PATH, body=body, token=token)).verdict, body
    assert await worker.pool.fetchval("SELECT count(*) FROM revocations") == 0


async def test_customers_revoke_nothing_here(worker: Worker) -> None:
    """Neither do operators who may only read."""
    for scopes in (["sessions:write"], ["admin:revocations:read"]):
        reply = await worker.call("POST", PATH, body={}, token=_operator(worker, *scopes))
        assert reply.verdict == (403, "insufficient-scope")


@pytest.mark.parametrize("kind", ["jti", "sid", "sub", "client"])
async def test_each_kind_ends_its_own(worker: Worker, clock: Hand, kind: str) -> None:
    """The token goes in each case, and with a session, subject or client what would renew it."""
    tokens = await worker.log_in(PHONE)
    headers = [(b"Authorization", f"Bearer {tokens['access_token']}".encode())]
    claims = worker.core.authorize(headers, "", worker.clock())
    assert not isinstance(claims, Refusal)
    values = {"jti": claims.jti, "sid": claims.sid, "sub": claims.sub, "client": "mobile"}
    reply = await _revoke(worker, kind, values[kind])
    assert reply.status == 201, reply.raw
    assert not await _is_in(worker, tokens)
    clock.advance(2)
    renewed = await worker.refresh(tokens["refresh_token"])
    assert (renewed.status == 200) == (kind == "jti")
    again = await worker.log_in(PHONE)
    assert await _is_in(worker, again), "whoever logs in later is in"


async def test_it_is_told_who_applied_it(place: Place, clock: Hand, worker: Worker) -> None:
    """Both workers, each after some milliseconds; nobody is behind."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock):
        answer = (await _revoke(worker, "sid", "ses_nobody")).body
        token = _operator(worker, "admin:revocations:read")
        shown = (await worker.call("GET", f"{PATH}/{answer['seq']}", token=token)).body
    assert answer["seq"] == 1
    assert len(answer["applied_by"]) == 2
    assert {"seq", "applied_by", "elapsed_ms"} == set(answer)
    assert (shown["kind"], shown["value"], shown["behind"]) == ("sid", "ses_nobody", [])
    assert shown["applied_by"] == answer["applied_by"]
    took = [one["after_ms"] for one in shown["applied_by"]]
    assert shown["elapsed_ms"] == max(took)
    assert all(0 <= one <= answer["elapsed_ms"] + 1 for one in took)


async def test_it_is_written_who_did_it(worker: Worker) -> None:
    """In the log of what operators do, in the same transaction."""
    await _revoke(worker, "sub", "usr_nobody")
    row = await worker.pool.fetchrow("SELECT actor, action, object, detail FROM audit_log")
    assert tuple(row)[:3] == ("opr_1", "revocation.add", "usr_nobody")
    assert '"kind":"sub"' in row["detail"].replace(" ", "")


async def test_there_is_no_such_revocation(worker: Worker) -> None:
    """Whatever is asked for, it is the same answer."""
    token = _operator(worker, "admin:revocations:read")
    for seq in ("1", "0", "-1", "x", "\u0663", "9" * 19, "1.0"):
        reply = await worker.call("GET", f"{PATH}/{seq}", token=token)
        assert reply.verdict == (404, "not-found"), seq
