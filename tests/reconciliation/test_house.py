"""Reports of the processors beside what was paid: everything matches, and every difference is told.

The simulators keep ledgers of their own and write their reports from them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.payments.books import conflicts, fresh_amount, hold, paid, pan, post, read
from tests.reconciliation.files import (
    humo_file,
    humo_row,
    humo_rows,
    uzcard_file,
    uzcard_row,
    uzcard_rows,
    visa_file,
    visa_row,
    visa_rows,
)

SCHEMES = ("uzcard", "humo", "visa")
BASIC = {"Authorization": "Basic " + base64.b64encode(b"oqim:sandbox").decode()}
CONNECTORS = {
    "timeout_ms = 10000": "timeout_ms = 600\nbreaker_failures_max = 1000",
    'terminal_id = "OQIM0001"': (
        'terminal_id = "OQIM0001"\ntimeout_ms = 600\nbreaker_failures_max = 1000'
    ),
}


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house of its own: its processors' days are this module's."""
    with changed_config(connectors=CONNECTORS) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


def today() -> date:
    """The business day that goes on."""
    return (datetime.now(UTC) + timedelta(hours=5)).date()


async def admin(
    house: House, method: str, path: str, body: Any = None, *, operator: int = 0
) -> Reply:
    """Make an operator's request."""
    token = house.description["operators"][operator]["access_token"]
    return await house.call(method, f"/admin/v1{path}", body, token=token)


async def fetched(house: House, scheme: str, day: date | None = None) -> dict[str, Any]:
    """Have a day's report fetched; returns it as it stands."""
    body = {"connector": scheme, "business_day": str(day or today())}
    reply = await admin(house, "POST", "/reconciliation/imports", body)
    assert reply.status in (200, 201), reply.raw
    shown: dict[str, Any] = reply.body
    return shown


async def breaks(house: House, **query: str) -> list[dict[str, Any]]:
    """Return breaks, oldest first."""
    text = "&".join(f"{name}={value}" for name, value in query.items())
    reply = await admin(house, "GET", f"/reconciliation/breaks?limit=100&{text}")
    assert reply.status == 200, reply.raw
    found: list[dict[str, Any]] = reply.body["data"]
    return found


async def paid_out(house: House, user: int, scheme: str) -> None:
    """Pay a card from the merchant; it must succeed."""
    body = {
        "operation": "payout",
        "amount": fresh_amount(),
        "currency": "UZS",
        "destination": {"pan": pan(scheme, user)},
    }
    token = await house.merchant_token()
    reply = await house.call("POST", "/v1/payments", body, token=token, key=new_key())
    assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw


async def test_a_day_of_every_kind_of_payment_matches_to_the_last_line(house: House) -> None:
    """Purchases, captures, refunds, transfers, payouts: no break, and settlements that are even."""
    transfers = 0
    for scheme in SCHEMES:
        await paid(house, 0, scheme, fresh_amount())
        held = await hold(house, 1, scheme, fresh_amount(5_000_000))
        part = {"amount": 3_000_017}
        captured = await post(house, 1, f"/v1/payments/{held['id']}/capture", part)
        assert captured.status == 200, captured.raw
        held = await hold(house, 2, scheme, fresh_amount())
        canceled = await post(house, 2, f"/v1/payments/{held['id']}/cancel")
        assert canceled.status == 200, canceled.raw
        for amount in (None, 200_000):
            payment = await paid(house, 3, scheme, fresh_amount())
            body = {} if amount is None else {"amount": amount}
            refunded = await post(house, 3, f"/v1/payments/{payment['id']}/refunds", body)
            assert refunded.status == 201, refunded.raw
            assert refunded.body["status"] == "succeeded", refunded.raw
        for user, other in enumerate(SCHEMES, start=4):
            transfer = house.transfer(user, scheme, 9, other, fresh_amount(5_000_000))
            reply = await house.pay(user, transfer)
            if reply.code == "unsupported-operation":
                continue
            assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw
            transfers += 1
        await paid_out(house, 10, scheme)
    assert transfers >= 5
    for scheme in SCHEMES:
        shown = await fetched(house, scheme)
        found = await breaks(house, connector=scheme)
        assert found == [], json.dumps(found, indent=1)
        assert shown["lines"] == shown["matched"] >= 7, shown
        assert shown["breaks"] == {}
        assert len(shown["settlement_entries"]) == 1
        entry = await admin(house, "GET", f"/ledger/entries/{shown['settlement_entries'][0]}")
        postings = {one["account"]: one["amount"] for one in entry.body["postings"]}
        (sums,) = shown["sums"]
        assert postings[f"processor:{scheme}"] == -sums["net"]
        assert sum(postings.values()) == 0
        if scheme == "visa":
            assert postings["processor-fee:visa"] == sums["fees"] > 0
    shown = (await admin(house, "GET", "/ledger/trial-balance")).body
    assert all(total["debit"] == total["credit"] for total in shown["totals"])
    assert all(one["kind"] for one in shown["accounts"]), shown["accounts"]
    for scheme in SCHEMES:
        # All that a processor owed us is to be settled: its account is even.
        balances = {one["account"]: one["balance"] for one in shown["accounts"]}
        assert balances[f"processor:{scheme}"] == 0, scheme


# Files ------------------------------------------------------------------------------------------


async def svgate_report(house: House, method: str) -> Any:
    """Ask SVGate for its report of today."""
    order: dict[str, Any] = {"range": {"from": f"{today():%Y%m%d}", "to": f"{today():%Y%m%d}"}}
    order |= {"pageNumber": 0, "pageSize": 1_000}
    asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"report": order}}
    url = house.description["simulators"]["uzcard"]
    async with house.http.post(url, json=asked, headers=BASIC) as reply:
        return (await reply.json())["result"]


async def true_file(house: House, scheme: str) -> bytes:
    """The processor's own report of today, as a file."""
    url = house.description["simulators"][scheme]
    if scheme == "uzcard":
        page = await svgate_report(house, "report.detail")
        assert page["last"], "a page is enough"
        return uzcard_file(page["content"])
    path = {"visa": "clearing", "humo": "report"}[scheme]
    async with house.http.get(f"{url}/_sim/{path}?day={today()}") as reply:
        return await reply.read()


async def reconcile(house: House, scheme: str, file: bytes) -> tuple[int, str, str]:
    """Run `oqim reconcile` on a file; returns status, standard output and error."""
    path = house.data_dir / f"{scheme}.report"
    path.write_bytes(file)
    login = {"login": "oqim", "password": "sandbox"}
    connectors = {
        "uzcard": {"base_url": "http://127.0.0.1:1"} | login,
        "humo": {"base_url": "http://127.0.0.1:1", "token": "sandbox"} | login,
        "visa": {"host": "127.0.0.1", "port": 1},
    }
    environment = house.environment | {
        "OQIM_DATABASE_URL": house.description["database_url"],
        "OQIM_CONNECTORS": json.dumps(connectors),
    }
    command = ("-m", "gateway", "reconcile", "--connector", scheme, "--day", str(today()))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        str(path),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


def doctored(scheme: str, file: bytes, names: dict[str, str]) -> bytes:
    """Spoil a true file: one line away, one too many, one twice, and one of each other amount.

    Args:
        names: what the processor calls the attempt that is to be `missing`, `twice`, `amount`.
    """
    if scheme == "visa":
        rows = visa_rows(file)
        by_name = {row[3]: row for row in rows}
        by_name[names["amount"]][6] = "1"
        extra = visa_row(today(), "ABCDEF123456", 5)
        kept = [row for row in rows if row[3] != names["missing"]]
        return visa_file([*kept, by_name[names["twice"]], extra])
    if scheme == "humo":
        rows = humo_rows(file)
        by_name = {row[3]: row for row in rows}
        by_name[names["amount"]][7] = "1"
        extra = humo_row(today(), "not-ours", 5)
        kept = [row for row in rows if row[3] != names["missing"]]
        return humo_file(today(), [*kept, by_name[names["twice"]], extra])
    items = uzcard_rows(file)
    by_ext = {item["ext"]: item for item in items}
    by_ext[names["amount"]]["amount"] = 1
    more = uzcard_row(today(), "not-ours", 5)
    left = [item for item in items if item["ext"] != names["missing"]]
    return uzcard_file([*left, by_ext[names["twice"]], more])


@pytest.mark.fault(rows=[65], what="a line missing, extra, twice, of another amount; then mended")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_doctored_file_is_found_out_and_the_true_one_mends_it(
    house: House, scheme: str
) -> None:
    """A line away, one too many, one twice, one of another amount; then nothing is open."""
    wanted = {}
    for number, name in enumerate(("missing", "twice", "amount"), start=20):
        payment = await paid(house, number, scheme, fresh_amount())
        attempt = payment["attempts"][0]
        wanted[name] = (attempt["id"], attempt["rrn"] if scheme == "visa" else attempt["id"])
    true = await true_file(house, scheme)
    names = {name: known_as for name, (_, known_as) in wanted.items()}
    code, out, error = await reconcile(house, scheme, doctored(scheme, true, names))
    assert code == 1, (out, error)
    found = await breaks(house, connector=scheme, status="open")
    subjects = {one["kind"]: (one["ours"] or {}).get("reference") for one in found}
    assert subjects == {
        "missing_there": wanted["missing"][0],
        "duplicate": wanted["twice"][0],
        "amount": wanted["amount"][0],
        "missing_here": None,
    }
    assert len(found) == 4, found
    assert all(f"  {kind}" in out for kind in subjects), out
    days = (await admin(house, "GET", f"/reconciliation?connector={scheme}")).body["data"]
    assert days[0]["breaks"] == dict.fromkeys(subjects, 1)
    code, out, error = await reconcile(house, scheme, true)
    assert code == 0, (out, error)
    assert await breaks(house, connector=scheme, status="open") == []
    code, out, error = await reconcile(house, scheme, true)
    assert (code, "nothing new" in out) == (0, True), (out, error)


async def test_a_file_that_cannot_be_used_is_told_by_its_line(house: House) -> None:
    """With status 2, and without a word of what is in it."""
    code, out, error = await reconcile(house, "visa", b"\xef\xbb\xbfrrn\n")
    assert (code, out) == (2, ""), error
    assert "line 1: begins with a byte order mark" in error
    assert "Traceback" not in error


async def test_processors_add_their_days_up_as_their_files_do(house: House) -> None:
    """HUMO's `SOAP_RECO` tells the trailer's sums, UZCARD's `report.sum` those of its rows."""
    await paid(house, 24, "humo", fresh_amount())
    url = house.description["simulators"]["humo"]
    rows = humo_rows(await true_file(house, "humo"))
    trailer = (await true_file(house, "humo")).decode().splitlines()[-1].split(";")

    async def ask(content: str) -> dict[str, str]:
        envelope = (
            '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
            f'<p:Payment xmlns:p="urn:PaymentServer">{content}</p:Payment></e:Body></e:Envelope>'
        )
        async with house.http.post(url, data=envelope, headers=BASIC) as reply:
            text = await reply.text()
            assert reply.status == 200, text
        pairs = re.findall(r"<item><name>(\w+)</name><value>(\w+)</value></item>", text)
        return dict(pairs)

    ref = new_key()
    terminal = "<details><item><name>terminal_id</name><value>236102QJ</value></item></details>"
    begun = await ask(f"<billerRef>SOAP_RECO</billerRef><paymentRef>{ref}</paymentRef>{terminal}")
    assert begun["ttl_action"] == "0001"
    end = "<confirmed>true</confirmed><finished>true</finished>"
    told = await ask(f"<paymentRef>{ref}</paymentRef>{end}")
    names = ("debits_number", "debits_amount", "credits_reversal_number")
    assert [told[name] for name in names] == trailer[2:5]
    assert told["credits_reversal_amount"] == trailer[5]
    assert len(rows) == int(trailer[1])

    items = (await svgate_report(house, "report.detail"))["content"]
    sums = await svgate_report(house, "report.sum")
    for kind in ("DEBIT", "CREDIT", "REVERSAL"):
        expected = sum(
            one["amount"] for one in items if (one["tranType"], one["status"]) == (kind, "OK")
        )
        assert sums[f"{kind.lower()}Sum"] == expected > 0
    short = (await svgate_report(house, "report.short"))["content"]
    assert [one["ext"] for one in short] == [one["ext"] for one in items]
    assert not any("pan" in one for one in short)


# Payments in doubt ------------------------------------------------------------------------------


async def test_what_nobody_could_tell_a_report_settles(house: House) -> None:
    """A purchase and a refund whose answers are lost, and every answer about them."""
    unheard = {"kind": "drop_request", "rate": 1.0, "method": "trans.ext"}
    whole = await paid(house, 31, "uzcard", fresh_amount())
    async with house.fault("uzcard", kind="drop_reply_after_commit", count=1):
        await house.simulator("POST", "uzcard", "/_sim/faults", unheard)
        reply = await house.pay(30, house.purchase(30, "uzcard", fresh_amount()))
        assert (reply.status, reply.body["status"]) == (202, "processing"), reply.raw
        lost = {"kind": "drop_reply_after_commit", "count": 1, "method": "trans.reverse.partial"}
        await house.simulator("POST", "uzcard", "/_sim/faults", lost)
        back = await post(house, 31, f"/v1/payments/{whole['id']}/refunds", {"amount": 5_000})
        assert (back.status, back.body["status"]) == (201, "pending"), back.raw
        await fetched(house, "uzcard")
        payment = await read(house, 30, reply.body["id"])
        assert payment["status"] == "succeeded", payment
        assert payment["attempts"][0]["outcome_source"] == "reconciliation"
        refunded = await read(house, 31, whole["id"])
        assert refunded["amount_refunded"] == 5_000
        # What the report told is matched with the report it came from.
        assert await breaks(house, connector="uzcard", status="open") == []
    shown = (await admin(house, "GET", "/ledger/trial-balance")).body
    balances = {one["account"]: one["balance"] for one in shown["accounts"]}
    assert balances["processor:uzcard"] == 0


@pytest.mark.fault(rows=[65], what="a report that declines what succeeded")
async def test_what_contradicts_an_end_is_a_conflict_and_overwrites_nothing(house: House) -> None:
    """The report declines what succeeded here: a break, a review, and the payment as it was."""
    payment = await paid(house, 32, "humo", fresh_amount())
    attempt = payment["attempts"][0]["id"]
    true = await true_file(house, "humo")
    rows = humo_rows(true)
    for row in rows:
        if row[3] == attempt:
            row[6] = "116"
    code, out, error = await reconcile(house, "humo", humo_file(today(), rows))
    assert code == 1, (out, error)
    (found,) = await breaks(house, connector="humo", status="open")
    assert (found["kind"], found["payment"]) == ("status", payment["id"])
    assert (found["ours"]["status"], found["theirs"]["status"]) == ("approved", "declined")

    async def told() -> Any:
        return await conflicts(house, payment["id"])

    details = await until(told, within_s=15)
    assert len(details) == 1, details
    assert (await read(house, 32, payment["id"]))["status"] == "succeeded"
    await fetched(house, "humo")
    assert await breaks(house, connector="humo", status="open") == []
    assert len(await conflicts(house, payment["id"])) == 1


# Operators --------------------------------------------------------------------------------------


async def test_a_break_is_closed_by_two_operators_and_what_is_posted_is_even(
    house: House,
) -> None:
    """Own approval is refused; the entry is in the ledger and the audit log; it stays closed."""
    true = await true_file(house, "humo")
    rows = [*humo_rows(true), *(humo_row(today(), name, 700) for name in ("alien-1", "alien-2"))]
    assert (await reconcile(house, "humo", humo_file(today(), rows)))[0] == 1
    first, second = await breaks(house, connector="humo", status="open")
    assert first["kind"] == second["kind"] == "missing_here"
    assert first["age_seconds"] >= second["age_seconds"] >= 0
    path = f"/reconciliation/breaks/{first['id']}"
    early = await admin(house, "POST", f"{path}/approve")
    assert (early.status, early.code) == (409, "invalid-state")

    def proposal(*postings: tuple[str, int]) -> dict[str, Any]:
        return {
            "action": "post",
            "note": "a terminal of another bank, settled to us by mistake",
            "postings": [
                {"account": account, "amount": amount, "currency": "UZS"}
                for account, amount in postings
            ],
        }

    for wrong in (
        proposal(),
        proposal(("settlement:humo", 700)),
        proposal(("settlement:humo", 700), ("nobody:humo", -700)),
        proposal(("settlement:humo", 0), ("processor:humo", 0)),
        proposal(("settlement:humo", 700), ("processor:humo", -700)) | {"action": "accept"},
    ):
        reply = await admin(house, "POST", f"{path}/proposals", wrong)
        assert (reply.status, reply.code) == (422, "schema-violation"), (wrong, reply.raw)
    right = proposal(("settlement:humo", 700), ("processor:humo", -700))
    reply = await admin(house, "POST", f"{path}/proposals", right)
    assert (reply.status, reply.body["status"]) == (201, "proposed"), reply.raw
    own = await admin(house, "POST", f"{path}/approve")
    assert (own.status, own.code) == (403, "four-eyes-required")
    approved = await admin(house, "POST", f"{path}/approve", operator=1)
    assert (approved.status, approved.body["status"]) == (200, "posted"), approved.raw
    entry = await admin(house, "GET", f"/ledger/entries/{approved.body['entry']}")
    assert [one["amount"] for one in entry.body["postings"]] == [700, -700]
    again = await admin(house, "POST", f"{path}/approve", operator=1)
    assert (again.status, again.code) == (409, "invalid-state")

    path = f"/reconciliation/breaks/{second['id']}"
    accepted = {"action": "accept", "note": "written off by letter 17"}
    assert (await admin(house, "POST", f"{path}/proposals", accepted)).status == 201
    reply = await admin(house, "POST", f"{path}/approve", operator=1)
    assert (reply.status, reply.body["status"]) == (200, "accepted")
    # The same lines in a corrected file are what was decided about: nothing opens again.
    rows = [humo_row(today(), "alien-3", 1), *rows]
    assert (await reconcile(house, "humo", humo_file(today(), rows)))[0] == 1
    found = await breaks(house, connector="humo", status="open")
    assert [one["theirs"]["reference"] for one in found] == ["alien-3"]
    await fetched(house, "humo")
    assert await breaks(house, connector="humo", status="open") == []
    log = await admin(house, "GET", f"/audit?object={first['id']}")
    actions = [one["action"] for one in log.body["data"]]
    assert actions == ["reconciliation.approve", "reconciliation.propose"]


async def test_breaks_are_listed_oldest_first_a_page_at_a_time(house: House) -> None:
    """Cursors are good for their own list alone; the oldest open one comes first."""
    everything = await breaks(house)
    ids: list[str] = []
    cursor = ""
    while True:
        reply = await admin(house, "GET", f"/reconciliation/breaks?limit=3{cursor}")
        ids += [one["id"] for one in reply.body["data"]]
        if reply.body["next_cursor"] is None:
            break
        cursor = f"&cursor={reply.body['next_cursor']}"
    assert ids == [one["id"] for one in everything] == sorted(ids)
    assert len(ids) > 3
    wrong = await admin(house, "GET", f"/reconciliation/breaks?kind=amount&limit=3{cursor}")
    assert (wrong.status, wrong.code) == (400, "invalid-cursor")
    page = await admin(house, "GET", "/reconciliation?limit=1")
    follow = page.body["next_cursor"]
    rest = await admin(house, "GET", f"/reconciliation?limit=100&cursor={follow}")
    shown = [one["connector"] for one in page.body["data"] + rest.body["data"]]
    assert shown == ["visa", "uzcard", "humo"], "by day, newest first, each once"


async def test_what_cannot_be_fetched_is_told_and_changes_nothing(house: House) -> None:
    """A processor that refuses, a connector that is none, a day to come, a customer."""
    before = (await admin(house, "GET", "/reconciliation")).body
    async with house.fault("uzcard", kind="decline", rate=1.0, method="report.detail"):
        body = {"connector": "uzcard", "business_day": str(today())}
        reply = await admin(house, "POST", "/reconciliation/imports", body)
        assert (reply.status, reply.code) == (503, "processor-unavailable"), reply.raw
    for wrong in (
        {"connector": "amex", "business_day": str(today())},
        {"connector": "visa", "business_day": str(today() + timedelta(days=1))},
        {"connector": "visa", "business_day": "yesterday"},
        {"connector": "visa", "business_day": "0001-01-01"},
        {"connector": "visa"},
    ):
        reply = await admin(house, "POST", "/reconciliation/imports", wrong)
        assert (reply.status, reply.code) == (422, "schema-violation"), reply.raw
    missing = await admin(house, "GET", "/reconciliation/breaks/brk_unknown")
    assert (missing.status, missing.code) == (404, "not-found")
    token = house.user(2)["access_token"]
    for path in ("/reconciliation", "/reconciliation/breaks"):
        reply = await house.call("GET", f"/admin/v1{path}", token=token)
        assert (reply.status, reply.code) == (403, "insufficient-scope")
    assert (await admin(house, "GET", "/reconciliation")).body == before


async def test_open_breaks_are_counted_by_kind(house: House) -> None:
    """A gauge a kind, read when it is scraped: every worker tells the same."""
    rows = [humo_row(today(), f"alien-{number}", 1) for number in range(4, 7)]
    file = humo_file(today(), [*humo_rows(await true_file(house, "humo")), *rows])
    assert (await reconcile(house, "humo", file))[0] == 1

    async def counted() -> bool:
        reply = await house.call("GET", "/metrics")
        told = re.findall(rb"^oqim_reconciliation_breaks_missing_here\{.*\} (.*)$", reply.raw, re.M)
        return set(told) == {b"3.0"}

    await until(counted, within_s=20)
    await fetched(house, "humo")
