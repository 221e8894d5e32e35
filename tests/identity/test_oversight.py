"""Customers' sessions as operators see and end them, and how many devices there may be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Reply, Worker, pan, running_worker

PHONE, OTHER = "+998901234567", "+998901234568"
PATH = "/admin/v1/sessions"


def _operator(worker: Worker, *scopes: str) -> str:
    return worker.tokens.issue(
        sub="opr_1", client_id="console", scope=scopes, channel="console", ttl_s=600
    )


async def _get(worker: Worker, query: str = "") -> Reply:
    token = _operator(worker, "admin:sessions:read")
    return await worker.call("GET", f"{PATH}{query}", token=token)


async def _shown(worker: Worker, query: str = "") -> dict[str, dict[str, Any]]:
    reply = await _get(worker, query)
    assert reply.status == 200, reply.raw
    return {one["id"]: one for one in reply.body["data"]}


async def _end(worker: Worker, session_id: str, *scopes: str) -> Reply:
    token = _operator(worker, *(scopes or ("admin:sessions:write",)))
    return await worker.call("DELETE", f"{PATH}/{session_id}", token=token)


async def _user(worker: Worker, phone: str = PHONE) -> str:
    return str(await worker.pool.fetchval("SELECT id FROM users WHERE phone = $1", phone))


async def test_an_operator_sees_device_place_last_seen_and_level(
    worker: Worker, clock: Hand
) -> None:
    """Of every customer; never a token."""
    mine = await worker.log_in(PHONE, device="phone-1")
    await worker.log_in(OTHER, device="phone-2")
    clock.advance(60)
    assert (await worker.call("GET", "/v1/sessions", token=mine["access_token"])).status == 200
    user = await _user(worker)
    found = await _shown(worker, f"?user={user}")
    assert set(found) == {mine["session_id"]}
    shown = found[mine["session_id"]]
    assert (shown["user"], shown["client_id"], shown["device_id"]) == (user, "mobile", "phone-1")
    assert (shown["address"], shown["level"]) == ("127.0.0.1", "otp")
    assert shown["last_seen_at"] > shown["last_used_at"] == shown["created_at"]
    assert (shown["ended_at"], shown["end_reason"], shown["ended_by"]) == (None, None, None)
    raw = (await _get(worker)).raw
    assert mine["refresh_token"].encode() not in raw
    assert len(await _shown(worker, "?client=mobile")) == 2
    assert await _shown(worker, "?client=nobody") == {}


async def test_how_a_session_ended_is_kept(worker: Worker, clock: Hand) -> None:
    """With who ended it; those that are alive are listed apart."""
    gone, here = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    clock.advance(30)
    assert (await worker.refresh(gone["refresh_token"])).status == 200
    clock.advance(30)
    path = f"/v1/sessions/{gone['session_id']}"
    assert (await worker.call("DELETE", path, token=here["access_token"])).status == 204
    user = await _user(worker)
    (ended,) = (await _shown(worker, "?state=ended")).values()
    assert (ended["id"], ended["end_reason"], ended["ended_by"]) == (
        gone["session_id"],
        "logout",
        user,
    )
    assert ended["created_at"] < ended["last_used_at"] < ended["ended_at"]
    assert set(await _shown(worker, "?state=alive")) == {here["session_id"]}


async def test_sessions_are_listed_page_by_page(worker: Worker, clock: Hand) -> None:
    """The latest login first; a cursor is good for its own filters."""
    made = []
    for number in range(5):
        made.append((await worker.log_in(PHONE, device=f"d{number}"))["session_id"])
        clock.advance(1)
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        reply = await _get(worker, f"?limit=2{f'&cursor={cursor}' if cursor else ''}")
        seen += [one["id"] for one in reply.body["data"]]
        cursor = reply.body["next_cursor"]
    assert seen == list(reversed(made))
    first = (await _get(worker, "?limit=2")).body["next_cursor"]
    mixed = await _get(worker, f"?limit=2&state=alive&cursor={first}")
    assert mixed.verdict == (400, "invalid-cursor")


@pytest.mark.parametrize("query", ["?state=gone", "?user=", "?limit=0", "?phone=%2B998901234567"])
async def test_list_refuses(worker: Worker, query: str) -> None:
    assert (await _get(worker, query)).verdict == (400, "invalid-query")


async def test_an_operator_ends_a_session(worker: Worker) -> None:
    """No worker accepts its tokens, the customer's other sessions stay, and it is written."""
    gone, here = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    refused = await _end(worker, gone["session_id"], "admin:sessions:read")
    assert refused.verdict == (403, "insufficient-scope")
    for _ in range(2):
        assert (await _end(worker, gone["session_id"])).status == 204
    reply = await worker.call("GET", "/v1/sessions", token=gone["access_token"])
    assert reply.verdict == (401, "invalid-token")
    assert (await worker.refresh(gone["refresh_token"])).verdict == (400, "invalid-grant")
    assert (await worker.call("GET", "/v1/sessions", token=here["access_token"])).status == 200
    rows = await worker.pool.fetch("SELECT actor, action, object FROM audit_log")
    assert [tuple(row) for row in rows] == [("opr_1", "session.end", gone["session_id"])]
    assert (await _end(worker, "ses_unknown")).verdict == (404, "not-found")


async def test_one_device_too_many_is_refused_where_the_settings_say_so(
    place: Place, clock: Hand
) -> None:
    """The devices that are logged in stay; one of them may log in again, or make room."""
    async with running_worker(
        place.database_url,
        place.redis_url,
        clock=clock,
        devices_max=2,
        devices_over="refuse-new",
        code_resend_s=0,
    ) as worker:
        first = await worker.log_in(PHONE, device="d1")
        await worker.log_in(PHONE, device="d2")
        challenge = await worker.ask(PHONE)
        refused = await worker.use(challenge, await worker.code(PHONE), device="d3")
        assert refused.verdict == (403, "device-limit-reached")
        again = await worker.log_in(PHONE, device="d1")
        reply = await worker.call("GET", "/v1/sessions", token=first["access_token"])
        assert reply.verdict == (401, "invalid-token"), "the device took its own place"
        path = f"/v1/sessions/{again['session_id']}"
        assert (await worker.call("DELETE", path, token=again["access_token"])).status == 204
        clock.advance(1)
        await worker.log_in(PHONE, device="d3")
        alive = await worker.pool.fetch("SELECT device_id FROM sessions WHERE ended_at IS NULL")
        assert {row["device_id"] for row in alive} == {"d2", "d3"}


# Ends that nobody asks for ------------------------------------------------------------------------


async def test_what_nobody_uses_ends_by_itself(place: Place, clock: Hand) -> None:
    """Idle for too long, or as old as it may become: ended, told how, its tokens forgotten."""
    async with running_worker(
        place.database_url,
        place.redis_url,
        clock=clock,
        refresh_token_ttl_s=1_000,
        session_lifetime_s=2_500,
    ) as worker:
        idle = await worker.log_in(PHONE, device="idle")
        used = await worker.log_in(PHONE, device="used")
        assert await worker.sessions.endings.sweep() == 0
        token = used["refresh_token"]
        for _ in range(3):
            clock.advance(800)
            token = (await worker.refresh(token)).body["refresh_token"]
            await worker.sessions.endings.sweep()
        shown = await _shown(worker)
        assert shown[idle["session_id"]]["end_reason"] == "idle"
        assert shown[used["session_id"]]["end_reason"] is None, "whoever uses it keeps it"
        clock.advance(100)
        assert await worker.sessions.endings.sweep() == 1
        shown = await _shown(worker)
        assert shown[used["session_id"]]["end_reason"] == "lifetime"
        assert shown[used["session_id"]]["ended_by"] == "sessions"
        assert await worker.sessions.endings.sweep() == 0
        left = "SELECT count(*) FROM refresh_tokens WHERE session_id = ANY($1::text[])"
        ended = [idle["session_id"], used["session_id"]]
        assert await worker.pool.fetchval(left, ended) == 0, "what has expired is deleted"


WAITING_PAYMENT = """
INSERT INTO payments (id, created_at, owner, client_id, operation, scheme, amount_minor, currency,
    is_manual_capture, commission_payer, commission_plan, commission_version, legs, record, details,
    commission_lines, version, status, total_debit, total_credit, commission_total, commission_vat)
VALUES ('pay_' || $1, now(), $2, 'mobile', 'transfer', 'visa', 1, 'UZS', false, 'sender', 'p', 1,
    '[]', '', '{}', '[]', 1, 'requires_action', 1, 1, 0, 0)
"""
WAITING_STEP_UP = """
INSERT INTO step_ups (payment_id, owner, request_sealed, code_hash, expires_at, session_id)
VALUES ('pay_' || $1, $2, '', '', now() + interval '1 hour', $1)
"""


async def test_what_ends_by_itself_cancels_what_waits_for_it(place: Place, clock: Hand) -> None:
    """As any end does; of a session that goes on it stays."""
    async with running_worker(
        place.database_url, place.redis_url, clock=clock, refresh_token_ttl_s=1_000
    ) as worker:
        idle = await worker.log_in(PHONE, device="idle")
        used = await worker.log_in(PHONE, device="used")
        user = await _user(worker)
        for one in (idle, used):
            await worker.pool.execute(WAITING_PAYMENT, one["session_id"], user)
            await worker.pool.execute(WAITING_STEP_UP, one["session_id"], user)
        clock.advance(500)
        assert (await worker.refresh(used["refresh_token"])).status == 200
        clock.advance(500)
        assert await worker.sessions.endings.sweep() == 1
        rows = await worker.pool.fetch("SELECT id, status FROM payments")
        assert {row["id"]: row["status"] for row in rows} == {
            f"pay_{idle['session_id']}": "canceled",
            f"pay_{used['session_id']}": "requires_action",
        }
        (line,) = await worker.pool.fetch("SELECT actor, action, object FROM audit_log")
        assert tuple(line) == ("sessions", "payment.cancel", f"pay_{idle['session_id']}")


# A device never seen before -----------------------------------------------------------------------


async def _card(worker: Worker, token: str) -> str:
    """Add a card and verify it."""
    body = {"pan": pan("visa", 1), "expiry": "32-09"}
    added = await worker.call("POST", "/v1/cards", body=body, token=token)
    assert added.status == 201, added.raw
    path = f"/v1/cards/{added.body['id']}/verify"
    code = {"code": await worker.code(PHONE)}
    assert (await worker.call("POST", path, body=code, token=token)).status == 200
    return str(added.body["id"])


async def _cards(worker: Worker, token: str) -> list[str]:
    reply = await worker.call("GET", "/v1/cards", token=token)
    return [one["id"] for one in reply.body["data"]]


async def test_a_new_device_unlinks_the_cards(worker: Worker) -> None:
    """On every device; one that was seen before takes nothing; added again they are there."""
    first = await worker.log_in(PHONE, device="known")
    card = await _card(worker, first["access_token"])
    again = await worker.log_in(PHONE, device="known")
    assert await _cards(worker, again["access_token"]) == [card]
    new = await worker.log_in(PHONE, device="new")
    for tokens in (first, new):
        assert await _cards(worker, tokens["access_token"]) == []
    (row,) = await worker.pool.fetch("SELECT actor, action, detail FROM audit_log")
    assert (row["actor"], row["action"]) == (await _user(worker), "cards.unlink")
    assert card in row["detail"]
    assert new["session_id"] in row["detail"]
    linked = await _card(worker, new["access_token"])
    known = await worker.log_in(PHONE, device="known")
    assert await _cards(worker, known["access_token"]) == [linked]


async def test_a_new_device_takes_no_card_where_the_settings_say_so(
    place: Place, clock: Hand
) -> None:
    async with running_worker(
        place.database_url, place.redis_url, clock=clock, new_device_unlinks_cards=False
    ) as worker:
        card = await _card(worker, (await worker.log_in(PHONE, device="a"))["access_token"])
        new = await worker.log_in(PHONE, device="b")
        assert await _cards(worker, new["access_token"]) == [card]


# Codes that are sent ------------------------------------------------------------------------------


async def test_codes_are_not_sent_for_ever(worker: Worker, clock: Hand) -> None:
    """After five without a login the phone is locked; a login, or the lock's end, begins anew."""
    for _ in range(5):
        challenge = await worker.ask(PHONE)
        clock.advance(30)
    body = {"phone": PHONE}
    locked = await worker.call("POST", "/v1/auth/challenges", body=body)
    assert locked.verdict == (429, "otp-locked")
    assert locked.headers["Retry-After"] == "900"
    late = await worker.use(challenge, await worker.code(PHONE))
    assert late.verdict == (429, "otp-locked"), "the code sent last does not help either"
    clock.advance(900)
    for _ in range(4):
        await worker.ask(PHONE)
        clock.advance(30)
    await worker.log_in(PHONE)
    for _ in range(5):
        await worker.ask(PHONE)
        clock.advance(30)
    assert (await worker.call("POST", "/v1/auth/challenges", body=body)).status == 429
