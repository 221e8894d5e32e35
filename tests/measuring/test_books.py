"""The books of a run: a check that could not fail would prove every one."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.measuring import books
from tests.measuring.helpers import PAYMENT, POSTING, serving


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
        return await books.broken(database, http, simulators={"visa": url}, ids_file=ids_file)


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
        return await books.broken(database, http, simulators={"direct": None}, ids_file=ids_file)


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
