"""A new data key while payments run; another key-encryption key; shares that are not enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.custody.columns import COLUMNS
from gateway.kernel.secrets import KeysError
from gateway.kernel.vault.providers import ShareProvider, from_files, make_share
from tests.house import House, running_house, until
from tests.payments.books import SCHEMES, fresh_amount, pan
from tests.vault.opened import opened_vault


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house of its own: its keys change."""
    async with running_house(workers=2) as house:
        yield house


async def sealed_by(house: House) -> dict[str, set[int]]:
    """Return by which keys each column's values are sealed."""
    found = {}
    for column in COLUMNS:
        rows = await house.rows(
            f"SELECT DISTINCT get_byte({column.column}, 0) AS key FROM {column.table}"
            f" WHERE {column.column} IS NOT NULL"
        )
        found[column.name] = {row["key"] for row in rows}
    return found


async def test_every_sealed_column_is_known(house: House) -> None:
    """A column that rotation does not know would keep an old key alive."""
    rows = await house.rows(
        "SELECT table_name || '.' || column_name AS name FROM information_schema.columns"
        " WHERE data_type = 'bytea' AND table_schema = 'public'"
        " AND (column_name LIKE '%sealed%' OR column_name IN"
        " ('destination_pan', 'private_key', 'successor'))"
    )
    assert {row["name"] for row in rows} == {column.name for column in COLUMNS}


@pytest.mark.fault(rows=[60], what="a new data key under payments, the old one destroyed")
async def test_a_data_key_is_changed_under_load(house: House) -> None:
    """Row 60: not one error, everything opens, and nothing is sealed by the old key."""
    answers: list[int] = []
    is_over = asyncio.Event()

    async def paying(number: int) -> None:
        while not is_over.is_set():
            scheme = SCHEMES[number % 3]
            body = house.purchase(number, scheme, fresh_amount())
            if number % 2:
                body = house.transfer(number, "humo", number + 1, "humo", fresh_amount())
                # Somebody else's card, which is not kept here: its number is sealed.
                body["destination"] = {"pan": pan("humo", number + 1)}
            reply = await house.pay(number, body)
            answers.append(reply.status)

    clients = [asyncio.create_task(paying(number)) for number in range(6)]
    await until(lambda: len(answers) > 20, within_s=20)
    done = await asyncio.to_thread(house.oqim, "vault", "rotate")
    is_over.set()
    await asyncio.gather(*clients)
    assert done.returncode == 0, done.stderr
    assert set(answers) == {201}, sorted(set(answers))
    assert {key for keys in (await sealed_by(house)).values() for key in keys} == {2}
    states = await house.rows(
        "SELECT id, state, wrapped IS NULL AS gone FROM data_keys ORDER BY id"
    )
    assert [tuple(row) for row in states] == [(1, "destroyed", True), (2, "sealing", False)]
    vault = await opened_vault(house)
    for column in COLUMNS:
        rows = await house.rows(
            f"SELECT {column.key} AS key, {column.column} AS sealed FROM {column.table}"
            f" WHERE {column.column} IS NOT NULL LIMIT 500"
        )
        for row in rows:
            assert vault.open(row["sealed"], bound_to=column.binding(row["key"]))
    said = await asyncio.to_thread(house.oqim, "vault", "status")
    assert "data key   2  sealing" in said.stdout, said.stdout


async def test_another_key_encryption_key(house: House, tmp_path: Path) -> None:
    """The data keys are wrapped anew; the old shares no longer start a worker, the new ones do."""
    new = [tmp_path / f"kek-{number}.share" for number in (1, 2)]
    for path in new:
        made = await asyncio.to_thread(house.oqim, "vault", "new-share", str(path))
        assert made.returncode == 0, made.stderr
        again = await asyncio.to_thread(house.oqim, "vault", "new-share", str(path))
        assert again.returncode == 2, "a share is never overwritten"
    options = [word for path in new for word in ("--new-share", str(path))]
    done = await asyncio.to_thread(house.oqim, "vault", "rewrap", *options)
    assert done.returncode == 0, done.stderr
    with pytest.raises(KeysError, match="another key-encryption key"):
        await opened_vault(house)
    # Workers go on by what they hold.
    reply = await house.pay(9, house.purchase(9, "humo", fresh_amount()))
    assert reply.status == 201, reply.raw
    for number, path in enumerate(new, 1):
        (house.data_dir / f"kek-{number}.share").write_bytes(path.read_bytes())
    assert await opened_vault(house)
    await house.kill_workers()
    await until(house.is_ready, within_s=30)
    reply = await house.pay(9, house.purchase(9, "humo", fresh_amount()))
    assert reply.status == 201, reply.raw


def test_one_custodian_is_not_enough(tmp_path: Path) -> None:
    """It takes all shares, each of another, closed to others and whole."""
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        make_share(path)
    whole = from_files(paths)
    wrapped = whole.wrap(bytes(32), bound_to="data_keys|wrapped|1")
    assert from_files(paths[::-1]).unwrap(wrapped, bound_to="data_keys|wrapped|1") == bytes(32)
    with pytest.raises(KeysError, match="another"):
        whole.unwrap(wrapped, bound_to="data_keys|wrapped|2")
    with pytest.raises(KeysError, match="2 shares"):
        from_files(paths[:1])
    with pytest.raises(KeysError, match="the same"):
        from_files([paths[0], paths[0]])
    with pytest.raises(KeysError, match="missing"):
        from_files([paths[0], tmp_path / "c"])
    paths[1].chmod(0o640)
    with pytest.raises(KeysError, match="chmod 600"):
        from_files(paths)
    paths[1].chmod(0o600)
    paths[1].write_text("c2hvcnQ=\n")
    with pytest.raises(KeysError, match="no share"):
        from_files(paths)
    with pytest.raises(KeysError, match="another"):
        ShareProvider([bytes(32), b"1" * 32]).unwrap(wrapped, bound_to="data_keys|wrapped|1")
