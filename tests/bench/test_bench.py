"""The benchmark's own instruments: a check that could not fail would prove every run."""

import asyncio
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from gateway import settings as settings_module
from gateway.bench import (
    fixed_rate,
    law_curves,
    page,
    pgbench,
    profiling,
    results,
    scale_laws,
    stored_law,
)
from gateway.bench.profiling import by_function
from gateway.bench.rows import (
    LAWS,
    LOAD_ROWS,
    MICRO_ROWS,
    NAMES,
    OPEN_ROWS,
    SCALE_LAWS,
    Block,
    Law,
    Measured,
    Open,
    Scale,
    groups,
    select,
)
from gateway.measuring import books, config
from gateway.measuring.conditions import machine
from gateway.measuring.meters import Meters, Reading
from gateway.payments import connectors as loading
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import SilentProgress, Step
from gateway.settings import SettingsError
from tests.services import MIGRATED, Services, fresh_database

GENERATOR = Path(__file__).resolve().parents[2] / "loadtests" / "generator.py"

PAYMENT = """
INSERT INTO payments (id, version, owner, client_id, operation, status, scheme, amount_minor,
    currency, total_debit, total_credit, is_manual_capture, commission_total, commission_vat,
    commission_payer, commission_plan, commission_version, commission_lines, legs, record,
    details, created_at)
VALUES ($1, 1, 'usr_1', 'mobile', 'purchase', $2, 'visa', 100, 'UZS', 100, 99, false, 1, 0,
    'receiver', 'purchase', 1, '[]', '[]', '', '{}', now())
"""
POSTING = "INSERT INTO postings (entry_id, line, account, amount_minor, currency) VALUES "


@pytest.fixture
async def database(services: Services) -> AsyncIterator[Any]:
    """A connection to a migrated database with one good payment: pay_1."""
    async with fresh_database(services, template=MIGRATED) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(PAYMENT, "pay_1", "succeeded")
            await connection.execute(POSTING + "('pay_1', 1, 'a', 100, 'UZS')")
            await connection.execute(POSTING + "('pay_1', 2, 'b', -100, 'UZS')")
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    """Serve every path with one handler; gives the base URL."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def entry(**changes: Any) -> dict[str, Any]:
    """Return what the processor holds of pay_1."""
    return {"kind": "purchase", "state": "approved", "amount": 100} | changes


async def look(
    database: Any, tmp_path: Path, *, ledger: list[dict[str, Any]], told: str = "pay_1\n"
) -> list[str]:
    """Check the books against a processor's ledger and the ids that were answered."""
    ids_file = tmp_path / "ids"
    ids_file.write_text(told)

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response(ledger)

    async with serving(answer) as url, aiohttp.ClientSession() as http:
        return await books.broken(database, http, scheme="visa", simulator=url, ids_file=ids_file)


# The books ----------------------------------------------------------------------------------


async def test_books_that_hold(database: Any, tmp_path: Path) -> None:
    others = [entry(state="declined"), entry(state="reversed"), entry(kind="credit")]
    assert await look(database, tmp_path, ledger=[entry(), *others]) == []


async def test_an_answered_payment_that_is_nowhere_is_found(database: Any, tmp_path: Path) -> None:
    found = await look(database, tmp_path, ledger=[entry()], told="pay_1\npay_2\npay_2\n")
    assert found == ["1 payments were answered and are not in the database"]


@pytest.mark.parametrize(
    "ledger",
    [[], [entry(), entry()], [entry(amount=101)], [entry(refunded_amount=1)]],
    ids=["lost", "twice", "other-amount", "refunded-there"],
)
async def test_a_processor_that_disagrees_is_found(
    database: Any, tmp_path: Path, ledger: list[dict[str, Any]]
) -> None:
    found = await look(database, tmp_path, ledger=ledger)
    assert len(found) == 1
    assert found[0].startswith("visa holds")


async def test_postings_that_do_not_balance_are_found(database: Any, tmp_path: Path) -> None:
    """By entry and by currency: two wrongs that cancel out are two wrong entries."""
    await database.execute(POSTING + "('pay_1', 3, 'c', 5, 'UZS')")
    found = await look(database, tmp_path, ledger=[entry()])
    assert found == [
        "1 journal entries do not sum to zero",
        "the postings in UZS do not sum to zero",
    ]
    await database.execute(POSTING + "('other', 1, 'c', -5, 'UZS')")
    assert await look(database, tmp_path, ledger=[entry()]) == [
        "2 journal entries do not sum to zero"
    ]


async def test_a_success_without_postings_is_found(database: Any, tmp_path: Path) -> None:
    await database.execute("DELETE FROM entries")
    found = await look(database, tmp_path, ledger=[entry()])
    assert found == ["1 payments succeeded without postings"]


async def test_a_payment_that_stays_open_is_found(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "SETTLED_WITHIN_S", 0.2)
    await database.execute(PAYMENT, "pay_2", "processing")
    found = await look(database, tmp_path, ledger=[entry()])
    assert found == ["1 payments are still processing"]


async def look_alone(database: Any, tmp_path: Path, told: str) -> list[str]:
    """Check the books of a scheme whose processor is in the gateway itself."""
    ids_file = tmp_path / "ids"
    ids_file.write_text(told)
    async with aiohttp.ClientSession() as http:
        return await books.any_broken(
            database, http, simulators={"direct": None}, ids_file=ids_file
        )


async def test_books_without_a_processor_agree_among_themselves(
    database: Any, tmp_path: Path
) -> None:
    """What was made was told, and what it took is posted; nobody else has a ledger."""
    await database.execute("UPDATE payments SET scheme = 'direct'")
    account = "UPDATE entries SET accounts = ARRAY[$1] WHERE line = 1"
    await database.execute(account, "processor:immediate")
    assert await look_alone(database, tmp_path, "pay_1\n") == []
    assert await look_alone(database, tmp_path, "") == [
        "1 payments over direct were made and told to nobody"
    ]
    await database.execute(account, "other")
    assert await look_alone(database, tmp_path, "pay_1\n") == [
        "direct took 100 in all, 0 are posted"
    ]


async def test_stored_payments_are_whole_copies(database: Any) -> None:
    """As many as are asked for, owned by the users that there are, their entries balanced."""
    for number in (1, 2):
        await database.execute(
            "INSERT INTO users (id, phone, tier) VALUES ($1, $1, 'basic')", f"usr_{number}"
        )
    await database.execute(
        "INSERT INTO attempts (id, payment_id, leg, connector, kind, state, sequence,"
        " created_at_ms, worker) VALUES ('att_1', 'pay_1', 1, 'visa', 'purchase', 'sent', 1, 0, 1)"
    )
    await database.execute("INSERT INTO idempotency_keys VALUES ('x', 'y', 'pay_1')")
    step = Step("")
    await stored_law.fill(database, 5, step)
    await stored_law.fill(database, 12, step)
    counted = await database.fetchrow(
        "SELECT (SELECT count(*) FROM payments) AS payments,"
        " (SELECT count(*) FROM attempts) AS attempts,"
        " (SELECT count(*) FROM idempotency_keys) AS keys,"
        " (SELECT count(*) FROM postings) AS postings,"
        " (SELECT count(DISTINCT owner) FROM payments WHERE scheme = 'stored') AS owners"
    )
    assert tuple(counted) == (13, 13, 13, 26, 2)
    assert await database.fetchval(books.UNBALANCED) == 0
    assert await database.fetchval("SELECT max(id) FROM payments") == "pay_1", "the newest"


@pytest.mark.parametrize("name", ["settings", "connectors"])
def test_a_configuration_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    """What a law changes must be there to be changed."""
    source = tmp_path / "source"
    config.write(source, tmp_path)
    assert config.widen(source, tmp_path / "wide")
    (source / f"{name}.toml").write_text("")
    with pytest.raises(SandboxError, match=name):
        config.widen(source, tmp_path / "other")


def test_the_benchmarks_configuration_is_read_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The immediate connector is switched on there, found by its folder, and nowhere else."""
    loadtests = GENERATOR.parent
    assert "immediate" not in settings_module.load({}).connectors.enabled
    environment = config.write(tmp_path / "config", loadtests)
    settings = settings_module.load(environment)
    wide = settings_module.load(config.widen(tmp_path / "config", tmp_path / "wide"))
    assert wide.http.in_flight_max > 10_000 > settings.http.in_flight_max
    assert len(json.loads(settings.routing)["routes"]) > len(
        json.loads(settings_module.load({}).routing)["routes"]
    )

    async def ignore(name: str, event: Any) -> None:
        """Nobody calls."""

    sections = settings.connector_settings
    with pytest.raises(SettingsError, match="not installed"):
        loading.load(["immediate"], sections, {}, ignore)
    monkeypatch.syspath_prepend(str(loadtests / "immediate"))
    assert list(loading.load(["immediate"], sections, {}, ignore)) == ["immediate"]
    with pytest.raises(SettingsError, match='must be "nothing"'):
        loading.load(["immediate"], {}, {}, ignore)


# The generator ------------------------------------------------------------------------------


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


# The meters and the report ------------------------------------------------------------------


async def test_the_meters_count_cpu_writes_and_wal(database: Any, tmp_path: Path) -> None:
    """What a process burns and a transaction writes between two readings is in their difference."""
    async with aiohttp.ClientSession() as http:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import sys\nn = 0\nwhile n < 10**7: n += 1\nsys.stdin.read()"),
            stdin=asyncio.subprocess.PIPE,
        )
        meters = Meters(
            data_dir=tmp_path,
            base_url="",
            connection=database,
            http=http,
            others={"burner": process.pid},
        )
        before = await meters.read()
        for number in range(3):
            await database.execute(PAYMENT, f"pay_more_{number}", "failed")
        async with asyncio.timeout(20):
            after = before
            while after.cpu_s["burner"] - before.cpu_s["burner"] < 0.1:
                after = await meters.read()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    assert after.writes - before.writes == 3
    assert after.wal_bytes > before.wal_bytes
    assert (before.batches, meters.workers) == (None, 0)


def reading(at: float) -> Reading:
    """Return counters that stand at `at` times something round."""
    return Reading(
        cpu_s={"gateway": at * 0.02, "postgres": at * 0.01},
        writes=int(at * 10),
        commits=int(at * 20),
        wal_bytes=int(at * 200_000),
        batches=at * 10,
        entries=at * 200,
    )


def block(created: int, at: float, *, late: int = 0) -> Block:
    told = {
        "created": created, "late": late, "until_last_s": 1.0, "replayed": 1, "p50_ms": 5.0,
        "p99_ms": 9.0,
    }  # fmt: skip
    return Block(told, reading(at), reading(at + 1))


def measured() -> Measured:
    """Return three pairs of VISA at 64 clients."""
    peer = [block(1000, 0), block(500, 2), block(1000, 4)]
    return Measured(
        LOAD_ROWS[0], peer=peer, oqim=[block(90, 1, late=10), block(100, 3), block(100, 5)]
    )


def test_a_row_is_the_median_of_its_pairs() -> None:
    """Each block is compared with its own neighbour, and costs are by payment."""
    row = measured()
    shown = results.figures(row)
    assert (shown["ratio_least"], shown["ratio"], shown["ratio_greatest"]) == (0.1, 0.1, 0.2)
    assert shown["payments_per_s"] == 100
    assert shown["cpu_us"] == {"gateway": 200.0, "postgres": 100.0}
    assert shown["writing_transactions_per_payment"] == 0.1
    assert shown["commits_counted_per_payment"] == 0.2
    assert shown["wal_bytes_per_payment"] == 2000
    assert shown["batch_size_mean"] == 20
    assert (shown["goal"], shown["is_met"]) == (0.45, False)
    assert "books hold" in results.in_short(row)
    row.broken.append("a payment was lost")
    assert "BOOKS BROKEN" in results.in_short(row)


# Rows and the page --------------------------------------------------------------------------


def test_rows_are_named_by_what_they_begin_with() -> None:
    assert select([]) == NAMES
    assert select(["visa-64"]) == ("visa-64",)
    assert select(["usual", "visa"]) == ("visa-64", "visa-256", "usual-256", "usual-tuned-256")
    assert select(["law-h"]) == ("law-hot", "law-hosts")
    with pytest.raises(SandboxError, match="no row begins with 'mir'"):
        select(["visa", "mir"])


def test_rows_that_share_blocks_are_measured_together() -> None:
    """Those of one peer at as many clients; those of one load of ours; each once."""
    named = [tuple(row.name for row in group) for group in groups(LOAD_ROWS)]
    assert named == [
        ("visa-64", "uzcard-64", "humo-64", "direct-64"),
        ("visa-256", "uzcard-256", "humo-256", "direct-256"),
        ("pgbench-256",),
        ("usual-256", "usual-tuned-256", "fastapi-256"),
    ]


@pytest.fixture
def micro() -> dict[str, Any]:
    """What measures each small row; skips where the peers, which are `oqim[load]`, are not."""
    pytest.importorskip("jwt")
    pytest.importorskip("limits")
    from gateway.bench import limits_library, small_rows

    return small_rows.MICRO | limits_library.MICRO


def test_every_small_row_can_be_measured(micro: dict[str, Any]) -> None:
    from gateway.bench.core_laws import LAWS as MEASURED

    assert (tuple(micro), tuple(MEASURED)) == (MICRO_ROWS, LAWS)
    assert tuple(scale_laws.LAWS) == SCALE_LAWS
    assert tuple(fixed_rate.OPEN) == OPEN_ROWS


@pytest.mark.parametrize("name", LAWS)
def test_every_law_of_the_core_can_be_measured(micro: dict[str, Any], name: str) -> None:
    """One round of small sizes: each checks that what grew is there."""
    from gateway.bench.core_laws import LAWS as MEASURED

    scale = Scale(policies=(10, 500), subjects=(10, 6_000), revoked=(10, 3_000))
    found = MEASURED[name](rounds=1, progress=SilentProgress(), scale=scale)
    assert found.row == name
    assert found.points[0][2] == 1.0
    assert all(us > 0 for _, us, _ in found.points)
    if name != "law-policies":
        assert 20 < float(found.note.split(" ")[0]) < 2_000, "bytes of memory, each"


@pytest.mark.parametrize("name", MICRO_ROWS)
def test_small_rows_compare_the_same_work(micro: dict[str, Any], name: str) -> None:
    """One round: each checks that both sides agree, and both took time."""
    for ratio in micro[name](rounds=1, progress=SilentProgress()):
        assert ratio.row == name
        assert ratio.ours_us > 0
        assert ratio.theirs_us > 0
        assert ratio.least == ratio.ratio == ratio.greatest
        shown = results.small_figures(ratio)
        assert shown["is_met"] is ratio.is_met


def conditions() -> dict[str, Any]:
    plan = {"workers": 1, "pairs": 5, "seconds": 5.0, "warm_up_s": 2.0, "users": 9}
    servers = {"postgresql": {"server_version": "18", "fsync": "on"}, "valkey": "9"}
    return machine() | {"at": "now", "plan": plan, "load_average": 0.0} | servers


def law(worst: float) -> Law:
    return Law("law-policies", "`core.admit`", "policies", ((10, 5.0, 1.0), (99, 6.0, worst)), 1.5)


def at_rate(**changes: Any) -> Open:
    """Return a row at a fixed rate whose second goal was missed."""
    cells = (("p50 under 10 ms", "3.0 ms", True), ("p99 under 50 ms", "70.0 ms", False))
    return replace(Open("latency-visa", "latency", {"p50_ms": 3.0}, cells), **changes)


@pytest.mark.parametrize(
    ("changes", "line", "is_met"),
    [
        ({}, "| latency-visa | latency | p50 under 10 ms | 3.0 ms | yes | hold |", False),
        ({"cells": at_rate().cells[:1]}, "| 3.0 ms | yes | hold |", True),
        ({"broken": ("lost",)}, "| 3.0 ms | yes | **broken** |", False),
        ({"skipped": "late"}, "| void: late | - | - |", False),
    ],
    ids=["missed", "met", "broken", "void"],
)
def test_a_page_shows_what_was_found_at_a_fixed_rate(
    changes: dict[str, Any], line: str, is_met: bool
) -> None:
    shown = results.open_figures(at_rate(**changes))
    assert line in page.page(conditions(), [shown])
    assert shown["is_met"] is is_met


def test_the_headline_tells_payments_without_a_processor_from_others() -> None:
    direct = next(row for row in LOAD_ROWS if row.name == "direct-64")
    rows = [results.figures(replace(measured(), row=row)) for row in (LOAD_ROWS[0], direct)]
    text = page.headline(conditions(), [*rows, results.open_figures(at_rate())])
    assert "| durable payments over VISA, 64 clients |" in text
    assert "| durable payments without a processor, 64 clients |" in text
    assert "| payments latency | 70.0 ms | open loop | - | - | p99 under 50 ms | **no** |" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"goal": 1 / 1.7}, "At least 1.7x as many was aimed at; met: **no**."),
        ({"goal": None}, "promise of revocation were aimed at; met: yes. Small."),
        ({"goal": None, "broken": ("one over",)}, "met: **no**. **Broken:** one over."),
        ({"labels": ("none", "one")}, "| policies | none | one |"),
    ],
    ids=["as-many", "promise", "broken", "labels"],
)
def test_a_page_shows_laws_of_every_kind(changes: dict[str, Any], words: str) -> None:
    one = replace(law(1.4), note="small", **changes)
    shown = results.small_figures(one)
    assert words in page.page(conditions(), [shown])
    # As it comes back from a file of results.
    assert page.law_of(json.loads(json.dumps(shown))) == one


def test_a_page_shows_goals_and_whether_they_were_met() -> None:
    skipped = Measured(LOAD_ROWS[8], skipped="there is none")
    rows = [
        results.figures(measured()),
        results.figures(skipped),
        *(results.small_figures(law(worst)) for worst in (1.4, 1.6)),
    ]
    text = page.page(conditions(), rows)
    load = next(line for line in text.splitlines() if line.startswith("| visa-64 | 64"))
    assert "0.100 (0.100 to 0.200) | 0.45x | **no** | 5.0 / 9.0 | hold |" in load
    assert "left out: there is none" in text
    assert "`fsync=on`" in text
    assert text.count("aimed at; met: yes.") == 1
    assert text.count("aimed at; met: **no**.") == 1


def pages(folder: Path, text: str) -> list[Path]:
    """Make both pages with a text in which {0} and {1} are the marks."""
    found = [folder / "docs" / "performance.md", folder / "README.md"]
    (folder / "docs").mkdir()
    for path in found:
        path.write_text(text.format(page.BEGIN, page.END))
    return found


def test_only_what_is_between_the_marks_is_written(tmp_path: Path) -> None:
    """Twice the same: what was there before goes."""
    both = pages(tmp_path, "before\n{0}\nold\n{1}\nafter\n")
    rows = [results.figures(measured()), results.small_figures(law(1.4))]
    for _ in range(2):
        written = page.write(tmp_path, conditions(), rows)
    assert written == [*both, tmp_path / "docs" / page.CURVES]
    texts = (page.page(conditions(), rows), page.headline(conditions(), rows))
    for path, text in zip(both, texts, strict=True):
        marked = f"{page.BEGIN}\n{text}{page.END}"
        assert path.read_text() == f"before\n{marked}\nafter\n"
    assert "| 100 /s | bare aiohttp | 1,000 /s | 0.100 (0.100 to 0.200) | 0.45 |" in texts[1]


def test_costs_are_summed_over_the_servers_of_whoever_is_measured() -> None:
    """The generator is nobody's, and the gateway idles while its peer works."""
    ours = {"gateway": 300.0, "postgres": 200.0, "generator": 30.0, "peer": 0.0}
    theirs = {"gateway": 7.0, "postgres": 900.0, "generator": 40.0, "peer": 800.0}
    row = results.figures(measured()) | {"cpu_us": ours, "peer_cpu_us": theirs}
    lines = page.page(conditions(), [row]).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| row | whose"))
    head, _, first, second = (
        [cell.strip() for cell in line.split("|")] for line in lines[at : at + 4]
    )
    servers = head.index("servers")
    assert (first[servers], second[servers]) == ("500", "1700")


def test_counts_have_goals_as_well() -> None:
    """A hundred bytes too much is too much; the number of commits is as aimed at."""
    row = results.figures(measured())
    for wal, is_met in ((2_499, "yes"), (2_600, "**no**")):
        text = page.page(conditions(), [row | {"wal_bytes_per_payment": wal}])
        assert f"0.100 commits, met: yes; {wal:,} bytes, met: {is_met}." in text


@pytest.mark.parametrize("text", ["", "{0}", "{1}{0}", "{0}{1}{0}{1}"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_page_without_its_marks_is_left_alone(tmp_path: Path, text: str, which: int) -> None:
    """And so is the other page."""
    both = pages(tmp_path, "{0}{1}")
    both[which].write_text(text.format(page.BEGIN, page.END))
    before = [path.read_text() for path in both]
    with pytest.raises(SandboxError, match="once each"):
        page.write(tmp_path, conditions(), [])
    assert [path.read_text() for path in both] == before


def test_curves_are_an_image_with_every_point() -> None:
    """Higher costs are higher up, and each law is named."""
    image = ElementTree.fromstring(law_curves.picture([law(1.5), law(3.0)]))
    name = "{http://www.w3.org/2000/svg}"
    dots = [float(dot.attrib["cy"]) for dot in image.iter(f"{name}circle")]
    assert dots[0] == dots[2] > dots[1] > dots[3] > 0
    texts = [text.text for text in image.iter(f"{name}text")]
    assert texts.count("policies") == 2


# Peers' tools -------------------------------------------------------------------------------

REPORT = """pgbench (18.6)
number of transactions actually processed: 13000
number of failed transactions: 0 (0.000%)
latency average = 18.640 ms
initial connection time = 120.1 ms
tps = 3250.000000 (without initial connection time)
"""


def test_pgbench_is_read() -> None:
    told = pgbench.read_report(REPORT)
    assert Block(told, reading(0), reading(1)).per_second == 3250
    with pytest.raises(SandboxError):
        pgbench.read_report(REPORT.replace("tps =", "rate ="))


async def test_pgbench_runs_in_a_database_of_its_own(services: Services) -> None:
    """It fills, loads and leaves nothing behind."""
    program = pgbench.program()
    assert program is not None
    async with pgbench.filled(program, services.database_url) as filled:
        # Its 64 clients connect within that time, too, on a busy machine.
        told = await filled.load(4)
        assert told["created"] > 0
    connection = await asyncpg.connect(services.database_url)
    try:
        names = [row["datname"] for row in await connection.fetch("SELECT * FROM pg_database")]
    finally:
        await connection.close()
    assert pgbench.DATABASE not in names


def test_stacks_are_counted_by_function() -> None:
    """Lines of one function are one; what calls itself is counted once in its total."""
    stacks = ["a (f.py:1);b (f.py:2) 3", "a (f.py:9);b (f.py:3) 1", "a (f.py:1);a (f.py:2) 4", "?"]
    assert [tuple(one) for one in by_function(stacks)] == [
        ("a (f.py)", 0.5, 1.0),
        ("b (f.py)", 0.5, 0.5),
    ]
    assert by_function([]) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Error: Permission Denied: Try running again with elevated permissions", "ptrace_scope"),
        ("Error: Operation not permitted (os error 1)", "ptrace_scope"),
        ("Error: Failed to find a Python interpreter", "Failed to find"),
    ],
)
async def test_a_profiler_that_is_refused_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, told: str
) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(profiling, "program", lambda: program)
    with pytest.raises(SandboxError, match=told):
        await profiling.look(1, tmp_path / "out", "raw", 1)


async def test_a_profiler_sees_the_functions_of_a_process(tmp_path: Path) -> None:
    """The real one, over a process that burns in a function of that name."""
    script = tmp_path / "burn.py"
    script.write_text(
        "def burn():\n    print(flush=True)\n    while True:\n        sum(range(1000))\nburn()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        try:
            profiling.program()
        except SandboxError:
            pytest.skip("py-spy, which is of oqim[load], is not installed")
        try:
            await profiling.look(process.pid, tmp_path / "stacks", "raw", 1)
        except SandboxError as error:
            if str(error) == profiling.NOT_PERMITTED:
                pytest.skip("this machine permits no ptrace")
            raise
    finally:
        process.kill()
        await process.wait()
    spent = by_function((tmp_path / "stacks").read_text().splitlines())
    assert spent[0].function == "burn (burn.py)"
    assert profiling.table(spent).splitlines()[1].endswith("burn (burn.py)")
