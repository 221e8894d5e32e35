"""The control routes and the process: bad input, paging, restart after a kill, the end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from connectors.simulators.pans import is_luhn_valid, pan_of, token_of
from tests.simulators.conftest import Start
from tests.simulators.sim_clients import (
    HUMO_PAN,
    UZCARD_PAN,
    VISA_PAN,
    Control,
    HumoClient,
    UzcardClient,
    VisaClient,
    about,
    authorisation,
    charge,
    hold,
    pay,
    unique,
    until,
)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "faults", b"{", 400, "invalid-json"),
        ("POST", "faults", b'{"kind":"\xff"}', 400, "invalid-json"),
        ("POST", "faults", {"kind": "explode", "count": 1}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "decline"}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "decline", "count": 1, "rate": 0.5}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "decline", "count": -1}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "decline", "rate": 1.1}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "decline", "count": "1"}, 400, "invalid-body"),
        ("POST", "faults", {"kind": "delay", "count": 1, "seconds": -1}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "garbage", "count": 1, "code": 1}, 400, "invalid-fault"),
        ("POST", "faults", {"kind": "decline", "count": 1, "typo": 1}, 400, "invalid-body"),
        ("POST", "clock", {"advance_seconds": -1}, 400, "invalid-clock"),
        ("POST", "clock", {}, 400, "invalid-body"),
        ("POST", "cards", {"pan": "8600000000000016"}, 400, "invalid-card"),
        ("POST", "cards", {"pan": VISA_PAN}, 400, "invalid-card"),
        ("POST", "cards", {"pan": UZCARD_PAN, "expiry": "1325"}, 400, "invalid-card"),
        ("POST", "cards", {"pan": UZCARD_PAN, "status": "odd"}, 400, "invalid-card"),
        ("POST", "cards", {"pan": UZCARD_PAN, "status": 22}, 400, "invalid-card"),
        ("POST", "cards", {"pan": UZCARD_PAN, "phone": "call me"}, 400, "invalid-phone"),
        ("POST", "cards", {"pan": UZCARD_PAN, "balance": 10**16}, 400, "invalid-card"),
        ("GET", "ledger?limit=x", None, 400, "invalid-query"),
        ("GET", "ledger?offset=-1", None, 400, "invalid-query"),
        ("PUT", "ledger", None, 405, "method-not-allowed"),
        ("GET", "nothing", None, 404, "not-found"),
    ],
)
async def test_bad_input_is_a_problem_that_names_the_member(
    uzcard: UzcardClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    """The document's status is the response's, and the detail helps."""
    got, problem = await uzcard.control.call(method, path, body)
    assert (got, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"]
    if isinstance(body, dict) and "pan" in body:
        assert body["pan"] not in json.dumps(problem)


async def test_arming_answers_with_what_is_armed(uzcard: UzcardClient) -> None:
    """The same kind replaces, count 0 and DELETE disarm."""
    control = uzcard.control
    await control.ok("POST", "faults", {"kind": "decline", "count": 1, "code": -204})
    await control.ok("POST", "faults", {"kind": "decline", "count": 1, "method": "hold.create"})
    armed = await control.ok("POST", "faults", {"kind": "decline", "count": 3})
    assert [(fault["count"], fault["code"]) for fault in armed] == [(1, "-240"), (3, "-240")]
    await control.ok("POST", "faults", {"kind": "delay", "rate": 0.1, "seconds": 2})
    left = await control.ok("POST", "faults", {"kind": "decline", "count": 0})
    assert left == [{"kind": "delay", "rate": 0.1, "seconds": 2.0}]
    assert await control.ok("DELETE", "faults") == []
    assert await control.ok("GET", "faults") == []


async def test_the_index_lists_every_route(uzcard: UzcardClient, visa_control: Control) -> None:
    """A newcomer finds the rest from there."""
    index = await uzcard.control.ok("GET", "")
    assert "GET /_sim/messages" in index["routes"]
    assert "POST /_sim/advices" in (await visa_control.ok("GET", ""))["routes"]


async def test_the_ledger_is_paged_and_searched(uzcard: UzcardClient) -> None:
    """Oldest first; every member is there."""
    token = await uzcard.token(UZCARD_PAN)
    exts = [unique("att") for _ in range(5)]
    for ext in exts:
        await uzcard.result("trans.pay.purpose", pay(token, ext, 10))
    page = await uzcard.control.ok("GET", "ledger?limit=2&offset=2")
    assert [entry["ref"] for entry in page] == exts[2:4]
    (entry,) = await uzcard.control.ledger(exts[4])
    assert {
        "ref", "kind", "amount", "state", "captured_amount", "refunded_amount", "rrn",
        "currency", "pan_last4", "created_at",
    } <= set(entry)  # fmt: skip
    assert UZCARD_PAN not in json.dumps(entry)
    assert await uzcard.control.ledger("nobody") == []


async def test_a_reset_forgets_everything(uzcard: UzcardClient) -> None:
    """Ledger, accounts, faults, clock and messages."""
    control = uzcard.control
    token = await uzcard.token(UZCARD_PAN)
    await control.card(UZCARD_PAN, balance=500, status="active", phone="+998901234567")
    await uzcard.result("trans.pay.purpose", pay(token, unique("att"), 10))
    card = {"pan": UZCARD_PAN, "expiry": "3012"}
    await uzcard.result("cards.new.otp", {"card": card})
    await control.fault("decline")
    await control.advance(100)
    await control.ok("POST", "reset")
    assert await control.ledger() == []
    assert await control.ok("GET", "faults") == []
    assert await control.ok("GET", "messages") == []
    assert (await control.ok("GET", "clock"))["offset_seconds"] == 0
    shown = await control.card(UZCARD_PAN)
    assert (shown["balance"], shown["phone"]) == (10**13, None)


async def test_messages_are_kept_by_phone(uzcard: UzcardClient) -> None:
    """A plus in the query may be encoded, bare or left out."""
    card = {"pan": UZCARD_PAN, "expiry": "3012"}
    await uzcard.result("cards.new.otp", {"card": card, "requestorPhone": "998901111111"})
    for spelling in ("%2B998901111111", "+998901111111", "998901111111"):
        (message,) = await uzcard.control.ok("GET", f"messages?to={spelling}")
        assert message["to"] == "+998901111111"
        assert set(message) == {"to", "code", "at"}
    assert await uzcard.control.ok("GET", "messages?to=%2B998902222222") == []


async def test_other_paths_of_the_control_port_do_not_exist(visa_control: Control) -> None:
    """The VISA control port serves nothing else."""
    async with visa_control.session.post(f"{visa_control.url}/", data=b"{}") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("version", "header", "is_closed"),
    [("1.1", "", False), ("1.1", "Connection: close\r\n", True), ("1.0", "", True)],
)
async def test_replies_keep_http_connections_as_asked(
    uzcard: UzcardClient, version: str, header: str, is_closed: bool
) -> None:
    """A reply is whole by its length, and the connection ends when the client wants it to."""
    host, _, port = uzcard.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"jsonrpc":"2.0","id":7,"method":"no.such"}'
    head = f"POST / HTTP/{version}\r\nHost: x\r\n{header}Authorization: {uzcard.auth}\r\n"
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    async with asyncio.timeout(10):
        for _ in range(1 if is_closed else 2):
            writer.write(message)
            told = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert told.startswith("HTTP/1.1 200 OK\r\n")
            length = int(told.partition("Content-Length: ")[2].partition("\r\n")[0])
            assert json.loads(await reader.readexactly(length))["error"]["code"] == -32601
        if is_closed:
            assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_ledgers_survive_a_kill(start: Start, session: aiohttp.ClientSession) -> None:
    """Entries, balances, cards and indexes are as before; numbers are not given twice."""
    first = await start()
    uzcard = UzcardClient(session, first.ready["uzcard"]["url"])
    humo = HumoClient(session, first.ready["humo"]["url"])
    visa_control = Control(session, first.ready["visa"]["control_url"])
    token = await uzcard.token(UZCARD_PAN)
    await uzcard.control.card(UZCARD_PAN, balance=5_000, phone="+998901234567")
    paid = await uzcard.result("trans.pay.purpose", pay(token, "a", 100))
    part = {"tranId": paid["refNum"], "reverseAmount": 30, "ext": "r"}
    given = await uzcard.result("trans.reverse.partial", {"tran": part})
    held = await uzcard.result("hold.create", hold(token, 200, minutes=10))
    await humo.create("SOAP_SMS", "b", 300)
    await humo.request("c", "9860010000000017", 50, fee=5)
    purchase, late = authorisation(400), authorisation(9)
    at = first.ready["visa"]
    async with VisaClient(at["host"], at["port"]) as visa:
        assert (await visa.ask(purchase))["39"] == "00"
        assert (await visa.ask(about("0420", late)))["39"] == "25"
    before = [await control.ledger() for control in (uzcard.control, humo.control, visa_control)]
    await first.end(signal.SIGKILL)

    second = await start()
    uzcard = UzcardClient(session, second.ready["uzcard"]["url"])
    humo = HumoClient(session, second.ready["humo"]["url"])
    visa_control = Control(session, second.ready["visa"]["control_url"])
    after = [await control.ledger() for control in (uzcard.control, humo.control, visa_control)]
    assert after == before
    shown = await uzcard.control.card(UZCARD_PAN)
    assert (shown["balance"], shown["phone"]) == (5_000 - 70 - 200, "+998901234567")
    assert await humo.control.moved(HUMO_PAN) == -355
    assert await visa_control.moved(VISA_PAN) == -400
    assert await uzcard.result("trans.ext", {"extId": "r"}) == [given]
    assert await uzcard.error("trans.pay.purpose", pay(token, "a", 100)) == -207
    await uzcard.control.advance(601)
    order = charge(held["id"], "late", 200)
    assert await uzcard.error("hold.dismiss.charge", order) == -242
    assert (await humo.confirm("c")).fields["action"] == "10"
    assert (await humo.confirm("b")).fields["action"] == "10"
    at = second.ready["visa"]
    async with VisaClient(at["host"], at["port"]) as visa:
        assert (await visa.ask(late))["39"] == "94"
        assert (await visa.ask(about("0420", purchase)))["39"] == "00"
    rrns = {entry["rrn"] for entry in await uzcard.control.ledger() if entry["rrn"]}
    newer = await uzcard.result("trans.pay.purpose", pay(token, "z", 1))
    assert newer["refNum"] not in rrns | {given["refNum"]}


async def test_a_torn_last_line_is_cut_off(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """What was whole is kept, and what follows can be read at the next start."""
    journal = tmp_path / "uzcard.jsonl"
    for tail in (b'{"entries":[{"ref":"tor', b"\0\0\0\n"):
        running = await start()
        uzcard = UzcardClient(session, running.ready["uzcard"]["url"])
        token = await uzcard.token(UZCARD_PAN)
        known = len(await uzcard.control.ledger())
        await uzcard.result("trans.pay.purpose", pay(token, unique("torn"), 100))
        await running.end(signal.SIGKILL)
        whole = journal.read_bytes()
        journal.write_bytes(whole + tail)
        running = await start()
        uzcard = UzcardClient(session, running.ready["uzcard"]["url"])
        assert len(await uzcard.control.ledger()) == known + 1
        assert journal.read_bytes() == whole
        assert await running.end(signal.SIGTERM) == 0


def run_once(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a process that is expected to end by itself."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "connectors.simulators",
            *arguments,
            "--data-dir",
            str(data_dir),
            "--ready-file",
            str(data_dir / "other.json"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_journal_damaged_inside_stops_the_start(tmp_path: Path) -> None:
    """Nobody should be judged by half a ledger."""
    (tmp_path / "humo.jsonl").write_bytes(b'{"card":{}}\n{"entries":[]}\n')
    ended = run_once(tmp_path)
    assert ended.returncode == 1
    assert "line 1 is damaged" in ended.stderr


async def test_a_journal_has_one_process(start: Start, tmp_path: Path) -> None:
    """A second on the same folder says so and ends."""
    await start()
    ended = await asyncio.to_thread(run_once, tmp_path)
    assert ended.returncode == 1
    assert "held by another process" in ended.stderr
    assert not (tmp_path / "other.json").exists()


async def test_no_journal_holds_a_card_number(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Cards are named by tokens on disk."""
    running = await start()
    uzcard = UzcardClient(session, running.ready["uzcard"]["url"])
    await uzcard.control.card(UZCARD_PAN, balance=1_000)
    await uzcard.result("trans.pay.purpose", pay(await uzcard.token(UZCARD_PAN), "a", 1))
    at = running.ready["visa"]
    async with VisaClient(at["host"], at["port"]) as visa:
        await visa.ask(authorisation(1))
    names = ("uzcard", "humo", "visa")
    written = b"".join((tmp_path / f"{name}.jsonl").read_bytes() for name in names)
    assert b'"ref":"a"' in written
    assert UZCARD_PAN.encode() not in written
    assert VISA_PAN.encode() not in written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_ends_cleanly_with_clients_waiting(
    start: Start, session: aiohttp.ClientSession, number: int
) -> None:
    """A held-back answer and an open socket do not keep it alive."""
    running = await start()
    uzcard = UzcardClient(session, running.ready["uzcard"]["url"])
    token = await uzcard.token(UZCARD_PAN)
    await uzcard.control.fault("drop_reply_after_commit")
    waiting = asyncio.create_task(uzcard.call("trans.pay.purpose", pay(token, "a", 1), 30.0))

    async def recorded() -> bool:
        return bool(await uzcard.control.ledger("a"))

    await until(recorded)
    at = running.ready["visa"]
    async with VisaClient(at["host"], at["port"]):
        async with asyncio.timeout(10):
            assert await running.end(number) == 0
    with pytest.raises(aiohttp.ClientError):
        await waiting


async def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent killed outright takes it along when it was asked to."""
    ready_file = tmp_path / "ready.json"
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])",
        "-m",
        "connectors.simulators",
        "--data-dir",
        str(tmp_path),
        "--ready-file",
        str(ready_file),
        "--exit-with-parent",
    )

    async def is_ready() -> bool:
        return ready_file.exists()

    await until(is_ready)
    ready = json.loads(ready_file.read_bytes())
    parent.kill()
    await parent.wait()

    async def is_gone() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", ready["visa"]["port"])
        except ConnectionRefusedError:
            return True
        writer.close()
        await writer.wait_closed()
        return False

    await until(is_gone)


def test_help_teaches_and_wrong_arguments_are_named() -> None:
    """--help shows the protocols, the ready file and the control routes."""
    command = [sys.executable, "-m", "connectors.simulators"]
    shown = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    for word in ("SVGate", "urn:PaymentServer", "ISO 8583", "/_sim/faults", "--exit-with-parent"):
        assert word in shown
    wrong = subprocess.run(
        [*command, "--data-dir", "x", "--ready-file", "y", "--visa-port", "70000"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert wrong.returncode == 2
    assert "0 to 65535" in wrong.stderr


def test_nothing_of_the_platform_is_imported() -> None:
    """The process holds no module of the gateway, of the interface or of a connector."""
    code = (
        "import sys, connectors.simulators.__main__;"
        "print([name for name in sys.modules if name.startswith(('gateway', 'connectors.'))"
        " and not name.startswith('connectors.simulators')])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=dict(os.environ),
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("pan", [UZCARD_PAN, HUMO_PAN, VISA_PAN, "4222222222222", "4" * 18 + "4"])
def test_tokens_name_their_cards(pan: str) -> None:
    """A token leads back to its number and to no other; a made-up one leads nowhere."""
    token = token_of(pan)
    assert pan_of(token) == pan
    assert len(token) == (32 if len(pan) == 16 else 36)
    changed = ("0" if token[0] != "0" else "1") + token[1:]
    assert pan_of(changed) is None
    assert pan_of("not hex at all, but 32 long .....") is None


@pytest.mark.parametrize(
    ("pan", "expected"),
    [
        ("8600000000000015", True),
        ("5614680000000014", True),
        ("9860000000000018", True),
        ("4242420000000018", True),
        ("4222222222222", True),
        ("8600000000000016", False),
        ("860000000000001", False),
        ("86000000000000a5", False),
        ("", False),
        ("٨٦٠٠٠٠٠٠٠٠٠٠٠٠١٥", False),
    ],
)
def test_check_digits(pan: str, expected: bool) -> None:
    """ISO/IEC 7812-1, on ASCII digits alone."""
    assert is_luhn_valid(pan) is expected
