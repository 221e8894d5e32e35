"""A customer's cards: refused, added, verified, shown, removed."""

import asyncio
from typing import Any

import pytest

from connectors.spi import CardCheck, CardLink, Outcome
from gateway.cards.directory import token_binding
from gateway.core import year_month
from tests.identity.fixtures import Place
from tests.identity.worker import CODE, START_MS, Hand, Reply, Worker, pan, running_worker, wrong

PHONE, OTHER = "+998901234567", "+998901234568"
VISA, HUMO, UZCARD = pan("visa", 1), pan("humo", 1), pan("uzcard", 1)
EXPIRY = "32-09"


async def _token(worker: Worker, phone: str = PHONE) -> str:
    return str((await worker.log_in(phone))["access_token"])


async def _add(worker: Worker, token: str, number: str = VISA, **changes: Any) -> Reply:
    body = {"pan": number, "expiry": EXPIRY} | changes
    return await worker.call("POST", "/v1/cards", body=body, token=token)


async def _verify(worker: Worker, token: str, card_id: str, code: str) -> Reply:
    path = f"/v1/cards/{card_id}/verify"
    return await worker.call("POST", path, body={"code": code}, token=token)


async def _active(worker: Worker, token: str, number: str = VISA, phone: str = PHONE) -> str:
    card_id = (await _add(worker, token, number)).body["id"]
    reply = await _verify(worker, token, card_id, await worker.code(phone))
    assert reply.status == 200, reply.raw
    return str(card_id)


def test_the_clock_is_in_2026() -> None:
    """What the tables below call past and to come depends on it."""
    assert year_month(START_MS) == (2026, 11)


@pytest.mark.parametrize(
    ("body", "verdict", "pointer"),
    [
        ({}, (422, "schema-violation"), ""),
        ({"pan": int(VISA), "expiry": EXPIRY}, (422, "schema-violation"), "/pan"),
        ({"pan": VISA, "expiry": EXPIRY, "name": "A B"}, (422, "unknown-member"), "/name"),
        ({"pan": VISA, "expiry": EXPIRY, "cvv": "123"}, (422, "invalid-cvv"), "/cvv"),
        ({"pan": VISA, "expiry": EXPIRY, "cvv": None}, (422, "invalid-cvv"), "/cvv"),
        ({"pan": "", "expiry": EXPIRY}, (422, "invalid-pan"), "/pan"),
        ({"pan": VISA[:-1], "expiry": EXPIRY}, (422, "invalid-pan"), "/pan"),
        ({"pan": VISA[:-1] + "x", "expiry": EXPIRY}, (422, "invalid-pan"), "/pan"),
        ({"pan": f"{VISA[:4]} {VISA[4:]}", "expiry": EXPIRY}, (422, "invalid-pan"), "/pan"),
        ({"pan": "0" * 11, "expiry": EXPIRY}, (422, "invalid-pan"), "/pan"),
        ({"pan": "5555555555554444", "expiry": EXPIRY}, (422, "unsupported-scheme"), "/pan"),
        ({"pan": VISA, "expiry": "26-10"}, (422, "invalid-expiry"), "/expiry"),
        ({"pan": VISA, "expiry": "32-00"}, (422, "invalid-expiry"), "/expiry"),
        ({"pan": VISA, "expiry": "32-13"}, (422, "invalid-expiry"), "/expiry"),
        ({"pan": VISA, "expiry": "3209"}, (422, "invalid-expiry"), "/expiry"),
        ({"pan": VISA, "expiry": "32-9"}, (422, "invalid-expiry"), "/expiry"),
        ({"pan": VISA, "expiry": "09/32"}, (422, "invalid-expiry"), "/expiry"),
    ],
)
async def test_add_refuses(
    worker: Worker, body: dict[str, Any], verdict: tuple[int, str], pointer: str
) -> None:
    """What cannot be a card is refused at the member, its value is not told, nobody is asked."""
    reply = await worker.call("POST", "/v1/cards", body=body, token=await _token(worker))
    assert reply.verdict == verdict
    assert [error["pointer"] for error in reply.body["errors"]] == [pointer]
    assert VISA[:-1].encode() not in reply.raw
    assert not any(issuer.asked for issuer in worker.issuers.values())


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome.INVALID_CARD, (422, "card-refused")),
        (Outcome.EXPIRED_CARD, (422, "card-refused")),
        (Outcome.CARD_BLOCKED, (422, "card-refused")),
        (Outcome.OWNER_MISMATCH, (422, "card-refused")),
        (Outcome.DO_NOT_HONOR, (422, "card-refused")),
        (Outcome.PENDING, (503, "processor-unavailable")),
        (Outcome.DUPLICATE, (503, "processor-unavailable")),
        (Outcome.ISSUER_UNAVAILABLE, (503, "processor-unavailable")),
        (Outcome.SWITCH_UNAVAILABLE, (503, "processor-unavailable")),
        (Outcome.SYSTEM_ERROR, (503, "processor-unavailable")),
    ],
)
async def test_add_tells_what_the_issuer_said(
    worker: Worker, outcome: Outcome, verdict: tuple[int, str]
) -> None:
    """A refusal names its reason, silence is no refusal, and neither adds a card."""
    worker.issuers["visa"].check = CardCheck(outcome=outcome)
    reply = await _add(worker, await _token(worker))
    assert reply.verdict == verdict
    assert (outcome.code in reply.body["detail"]) == (verdict[0] == 422)
    assert await worker.pool.fetchval("SELECT count(*) FROM cards") == 0


@pytest.mark.parametrize(
    ("phone", "status"),
    [(None, 201), (PHONE, 201), (PHONE[1:], 201), (OTHER, 422), ("99890***4567", 422)],
)
async def test_add_compares_the_phone_the_issuer_knows(
    worker: Worker, phone: str | None, status: int
) -> None:
    """A card whose phone is another's is refused."""
    worker.issuers["humo"].check = CardCheck(outcome=Outcome.APPROVED, phone=phone)
    reply = await _add(worker, await _token(worker), HUMO)
    assert reply.status == status
    assert (status == 422) == (b"owner_mismatch" in reply.raw)


async def test_only_customers_have_cards(worker: Worker) -> None:
    """A server's token with the scope has no phone to verify with."""
    token = worker.tokens.issue(sub="mer_1", client_id="shop", scope=["cards:write"], channel="api")
    assert (await _add(worker, token)).verdict == (403, "insufficient-scope")


async def test_a_card_with_our_code(worker: Worker) -> None:
    """It waits, shows no number, becomes active by the code, and once."""
    token = await _token(worker)
    added = await _add(worker, token)
    assert added.status == 201
    card = added.body
    assert added.headers["Location"] == f"/v1/cards/{card['id']}"
    assert card == {
        "id": card["id"],
        "scheme": "visa",
        "bin": VISA[:6],
        "last4": VISA[-4:],
        "expiry": EXPIRY,
        "status": "pending_verification",
        "created_at": card["created_at"],
    }
    asked, phone, reference = worker.issuers["visa"].asked[0]
    assert (asked.pan.reveal(), asked.expiry, phone, reference) == (VISA, "3209", PHONE, card["id"])
    code = await worker.code(PHONE)
    assert CODE.match(code)
    verified = await _verify(worker, token, card["id"], code)
    assert verified.body == card | {"status": "active"}
    assert (await _verify(worker, token, card["id"], code)).verdict == (409, "invalid-state")
    assert (await _add(worker, token)).verdict == (409, "card-already-added")
    shown = await worker.call("GET", f"/v1/cards/{card['id']}", token=token)
    assert shown.body == verified.body


async def test_a_card_with_the_processors_code(worker: Worker) -> None:
    """The processor checks its own code, and its token is kept sealed."""
    issuer = worker.issuers["uzcard"]
    issuer.check = CardCheck(outcome=Outcome.APPROVED, challenge="77")
    issuer.link = CardLink(outcome=Outcome.APPROVED, token="processor-token")
    token = await _token(worker)
    before = len(await worker.messenger.messages(PHONE))
    card_id = (await _add(worker, token, UZCARD)).body["id"]
    assert len(await worker.messenger.messages(PHONE)) == before
    # The processor decides how long its code lives.
    worker.clock.advance(120)
    assert (await _verify(worker, token, card_id, " 123456 ")).status == 200
    linked, challenge, code = issuer.linked[0]
    assert (linked.pan.reveal(), linked.expiry, challenge, code) == (UZCARD, "3209", "77", "123456")
    row = await worker.pool.fetchrow("SELECT * FROM cards")
    assert row is not None
    assert row["version"] == 2
    opened = worker.vault.open(row["token_sealed"], bound_to=token_binding(card_id))
    assert opened == "processor-token"
    assert UZCARD not in str(row)
    assert b"processor-token" not in row["token_sealed"]


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome.OTP_WRONG, (422, "otp-invalid")),
        (Outcome.OTP_EXPIRED, (422, "otp-expired")),
        (Outcome.CARD_BLOCKED, (422, "card-refused")),
        (Outcome.SWITCH_UNAVAILABLE, (503, "processor-unavailable")),
        (Outcome.PENDING, (503, "processor-unavailable")),
    ],
)
async def test_verify_tells_what_the_processor_said(
    worker: Worker, outcome: Outcome, verdict: tuple[int, str]
) -> None:
    """Only silence costs no try; whatever it was, the card is not active."""
    issuer = worker.issuers["uzcard"]
    issuer.check = CardCheck(outcome=Outcome.APPROVED, challenge="77")
    issuer.link = CardLink(outcome=outcome)
    token = await _token(worker)
    card_id = (await _add(worker, token, UZCARD)).body["id"]
    for _ in range(3):
        assert (await _verify(worker, token, card_id, "1")).verdict == verdict
    after = verdict if verdict[0] == 503 else (429, "otp-locked")
    assert (await _verify(worker, token, card_id, "1")).verdict == after
    assert await worker.pool.fetchval("SELECT status FROM cards") == "pending_verification"


async def test_wrong_codes_lock_a_card(worker: Worker) -> None:
    """Adding it again neither ends the lock nor gives more guesses before it."""
    token = await _token(worker)
    card_id = (await _add(worker, token)).body["id"]
    guess = wrong(await worker.code(PHONE))
    for _ in range(2):
        assert (await _verify(worker, token, card_id, guess)).verdict == (422, "otp-invalid")
    assert (await _add(worker, token)).body["id"] == card_id
    code = await worker.code(PHONE)
    assert (await _verify(worker, token, card_id, wrong(code))).verdict == (422, "otp-invalid")
    locked = await _verify(worker, token, card_id, code)
    assert locked.verdict == (429, "otp-locked")
    assert locked.headers["Retry-After"] == "900"
    assert (await _add(worker, token)).verdict == (429, "otp-locked")
    worker.clock.advance(900)
    token = await _token(worker)
    assert (await _verify(worker, token, card_id, code)).verdict == (422, "otp-expired")
    assert await _active(worker, token) == card_id


async def test_guesses_at_once_are_counted(worker: Worker) -> None:
    """Of many guesses at one moment no more than three are looked at."""
    token = await _token(worker)
    card_id = (await _add(worker, token)).body["id"]
    guess = wrong(await worker.code(PHONE))
    replies = await asyncio.gather(*(_verify(worker, token, card_id, guess) for _ in range(10)))
    verdicts = sorted(reply.verdict for reply in replies)
    assert verdicts == [(422, "otp-invalid")] * 3 + [(429, "otp-locked")] * 7


async def test_the_right_code_at_once_activates_once(worker: Worker) -> None:
    """Whoever comes second hears that it is done."""
    token = await _token(worker)
    card_id = (await _add(worker, token)).body["id"]
    code = await worker.code(PHONE)
    replies = await asyncio.gather(*(_verify(worker, token, card_id, code) for _ in range(3)))
    assert sorted(reply.status for reply in replies)[0] == 200
    assert {reply.verdict for reply in replies} <= {(200, ""), (409, "invalid-state")}
    assert await worker.pool.fetchval("SELECT version FROM cards") == 2


async def test_codes_for_one_card_are_not_sent_forever(worker: Worker) -> None:
    """After five codes the card is locked, and afterwards there are five more."""
    token = await _token(worker)
    for _ in range(5):
        assert (await _add(worker, token)).status == 201
    sent = len(worker.issuers["visa"].asked)
    locked = await _add(worker, token)
    assert locked.verdict == (429, "otp-locked")
    assert locked.headers["Retry-After"] == "900"
    assert len(worker.issuers["visa"].asked) == sent
    worker.clock.advance(900)
    token = await _token(worker)
    for _ in range(5):
        assert (await _add(worker, token)).status == 201
    assert (await _add(worker, token)).verdict == (429, "otp-locked")


async def test_the_last_code_and_the_last_expiry_count(worker: Worker) -> None:
    """A card added again is the same card with another code, and what was mistyped is corrected."""
    token = await _token(worker)
    card_id = (await _add(worker, token, expiry="31-01")).body["id"]
    first = await worker.code(PHONE)
    again = await _add(worker, token)
    assert (again.body["id"], again.body["expiry"]) == (card_id, EXPIRY)
    assert (await _verify(worker, token, card_id, first)).verdict == (422, "otp-invalid")
    assert (await _verify(worker, token, card_id, await worker.code(PHONE))).status == 200


async def test_a_code_expires(worker: Worker) -> None:
    """Our code lives for 59 seconds."""
    token = await _token(worker)
    card_id = (await _add(worker, token)).body["id"]
    worker.clock.advance(59)
    late = await _verify(worker, token, card_id, await worker.code(PHONE))
    assert late.verdict == (422, "otp-expired")


async def test_one_card_added_at_once_is_one_card(worker: Worker) -> None:
    """Every answer names the same card."""
    token = await _token(worker)
    replies = await asyncio.gather(*(_add(worker, token) for _ in range(4)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.body["id"] for reply in replies}) == 1
    assert await worker.pool.fetchval("SELECT count(*) FROM cards") == 1


async def test_the_limit_of_cards_holds(place: Place, clock: Hand) -> None:
    """However many are added at once, no more than the limit are there."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, per_user_max=3) as worker:
        token = await _token(worker)
        numbers = [pan("visa", number) for number in range(6)]
        replies = await asyncio.gather(*(_add(worker, token, number) for number in numbers))
        verdicts = sorted(reply.verdict for reply in replies)
        assert verdicts == [(201, "")] * 3 + [(409, "card-limit-reached")] * 3
        added = next(reply.body["id"] for reply in replies if reply.status == 201)
        await worker.call("DELETE", f"/v1/cards/{added}", token=token)
        assert (await _add(worker, token, pan("visa", 9))).status == 201


async def test_another_customers_card_is_unknown(worker: Worker) -> None:
    """Whatever is asked of it, the answer is that of a card that is not there."""
    card_id = await _active(worker, await _token(worker))
    stranger = await _token(worker, OTHER)
    for one in (card_id, "card_none"):
        path = f"/v1/cards/{one}"
        for reply in (
            await worker.call("GET", path, token=stranger),
            await worker.call("DELETE", path, token=stranger),
            await _verify(worker, stranger, one, "ABC234"),
        ):
            assert reply.verdict == (404, "not-found")
    # The same card may be a family's: each customer adds it.
    assert (await _add(worker, stranger)).body["id"] != card_id


@pytest.mark.parametrize("kept_days", [0, 180])
async def test_a_removed_card_is_gone(place: Place, clock: Hand, kept_days: int) -> None:
    """It is unknown at once; its number is overwritten when payments cannot need it any more."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, kept_days=kept_days) as worker:
        token = await _token(worker)
        card_id = await _active(worker, token)
        path = f"/v1/cards/{card_id}"
        assert (await worker.call("DELETE", path, token=token)).status == 204
        for method in ("GET", "DELETE"):
            assert (await worker.call(method, path, token=token)).verdict == (404, "not-found")
        assert (await worker.call("GET", "/v1/cards", token=token)).body["data"] == []
        kept = "SELECT pan_sealed <> '' FROM cards WHERE id = $1"
        assert await worker.pool.fetchval(kept, card_id) == (kept_days > 0)
        worker.clock.advance(kept_days * 86_400)
        assert await worker.cards.purge() == (1 if kept_days else 0)
        assert not await worker.pool.fetchval(kept, card_id)
        again = await _active(worker, await _token(worker))
        assert again != card_id


async def test_cards_are_listed_page_by_page(worker: Worker) -> None:
    """The newest comes first; a cursor is good for its list and its owner alone."""
    token, stranger = await _token(worker), await _token(worker, OTHER)
    added = []
    for number in range(5):
        added.append((await _add(worker, token, pan("humo", number))).body["id"])
        worker.clock.advance(0.001)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await worker.call("GET", f"/v1/cards?limit=2{cursor}", token=token)).body
        assert len(page["data"]) <= 2
        seen += [card["id"] for card in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == added[::-1]
    path = f"/v1/cards?limit=2{cursor}"
    assert (await worker.call("GET", path, token=stranger)).verdict == (400, "invalid-cursor")
    sessions = path.replace("cards", "sessions")
    assert (await worker.call("GET", sessions, token=token)).verdict == (400, "invalid-cursor")


async def test_a_number_is_never_in_the_open(worker: Worker) -> None:
    """Not in the database, not in a repr of what holds it."""
    token = await _token(worker)
    await _active(worker, token)
    row = await worker.pool.fetchrow("SELECT * FROM cards")
    assert row is not None
    assert VISA not in str(row)
    assert VISA.encode() not in bytes(row["pan_sealed"])
    card = worker.issuers["visa"].asked[0][0]
    assert VISA not in repr(card)
