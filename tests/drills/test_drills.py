"""Each drill, short, on one sandbox: it makes its trouble, sees what came of it, and judges it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from gateway.drills import commands, report, soak
from gateway.drills.drilling import Drilling, Plan, drilling
from gateway.drills.faults import Watch
from gateway.drills.load import SPIKE_ROW_S, back_after
from gateway.drills.report import Bar, Findings
from gateway.drills.run import DRILLS
from gateway.drills.run import drill as make_drill
from gateway.measuring.helpers import seed
from gateway.measuring.open_loop import Row
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import SilentProgress
from tests.house import House, changed_config, running_house, until

SVG = "{http://www.w3.org/2000/svg}"
USERS = 300
RATE = 60.0
LOADTESTS = Path(__file__).resolve().parents[2] / "loadtests"
# What is silent is given up soon, and doubt is over soon.
IMPATIENT = {
    "connectors": {
        "timeout_ms = 10000": "timeout_ms = 500\nbreaker_open_ms = 500",
        'terminal_id = "OQIM0001"': 'terminal_id = "OQIM0001"\ntimeout_ms = 500',
    },
    "settings": {
        "not_found_final_s = 15.0": "not_found_final_s = 1.0",
        "retry_first_s = 1.0": "retry_first_s = 0.2",
        "retry_last_s = 10.0": "retry_last_s = 1.0",
    },
}


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[House]:
    """The sandbox of this module."""
    with changed_config(**IMPATIENT) as environment:
        async with running_house(environment=environment) as house:
            yield house


@pytest.fixture(scope="module")
async def drill(sandbox: House) -> AsyncIterator[Drilling]:
    """What drills are made on, seeded once."""
    plan = Plan(users=USERS, peak_s=1.0, warm_up_s=0.5)
    async with drilling(
        plan,
        sandbox_file=sandbox.data_dir / "sandbox.json",
        loadtests=LOADTESTS,
        progress=SilentProgress(),
    ) as one:
        yield one


async def run(drill: Drilling, kind: str, **changes: Any) -> Findings:
    """Make a drill, by a plan of its own; its books must hold, and it must be tellable."""
    plan, drill.plan = drill.plan, replace(drill.plan, **changes)
    try:
        found = await DRILLS[kind](drill)
    finally:
        drill.plan = plan
    assert found.broken == []
    conditions = {
        "at": "now", "cores": 2, "load_average": 0.0, "plan": {"workers": 1, "users": USERS},
    }  # fmt: skip
    text = report.text(found, conditions)
    assert text.startswith(f"Drill: {kind}\n")
    assert text.endswith("The books hold.\n")
    json.dumps(found.figures)
    return found


def names(found: Findings) -> list[str]:
    return [bar.what for bar in found.bars]


async def test_latency_is_measured_at_half_the_peak(drill: Drilling) -> None:
    found = await run(drill, "latency", seconds=2.0)
    peak, half = found.figures["peak"]["per_second"], found.figures["half the peak"]
    assert half["rate"] == pytest.approx(peak / 2)
    assert half["payments"]["completed"] > 0
    assert names(found) == ["p50", "p99"]


async def test_an_overload_is_shed_and_counted(drill: Drilling) -> None:
    """What completes and what is shed are all that was asked for."""
    found = await run(drill, "overload", seconds=2.0)
    overload = found.figures["overload"]
    assert overload["rate"] == pytest.approx(found.figures["peak"]["per_second"] * 3)
    answered = sum(overload["payments"]["statuses"].values())
    assert answered == overload["payments"]["asked"]
    assert found.figures["completed_percent_of_peak"] > 0
    assert len(found.bars) == 2


async def test_a_spike_passes(drill: Drilling) -> None:
    found = await run(drill, "spike", rate=RATE, seconds=1.0)
    spike = found.figures["spike"]
    assert spike["payments"]["completed"] > 0
    assert spike["seconds"] == 5.0
    assert names(found) == ["back after the spike"]


async def test_a_soak_looks_at_every_process(drill: Drilling) -> None:
    found = await run(drill, "soak", rate=RATE, seconds=6.0)
    looks = found.figures["looks"]
    assert len(looks) >= 6
    for look in looks:
        for name in ("gateway", "postgres", "valkey", "simulators"):
            use = look["uses"][name]
            assert use["rss_kb"] >= use["pss_kb"] > 1_000
            assert use["descriptors"] > 5
    judged = names(found)
    assert "gateway, PSS MB: an hour adds for sure" in judged
    assert "p99 ms: an hour adds for sure" in judged
    assert not any("simulators" in name for name in judged)
    drawn = [one.text for one in ElementTree.fromstring(found.picture).iter(f"{SVG}text")]
    assert {"gateway", "postgres", "p99"} <= set(drawn)


async def test_a_silent_processor_troubles_itself_alone(drill: Drilling) -> None:
    found = await run(drill, "failing-processor", scheme="humo", rate=RATE, seconds=2.0)
    assert found.figures["breaker_opened_s"] > 0
    assert found.figures["breaker_closed_s"] is not None
    schemes = found.figures["all three"]["by_scheme"]
    assert schemes["humo"]["completed"] < schemes["humo"]["asked"] or (
        schemes["humo"]["statuses"].get("202", 0) > 0
    )
    for scheme in ("visa", "uzcard"):
        assert found.figures[f"{scheme}_others"]["taken_percent"] > 90


async def test_the_meters_read_over_the_connection_that_is_opened_anew(drill: Drilling) -> None:
    """What a drill still measures after its database was gone is measured."""
    before = await drill.stage.meters.read()
    old = drill.stage.connection
    await drill.reconnect()
    assert old.is_closed()
    await drill.stage.connection.execute("CREATE TEMPORARY TABLE written ()")
    after = await drill.stage.meters.read()
    assert after.writes > before.writes


async def test_a_killed_database_comes_back(drill: Drilling, sandbox: House) -> None:
    """The last drill: what was open to the database is gone with it."""
    found = await run(drill, "failover", rate=RATE, seconds=4.0)
    assert found.figures["killed_s"] > 0
    assert found.figures["outage_s"] > 0
    assert found.figures["settled"]["still_unknown"] == 0
    await until(sandbox.is_ready, within_s=30)
    assert (await sandbox.pay(1, sandbox.purchase(1, "visa", 10_000))).status == 201


async def test_more_users_are_seeded_beside_those_there_are(
    sandbox: House, drill: Drilling, tmp_path: Path
) -> None:
    """Each has a token that the gateway takes, and a card of every scheme that is theirs."""
    out = tmp_path / "seeded.json"
    await seed(LOADTESTS, sandbox.data_dir / "sandbox.json", 7, out)
    assert out.stat().st_mode & 0o777 == 0o600
    told_of = json.loads(out.read_text())
    before = json.loads(drill.stage.seeded.read_text())
    assert (len(told_of["tokens"]), len(before["tokens"])) == (7, USERS)
    for number in (0, 6):
        listed = await sandbox.call("GET", "/v1/cards", token=told_of["tokens"][number])
        assert listed.status == 200, listed.raw
        ids = {card["id"] for card in listed.body["data"]}
        assert ids == {told_of["cards"][scheme][number] for scheme in ("visa", "humo", "uzcard")}
    assert not set(told_of["cards"]["visa"]) & set(before["cards"]["visa"])


async def test_user_stories_are_told_without_a_complaint(sandbox: House) -> None:
    """Every kind of user, each request as expected; locust's exit code says so."""
    # Importing it would make green threads of this process's own.
    if find_spec("locust") is None:
        pytest.skip("locust, which is of oqim[load], is not installed")
    command: list[str | Path] = [
        *(
            sys.executable,
            "-m",
            "locust",
            "-f",
            LOADTESTS / "locustfile.py",
            "--headless",
            "--only-summary",
        ),
        *("-u", "18", "-r", "18", "-t", "6s", "--json", "--loglevel", "WARNING"),
    ]

    def tell() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=os.environ | {"OQIM_SANDBOX_FILE": str(sandbox.data_dir / "sandbox.json")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = await asyncio.to_thread(tell)
    assert done.returncode == 0, done.stderr[done.stderr.find("Error report") :][:3000]
    told_of = {row["name"] for row in json.loads(done.stdout)}
    for story in (
        "/v1/auth/challenges",
        "/oauth/token client_credentials",
        "/v1/webhook-endpoints",
        "/v1/callbacks/",
        "/admin/v1/money-in-doubt",
    ):
        assert any(name.startswith(story) for name in told_of), story


# The command -----------------------------------------------------------------------------------


def test_every_drill_has_a_name_on_the_command_line() -> None:
    (literal, _) = get_args(get_type_hints(commands.drill, include_extras=True)["kind"])
    assert get_args(literal) == tuple(DRILLS)


async def test_a_drill_on_no_sandbox_says_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot be read"):
        await make_drill(
            "latency",
            Plan(),
            sandbox_file=tmp_path / "sandbox.json",
            loadtests=LOADTESTS,
            progress=SilentProgress(),
        )


# What is made of figures -----------------------------------------------------------------------


def row(at_s: float, p99_ms: float, *, asked: int = 10, completed: int = 10) -> Row:
    return Row(at_s, "visa", asked, completed, p99_ms / 2, p99_ms, p99_ms)


@pytest.mark.parametrize(
    ("rows", "back_s"),
    [
        ([5, 5, 5], 0.0),
        ([50, 50, 5, 5], 2 * SPIKE_ROW_S),
        ([5, 50, 5], 2 * SPIKE_ROW_S),
        ([5, 5, 50], None),
    ],
)
def test_it_is_over_when_nothing_bad_follows(rows: list[float], back_s: float | None) -> None:
    parts = [row(number * SPIKE_ROW_S, p99_ms) for number, p99_ms in enumerate(rows)]
    assert back_after(parts, 20.0) == back_s


def test_what_was_not_taken_is_not_over() -> None:
    assert back_after([row(0, 5), row(0.5, 5, completed=9), row(1, 5)], 20.0) == 2 * SPIKE_ROW_S


def test_a_line_is_laid_through_what_was_seen() -> None:
    """Level, slope by the hour, and how sure that is."""
    steady = soak.fit([(at, 100 + at / 36) for at in range(0, 100, 10)])
    assert steady.level == pytest.approx(100)
    assert steady.per_hour == pytest.approx(100)
    assert steady.unsure_per_hour == pytest.approx(0, abs=1e-6)
    assert not steady.is_flat("MB")
    noisy = soak.fit([(at, 100 + (at // 10 % 2)) for at in range(0, 100, 10)])
    assert noisy.unsure_per_hour > 10
    assert noisy.is_flat("MB")
    assert soak.fit([(at, 100.0) for at in range(5)]).growth == 0


@pytest.mark.parametrize(
    ("level", "per_hour", "is_flat"),
    [(1000, 100, True), (1000, 101, False), (2, 16, True), (2, 17, False), (1000, -900, True)],
)
def test_growth_is_a_part_of_the_level_or_more_than_a_little(
    level: float, per_hour: float, is_flat: bool
) -> None:
    assert soak.Line(level, per_hour, 0.0).is_flat("MB") is is_flat


def test_a_curve_is_higher_where_the_value_is() -> None:
    image = soak.picture(
        {"a": [("x", [(0, 0), (5, 10), (10, 5)])], "b": [("y", [(0, 0), (10, 0)])]}
    )
    lines = [
        [tuple(map(float, place.split(","))) for place in one.attrib["points"].split()]
        for one in ElementTree.fromstring(image).iter(f"{SVG}polyline")
    ]
    (first, second, third), flat = lines
    assert first[0] < second[0] < third[0]
    assert first[1] > third[1] > second[1]
    assert flat[0][1] == flat[1][1] > first[1]


@dataclass(frozen=True)
class Case:
    found: float | None
    is_least: bool
    is_met: bool


@pytest.mark.parametrize(
    "case",
    [Case(9, False, True), Case(10, False, False), Case(10, True, True), Case(9, True, False),
     Case(None, False, False), Case(None, True, False)],
)  # fmt: skip
def test_a_bar_is_met_or_not(case: Case) -> None:
    bar = Bar("p99", case.found, 10, "ms", is_least=case.is_least)
    assert bar.is_met is case.is_met
    assert bar.words().endswith("yes" if case.is_met else "NO")


@pytest.mark.parametrize(
    ("findings", "fails", "fails_strictly"),
    [
        (Findings("x"), False, False),
        (Findings("x", bars=[Bar("p99", 11, 10, "ms")]), False, True),
        (Findings("x", void="slow"), False, True),
        (Findings("x", broken=["a payment was lost"]), True, True),
    ],
)
def test_what_ends_a_drill_with_a_failure(
    findings: Findings, fails: bool, fails_strictly: bool
) -> None:
    assert findings.fails(is_strict=False) is fails
    assert findings.fails(is_strict=True) is fails_strictly


def test_a_drill_is_one_line_of_json(tmp_path: Path) -> None:
    found = Findings("latency", bars=[Bar("p99", 11, 10, "ms")], broken=["lost"])
    found.say("Peak: 3", peak=3)
    at = datetime(2026, 11, 22, 9, tzinfo=UTC)
    path = report.keep(tmp_path, at, found, {"cores": 2})
    (line,) = path.read_text().splitlines()
    kept = json.loads(line)
    assert (kept["drill"], kept["figures"]) == ("latency", {"peak": 3})
    assert kept["bars"][0]["is_met"] is False
    assert kept["broken"] == ["lost"]


def test_a_breaker_is_seen_to_open_and_to_close() -> None:
    watch = Watch()
    watch.see(False)
    assert (watch.opened_s, watch.closed_s) == (None, None)
    watch.see(True)
    opened_s = watch.opened_s
    assert opened_s is not None
    watch.see(False)
    assert watch.closed_s is not None
    watch.see(True)
    assert watch.opened_s == opened_s
    assert watch.closed_s is None
