"""An export of a house that was used holds; every way to change one is found, and where."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.audit.verify import Anchor, Report, UnreadableExport, verify
from gateway.kernel.audit.chain import genesis, linked
from tests.house import House, changed_config, new_key, running_house, until
from tests.payments.books import SCHEMES, fresh_amount

OFTEN = {"settings": {"root_s = 60.0": "root_s = 0.4"}}
Line = dict[str, Any]


@pytest.fixture(scope="module")
async def used() -> AsyncIterator[House]:
    """Two workers that were paid by, refused, asked for a rule and approved; one was killed."""
    with changed_config(**OFTEN) as environment:
        async with running_house(workers=2, environment=environment) as house:
            await use(house)
            await house.kill_workers(1)
            await until(house.is_ready, within_s=20)
            await use(house)
            yield house


async def use(house: House) -> None:
    """Make decisions of every kind, and acts of operators."""
    # Each wave is a batch or two, and so a record or two.
    for _ in range(6):
        paying = [
            house.pay(user, house.purchase(user, SCHEMES[user % 3], fresh_amount()))
            for user in range(6)
        ]
        for reply in await asyncio.gather(*paying):
            assert reply.status == 201, reply.raw
    for user in range(5):
        reply = await house.pay(user, house.purchase(user, "humo", 10**13))
        assert reply.code == "limit-exceeded", reply.raw
    policy = {
        "id": f"audit-{new_key()[-12:]}",
        "priority": 1,
        "subject": "user",
        "window": {"kind": "calendar", "unit": "month"},
        "max_count": 1_000_000,
        "currency": "UZS",
    }
    first, second = (one["access_token"] for one in house.description["operators"][:2])
    proposed = await house.call("POST", "/admin/v1/limit-policies", policy, token=first)
    assert proposed.status == 201, proposed.raw
    path = f"/admin/v1/proposals/{proposed.body['id']}/approve"
    approved = await house.call("POST", path, token=second)
    assert approved.status == 200, approved.raw


async def rooted(house: House) -> None:
    """Wait until a root names everything there is."""
    count = "SELECT count(*) FROM audit_roots"
    before = (await house.rows(count))[0][0]

    async def is_rooted() -> bool:
        return bool((await house.rows(count))[0][0] >= before + 2)

    await until(is_rooted, within_s=20)


@dataclass
class Export:
    """An export in memory, to be changed.

    Attributes:
        key: the signer's, as the house's keeper knows it.
    """

    lines: list[Line]
    key: bytes
    log: list[Line] = field(default_factory=list)

    def of(self, shard: str) -> list[Line]:
        return [one for one in self.lines if one.get("shard") == shard]

    @property
    def busiest(self) -> str:
        """The chain of decisions with the most records."""
        names = [one["shard"] for one in self.lines if "intents" in one.get("shard", "")]
        return max(set(names), key=names.count)

    def copy(self) -> Export:
        return Export(json.loads(json.dumps(self.lines)), self.key)

    def checked(self, anchor: Anchor | None = None) -> Report:
        lines = [json.dumps(one).encode() for one in self.lines]
        return verify(lines, key=self.key, anchor=anchor)

    def rehash(self, shard: str) -> None:
        """Compute a chain anew, as whoever can write to the database could."""
        before = genesis(shard)
        for one in self.of(shard):
            before = linked(before, one["record"])
            one["hash"] = before.hex()


@pytest.fixture(scope="module")
async def whole(used: House, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return what `oqim audit export` writes."""
    await rooted(used)
    file = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    done = await asyncio.to_thread(used.oqim, "audit", "export", "--out", str(file))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return Export(lines, base64.b64decode(lines[0]["key"]))


async def test_everything_decided_and_done_is_in_it(used: House, whole: Export) -> None:
    """Every payment, refusal and act has its record; nothing is left unsigned; all of it holds."""
    report = whole.checked()
    assert report.faults == []
    assert report.unsigned == 0
    assert report.roots > 0
    told = {one["id"] for one in whole.lines if one["type"] == "document"}
    for table in ("payments", "refusals"):
        ids = {row["id"] for row in await used.rows(f"SELECT id FROM {table}")}
        assert ids, f"there are {table}"
        assert ids <= told
    acts = (await used.rows("SELECT count(*) FROM audit_log"))[0][0]
    assert len(whole.of("acts")) == acts > 0


async def test_the_command_says_it(used: House, whole: Export, tmp_path: Path) -> None:
    """Status 0 and the counts; 1 and the record; 2 for what is no export."""
    file = tmp_path / "audit.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in whole.lines))
    key = whole.lines[0]["key"]
    held = await asyncio.to_thread(used.oqim, "audit", "verify", str(file), "--key", key)
    assert (held.returncode, held.stdout.split(";")[0]) == (0, "audit log: holds"), held.stderr
    changed = whole.copy()
    changed.of("acts")[0]["record"] = changed.of("acts")[0]["record"].replace("usr", "bad")
    changed.of("acts")[0]["record"] += " "
    file.write_text("\n".join(json.dumps(one) for one in changed.lines))
    broken = await asyncio.to_thread(used.oqim, "audit", "verify", str(file))
    assert broken.returncode == 1
    assert broken.stdout.startswith("acts record 1: "), broken.stdout
    file.write_text("nonsense\n")
    unread = await asyncio.to_thread(used.oqim, "audit", "verify", str(file))
    assert unread.returncode == 2
    assert "line 1" in unread.stderr


def edited(export: Export, shard: str) -> int:
    one = export.of(shard)[2]
    one["record"] = one["record"].replace('"at":1', '"at":2')
    return 3


def cut_out(export: Export, shard: str) -> int:
    export.lines.remove(export.of(shard)[2])
    return 3


def cut_off(export: Export, shard: str) -> int:
    count = len(export.of(shard))
    for one in export.of(shard)[-2:]:
        export.lines.remove(one)
    return count - 1


def reordered(export: Export, shard: str) -> int:
    second, third = export.of(shard)[1:3]
    at, after = export.lines.index(second), export.lines.index(third)
    export.lines[at], export.lines[after] = third, second
    return 2


def renumbered(export: Export, shard: str) -> int:
    second, third = export.of(shard)[1:3]
    second["record"], third["record"] = third["record"], second["record"]
    second["hash"], third["hash"] = third["hash"], second["hash"]
    return 2


def added(export: Export, shard: str) -> int:
    last = export.of(shard)[2]
    export.lines.insert(export.lines.index(last), dict(last))
    return 3


@pytest.mark.fault(rows=[57], what="edited, cut out, cut off, reordered, renumbered, added")
@pytest.mark.parametrize("kind", ["acts", "decisions"])
@pytest.mark.parametrize("change", [edited, cut_out, cut_off, reordered, renumbered, added])
def test_a_change_is_found_where_it_was_made(
    whole: Export, change: Callable[[Export, str], int], kind: str
) -> None:
    """I11: the first bad record is named, whatever was done to it."""
    export = whole.copy()
    shard = "acts" if kind == "acts" else export.busiest
    expected = change(export, shard)
    (fault,) = [one for one in export.checked().faults if one.shard == shard]
    assert fault.seq == expected, fault


@pytest.mark.fault(rows=[57], what="edited, and all that follows computed anew")
@pytest.mark.parametrize("kind", ["acts", "decisions"])
def test_a_chain_computed_anew_is_found_by_its_roots(whole: Export, kind: str) -> None:
    """I11: the hashes follow from one another, but not to what was signed."""
    export = whole.copy()
    shard = "acts" if kind == "acts" else export.busiest
    record = export.of(shard)[-1]
    record["record"] = record["record"].replace('"at":1', '"at":2')
    record.pop("shown", None)
    export.rehash(shard)
    (fault,) = [one for one in export.checked().faults if one.shard == shard]
    assert fault.seq <= record["seq"]
    assert "computed anew" in fault.what


@pytest.mark.fault(rows=[57], what="roots signed anew by another, or cut off")
def test_roots_are_found_by_an_anchor_or_a_key(whole: Export) -> None:
    """I11: with the key, another's signature is found; with an anchor, a log cut short."""
    export = whole.copy()
    last = export.of("roots")[-1]
    anchor = Anchor(last["seq"], last["hash"], last["signature"])
    assert export.checked(anchor).faults == []
    export.lines.remove(last)
    (fault,) = export.checked(anchor).faults
    assert (fault.shard, fault.seq) == ("roots", last["seq"])
    export = whole.copy()
    export.of("roots")[1]["signature"] = base64.b64encode(bytes(64)).decode()
    (fault,) = export.checked().faults
    assert (fault.shard, fault.seq) == ("roots", 2)
    export.key = bytes(31) + b"\x01"
    with pytest.raises(UnreadableExport):
        export.checked(anchor)


def test_a_decision_that_was_changed_is_found(whole: Export) -> None:
    """A payment's row that was edited, or is gone, is named by the record that told of it."""
    for change in ("edit", "remove"):
        export = whole.copy()
        document = next(one for one in export.lines if one["type"] == "document")
        if change == "edit":
            assert '"amount":' in document["document"]
            document["document"] = document["document"].replace('"amount":', '"amount":1')
        else:
            export.lines.remove(document)
        (fault,) = export.checked().faults
        assert document["id"] in fault.what


async def test_what_is_shown_is_what_is_chained(used: House, whole: Export) -> None:
    """An act edited by the database's owner, triggers off, is found in the next export."""
    connection = await asyncpg.connect(used.description["database_url"])
    try:
        with pytest.raises(asyncpg.RaiseError, match="only ever added"):
            await connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE seq = 2")
        for table in ("audit_log", "decision_log", "audit_roots"):
            with pytest.raises(asyncpg.RaiseError, match="only ever added"):
                await connection.execute(f"DELETE FROM {table}")
    finally:
        await connection.close()
    export = whole.copy()
    export.of("acts")[1]["shown"]["actor"] = "nobody"
    (fault,) = export.checked().faults
    assert (fault.shard, fault.seq) == ("acts", 2)
