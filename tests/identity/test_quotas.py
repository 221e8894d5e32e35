"""What clients may ask for, through the public door of a sandbox of two workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from tests.faults.services import pid_of
from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.http.doors import assert_refused

# A change is known to every worker by its next reading, twice a second.
KNOWN_WITHIN_S = 5.0
SHOP = "sandbox-shop"
_ALONE = re.compile(r"^oqim_quotas_alone(?:\{[^}]*\})? ([0-9.]+)$", re.MULTILINE)
_IN_FLIGHT = re.compile(r'^oqim_connector_in_flight\{.*"humo".*\} ([0-9.]+)$', re.MULTILINE)
_SEQ = re.compile(r"^oqim_quotas_limits_seq(?:\{[^}]*\})? ([0-9.]+)$", re.MULTILINE)


def limits_path(client_id: str = SHOP) -> str:
    return f"/admin/v1/clients/{client_id}/limits"


def operator(house: House, number: int = 0) -> str:
    return str(house.description["operators"][number]["access_token"])


async def put(house: House, body: dict[str, Any], client_id: str = SHOP) -> Reply:
    """Change a client's limits, as the first operator, from what they are."""
    read = await house.call("GET", limits_path(client_id), token=operator(house))
    assert read.status == 200, read.raw
    return await house.call(
        "PUT",
        limits_path(client_id),
        body,
        token=operator(house),
        headers={"If-Match": read.headers["etag"]},
    )


async def shown(house: House, token: str) -> list[Reply]:
    """Ask on connections of their own, so that each worker is asked."""
    raw = (
        f"GET /v1/payments?limit=1 HTTP/1.1\r\nHost: oqim\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    replies = await asyncio.gather(*(house.send(raw.encode()) for _ in range(12)))
    assert None not in replies
    return [one for one in replies if one is not None]


@asynccontextmanager
async def limited(house: House, client_id: str = SHOP, **body: Any) -> AsyncIterator[None]:
    """Hold a client to limits, known to every worker; afterwards to none."""
    await put_everywhere(house, body, client_id)
    try:
        yield
    finally:
        await put_everywhere(house, {}, client_id)


async def put_everywhere(house: House, body: dict[str, Any], client_id: str) -> None:
    """Change a client's limits, and wait until every worker knows."""
    reply = await put(house, body, client_id)
    assert reply.status == 200, reply.raw
    revision = reply.body["revision"]

    async def is_known() -> bool:
        text = (await house.call("GET", "/metrics")).raw.decode()
        known = [float(seq) for seq in _SEQ.findall(text)]
        return len(known) == len(house.worker_pids()) and min(known) >= revision

    await until(is_known, within_s=KNOWN_WITHIN_S)


# The rate ---------------------------------------------------------------------------------------


async def test_a_client_is_held_to_its_rate_over_all_workers(house: House) -> None:
    """200 requests at once: the burst passes, what the rate makes meanwhile, and no more."""
    token = await house.merchant_token()
    async with limited(house, rate_per_s=100, burst=30):
        started = time.monotonic()
        replies = [
            one
            for some in await asyncio.gather(*(shown(house, token) for _ in range(17)))
            for one in some
        ]
        spent_s = time.monotonic() - started
    statuses = Counter(one.status for one in replies)
    assert set(statuses) == {200, 429}
    # Of the other worker, what its rate makes in one interval.
    assert 30 <= statuses[200] <= 30 + 100 * spent_s + 5
    for one in replies:
        if one.status == 429:
            problem = assert_refused(one, 429, "rate-limited")
            assert problem["retryable"] is True


async def test_answers_say_what_is_left(house: House) -> None:
    """draft-ietf-httpapi-ratelimit-headers-10: the policy, and what is left of it."""
    token = await house.merchant_token()
    async with limited(house, rate_per_s=2, burst=5):
        left = []
        for _ in range(5):
            reply = await house.call("GET", "/v1/payments", token=token)
            assert reply.status == 200
            assert reply.headers["ratelimit-policy"] == '"client";q=5;w=3'
            left.append(reply.headers["ratelimit"])
        assert left[0] == '"client";r=4;t=1'
        assert left == sorted(left, reverse=True)
        refused = await house.call("GET", "/v1/payments", token=token)
        assert_refused(refused, 429, "rate-limited")
        assert refused.headers["ratelimit"].startswith('"client";r=0;')
        # What is refused by anything else says it too.
        await asyncio.sleep(int(refused.headers["retry-after"]))
        missing = await house.call("GET", "/v1/payments/pay_nothing", token=token)
        assert_refused(missing, 404, "not-found")
        assert "ratelimit" in missing.headers


async def test_whoever_waits_as_told_is_answered(house: House) -> None:
    """At the second time, when two workers had let a request pass before they heard of it."""
    token = await house.merchant_token()
    async with limited(house, rate_per_s=1, burst=1):
        for _ in range(3):
            for _ in range(3):
                reply = await house.call("GET", "/v1/payments", token=token)
                if reply.status == 200:
                    break
                assert reply.status == 429
                await asyncio.sleep(int(reply.headers["retry-after"]))
            assert reply.status == 200


async def test_payments_are_counted_too_and_refused_before_anything_is_done(house: House) -> None:
    """On the hot route: nothing was written, and the same key pays later."""
    token = await house.merchant_token()
    body = {
        "operation": "payout",
        "amount": 10_000,
        "currency": "UZS",
        "destination": {"card": house.user(20)["cards"]["humo"]},
    }
    keys = [new_key() for _ in range(10)]

    async def pay(key: str) -> Reply:
        return await house.call("POST", "/v1/payments", body, token=token, key=key)

    # Twice as much as must pass: of one a second, up to two may be owed from a moment ago.
    async with limited(house, rate_per_s=1, burst=4):
        before = await count(house)
        replies = [await pay(key) for key in keys]
        passed = [one for one in replies if one.status != 429]
        assert 2 <= len(passed) < 10, [one.status for one in replies]
        assert all(one.status in (201, 202) for one in passed), [one.raw for one in passed]
        assert await count(house) == before + len(passed)
    refused = keys[[one.status for one in replies].index(429)]
    assert (await pay(refused)).status in (201, 202)


async def count(house: House) -> int:
    return int((await house.rows("SELECT count(*) FROM payments"))[0][0])


async def test_each_customer_of_an_app_has_a_rate_of_its_own(house: House) -> None:
    """One who asks for too much takes nothing from the others."""
    async with limited(house, "mobile", rate_per_s=1, burst=3):
        greedy = await shown(house, house.user(21)["access_token"])
        other = await house.call("GET", "/v1/cards", token=house.user(22)["access_token"])
    assert Counter(one.status for one in greedy)[429] >= 8
    assert other.status == 200
    assert other.headers["ratelimit-policy"].startswith('"customer";')


async def test_by_default_a_channels_limits_hold_and_a_report_costs_more() -> None:
    """Ten times: it holds a connection of the database for as long as it takes."""
    with changed_config(
        settings={"applies_in_sandbox = false": "applies_in_sandbox = true"}
    ) as environment:
        async with running_house(environment=environment) as strict:
            who = operator(strict)
            read = await strict.call("GET", limits_path(), token=who)
            report = await strict.call("GET", "/admin/v1/ledger/trial-balance", token=who)
            assert left_of(read) - left_of(report) in (9, 10), report.headers
            # By default, each customer of the app.
            shown_by = await strict.call("GET", "/v1/cards", token=strict.user(0)["access_token"])
            assert shown_by.headers["ratelimit-policy"] == '"customer";q=100;w=5'


def left_of(reply: Reply) -> int:
    return int(reply.headers["ratelimit"].split("r=")[1].split(";")[0])


async def test_in_a_sandbox_nobody_is_limited_who_has_no_limits(house: House) -> None:
    """It is for load tests."""
    replies = await shown(house, house.user(23)["access_token"])
    assert {one.status for one in replies} == {200}
    assert all("ratelimit" not in one.headers for one in replies)


async def test_a_payment_within_its_clients_rate_makes_no_call_to_redis(house: House) -> None:
    """What is told is told in the background, for many at a time."""
    token = await house.merchant_token()
    client = redis.asyncio.from_url(house.description["redis_url"])
    try:
        async with limited(house, rate_per_s=2_000, burst=2_000):
            before = await scripts_run(client)
            started = time.monotonic()
            for _ in range(20):
                assert {one.status for one in await shown(house, token)} == {200}
            ticks = (time.monotonic() - started) / 0.05
            made = await scripts_run(client) - before
        assert made > 0, "the workers tell each other"
        assert made <= 2 * ticks + 4, "of each worker one an interval, and not one a request"
    finally:
        await client.aclose()


async def scripts_run(client: Any) -> int:
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


async def test_without_redis_each_worker_holds_its_share(house: House) -> None:
    """Stopped in the middle: requests go on, and no more than the rate passes in all."""
    token = await house.merchant_token()
    valkey = pid_of(house, "valkey")

    async def is_alone() -> bool:
        """Whether every worker has found out, which it does when somebody asks it."""
        await shown(house, token)
        text = (await house.call("GET", "/metrics")).raw.decode()
        return {float(one) for one in _ALONE.findall(text)} == {1.0}

    async with limited(house, rate_per_s=5, burst=10):
        os.kill(valkey, signal.SIGSTOP)
        try:
            await until(is_alone, within_s=5)
            started = time.monotonic()
            replies = []
            while time.monotonic() - started < 2.0:
                replies += await shown(house, token)
            spent_s = time.monotonic() - started
        finally:
            os.kill(valkey, signal.SIGCONT)
    passed = Counter(one.status for one in replies)[200]
    assert 1 <= passed <= 10 + 5 * spent_s
    assert {one.status for one in replies} == {200, 429}


# Requests at once -------------------------------------------------------------------------------


async def test_requests_at_once_are_bounded_over_all_workers(house: House) -> None:
    """Slow payments fill the client's places; what is refused was not begun."""
    token = await house.merchant_token()
    body = {
        "operation": "payout",
        "amount": 10_000,
        "currency": "UZS",
        "destination": {"card": house.user(24)["cards"]["humo"]},
    }

    async def pay() -> Reply:
        return await house.call("POST", "/v1/payments", body, token=token, key=new_key())

    async def passes() -> Reply | None:
        reply = await pay()
        return reply if reply.status != 429 else None

    async def nobody_passes() -> list[Reply] | None:
        replies = await shown(house, token)
        return replies if {one.status for one in replies} == {429} else None

    async with limited(house, concurrency_max=4):
        async with house.fault("humo", kind="delay", count=50, seconds=4.0):
            # A place given back a moment ago may still count at the other worker.
            slow = [asyncio.create_task(until(passes, within_s=10)) for _ in range(4)]
            await until(lambda: are_under_way(house, 4), within_s=4.0)
            # A worker that has heard nothing of the others learns of them by its first.
            refused = await until(nobody_passes, within_s=3.0)
            assert_refused(refused[0], 429, "rate-limited")
            assert refused[0].headers["retry-after"] == "1"
            paid = await asyncio.gather(*slow)
        assert [one.status for one in paid] == [201] * 4, [one.raw for one in paid]

        async def is_free() -> bool:
            reply = await house.call("GET", "/v1/payments", token=token)
            return reply.status == 200

        await until(is_free, within_s=5)


async def are_under_way(house: House, count: int) -> bool:
    """Whether so many payments wait for HUMO."""
    text = (await house.call("GET", "/metrics")).raw.decode()
    return sum(float(one) for one in _IN_FLIGHT.findall(text)) == count


# Where from -------------------------------------------------------------------------------------


async def test_a_client_is_refused_from_another_network(house: House) -> None:
    """Everywhere: with a token, for a token, for what is revoked; headers are not believed."""
    token = await house.merchant_token()
    form = {
        "grant_type": "client_credentials",
        "client_id": house.merchant["client_id"],
        "client_secret": house.merchant["client_secret"],
    }
    async with limited(house, networks=["203.0.113.0/24", "2001:db8::/32"]):
        for headers in ({}, {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}):
            for reply in (
                await house.call("GET", "/v1/payments", token=token, headers=headers),
                await house.call("POST", "/oauth/token", data=form, headers=headers),
                await house.call(
                    "POST", "/oauth/introspect", data=form | {"token": token}, headers=headers
                ),
            ):
                assert_refused(reply, 403, "client-network-not-allowed")
    async with limited(house, networks=["203.0.113.0/24", "127.0.0.0/8"]):
        assert (await house.call("GET", "/v1/payments", token=token)).status == 200
        assert (await house.call("POST", "/oauth/token", data=form)).status == 200


# Changing them ------------------------------------------------------------------------------------


async def test_a_change_is_made_of_what_was_read(house: House) -> None:
    """RFC 6585, 3 and RFC 9110, 13.1.1: without If-Match 428, with an old one 412."""
    read = await house.call("GET", limits_path(), token=operator(house))
    assert read.headers["etag"] == f'"{read.body["revision"]}"'
    missing = await house.call("PUT", limits_path(), {"burst": 9}, token=operator(house))
    assert_refused(missing, 428, "precondition-required")
    for etag in ('"999999"', "*", "W/" + read.headers["etag"], read.headers["etag"][1:-1], "x"):
        stale = await house.call(
            "PUT",
            limits_path(),
            {"burst": 9},
            token=operator(house),
            headers={"If-Match": etag},
        )
        assert_refused(stale, 412, "precondition-failed")
    assert (await house.call("GET", limits_path(), token=operator(house))).body == read.body


async def test_of_two_changes_at_once_one_is_made(house: House) -> None:
    replies = await asyncio.gather(*(put(house, {"networks": []}) for _ in range(6)))
    statuses = Counter(one.status for one in replies)
    assert set(statuses) <= {200, 412}
    assert statuses[200] >= 1


async def test_a_change_is_told_to_the_audit_log(house: House) -> None:
    assert (await put(house, {"rate_per_s": 900})).status == 200
    assert (await put(house, {})).status == 200
    last = await house.call(
        "GET", f"/admin/v1/audit?action=client.limit&object={SHOP}&limit=1", token=operator(house)
    )
    (entry,) = last.body["data"]
    assert entry["actor"] == house.description["operators"][0]["id"]
    assert entry["detail"]["before"]["rate_per_s"] == 900
    assert entry["detail"]["after"]["rate_per_s"] is None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"rate_per_s": 0}, "/rate_per_s"),
        ({"rate_per_s": 100_001}, "/rate_per_s"),
        ({"burst": 0}, "/burst"),
        ({"concurrency_max": -1}, "/concurrency_max"),
        ({"networks": ["203.0.113.7/24"]}, "/networks/0"),
        ({"networks": ["10.0.0.0/8", "everywhere"]}, "/networks/1"),
        ({"networks": ["1.2.3"]}, "/networks/0"),
        ({"networks": ["10.0.0.0/8"] * 65}, "/networks"),
    ],
)
async def test_limits_that_mean_nothing_are_refused(
    house: House, body: dict[str, Any], pointer: str
) -> None:
    problem = assert_refused(await put(house, body), 422, "schema-violation")
    assert problem["errors"][0]["pointer"] == pointer


async def test_a_client_that_is_not_there_is_not_found(house: House) -> None:
    read = await house.call("GET", limits_path("nobody"), token=operator(house))
    assert_refused(read, 404, "not-found")


async def test_the_command_line_changes_limits_and_says_what_they_are(house: House) -> None:
    done = await asyncio.to_thread(
        house.oqim, "clients", "limit", SHOP, "--rate", "700", "--network", "127.0.0.0/8"
    )
    assert done.returncode == 0, done.stderr
    assert "700" in done.stdout
    assert "127.0.0.0/8" in done.stdout
    read = await house.call("GET", limits_path(), token=operator(house))
    assert (read.body["rate_per_s"], read.body["burst"]) == (700, None)
    undone = await asyncio.to_thread(house.oqim, "clients", "limit", SHOP)
    assert undone.returncode == 0, undone.stderr
    for wrong in (["--rate", "0"], ["--network", "10.0.0.1/8"]):
        failed = await asyncio.to_thread(house.oqim, "clients", "limit", SHOP, *wrong)
        assert failed.returncode == 2
        assert failed.stderr.startswith("oqim: ")
    nobody = await asyncio.to_thread(house.oqim, "clients", "limit", "nobody")
    assert nobody.returncode == 2
