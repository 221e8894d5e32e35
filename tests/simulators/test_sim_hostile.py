"""Damaged messages: whatever arrives is answered or rejected, and the books still balance."""

import json
from pathlib import Path
from random import Random
from typing import Any

import iso8583
import pytest

from connectors.simulators.front import Call, Reply
from connectors.simulators.humo import Humo
from connectors.simulators.ledger import BALANCE_DEFAULT, Ledger, effect
from connectors.simulators.uzcard import Uzcard
from connectors.simulators.visa import Connection, Visa
from connectors.simulators.visa_spec import SPEC
from tests.simulators.sim_clients import (
    HUMO_PAN,
    UZCARD_PAN,
    VISA_PAN,
    about,
    authorisation,
    basic,
    charge,
    envelope,
    hold,
    network,
    pay,
)

ROUNDS = 1_500
HEADERS = {"Authorization": basic("oqim", "sandbox")}
ODD_VALUES: tuple[Any, ...] = (None, "", -1, 0, 10**30, 1.5, [], {}, "x" * 100, True, "\u0000", "٣")


def assert_balanced(ledger: Ledger[Any], pan: str) -> None:
    """The card's balance is the opening one and the effects of its entries."""
    account = ledger.account(pan)
    assert account is not None
    effects = sum(effect(entry) for entry in ledger.entries if entry.account == account.token)
    assert account.balance == BALANCE_DEFAULT + effects


def damaged(random: Random, data: bytes) -> bytes:
    """Flip, cut, repeat or insert some bytes."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(changed))
        match random.randrange(4):
            case 0:
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at : at + random.randint(1, 4)]
            case 2:
                changed[at:at] = changed[at : at + 5]
            case 3:
                changed[at:at] = random.randbytes(2)
        if not changed:
            return b""
    return bytes(changed)


@pytest.mark.parametrize("seed", range(4))
def test_visa_answers_or_rejects_any_frame(tmp_path: Path, seed: int) -> None:
    """One frame back for each, never an exception, whichever bytes are wrong."""
    random = Random(seed)
    visa = Visa(tmp_path, seed=seed)
    connection = Connection(visa)
    answers = set()
    for at in range(ROUNDS):
        request = authorisation(at + 1, condition=random.choice(("59", "06", "51")))
        doc = random.choice(
            (
                request,
                about("0120", request),
                about("0400", request),
                about("0421", request),
                {**about("0100", request), "3": "200000"},
                network("301"),
            )
        )
        doc = dict(doc)
        if random.random() < 0.3:
            del doc[random.choice([number for number in doc if number != "t"])]
        message = bytes(iso8583.encode(doc, SPEC)[0])
        if random.random() < 0.7:
            message = damaged(random, message)
        header = b"\x16\x01\x02" + (22 + len(message)).to_bytes(2, "big") + bytes(17)
        replies = visa.receive(connection, header + message)
        assert len(replies) <= 1, f"seed {seed}, round {at}"
        answers.update(reply[4] for reply in replies)
        connection.is_signed_off = False
    assert answers == {22, 26}
    assert_balanced(visa.ledger, VISA_PAN)
    visa.ledger.close()


def uzcard_body(random: Random, token: str, at: int) -> bytes:
    """Write a request with a member replaced or removed, or with bytes changed."""
    method, params = random.choice(
        (
            ("trans.pay.purpose", pay(token, f"e{at}", at + 1)),
            ("hold.create", hold(token, at + 1)),
            ("hold.dismiss.charge", charge(at, f"c{at}", at + 1)),
            ("trans.ext", {"extId": f"e{at - 1}"}),
            ("trans.reverse", {"tranId": "1"}),
            ("cards.new.otp", {"card": {"pan": UZCARD_PAN, "expiry": "3012"}}),
            ("cards.new.verify", {"otp": {"id": 1, "code": "1"}}),
            ("cards.get", {"ids": [token]}),
            ("hold.get.id", {"id": at}),
            ("p2p.info", {"hpan": UZCARD_PAN}),
        )
    )
    inner = next(iter(params.values()))
    target = inner if isinstance(inner, dict) else params
    target[random.choice(list(target))] = random.choice(ODD_VALUES)
    body = json.dumps({"jsonrpc": "2.0", "id": at, "method": method, "params": params}).encode()
    return damaged(random, body) if random.random() < 0.3 else body


@pytest.mark.parametrize("seed", range(4))
def test_uzcard_answers_any_body(tmp_path: Path, seed: int) -> None:
    """A JSON-RPC answer with a result or an error, whatever was asked."""
    random = Random(seed)
    uzcard = Uzcard(tmp_path, login="oqim", password="sandbox", seed=seed)
    account = uzcard.ledger.account(UZCARD_PAN)
    assert account is not None
    kinds = set()
    for at in range(ROUNDS):
        call = uzcard.read("/", HEADERS, uzcard_body(random, account.token, at))
        reply = call.run(None, 0) if isinstance(call, Call) else call
        answer = json.loads(reply.body)
        assert answer["jsonrpc"] == "2.0", f"seed {seed}, round {at}"
        assert ("result" in answer) != ("error" in answer)
        kinds.add("result" in answer)
    assert kinds == {True, False}
    assert_balanced(uzcard.ledger, UZCARD_PAN)
    uzcard.ledger.close()


def humo_body(random: Random, at: int) -> bytes:
    """Write a request with a detail changed, or with bytes changed."""
    details: dict[str, object] = {
        "pan": HUMO_PAN,
        "pan2": HUMO_PAN,
        "expiry": "3012",
        "amount": at + 1,
        "amount_fee": 1,
        "ccy_code": "860",
        "merchant_id": "M",
        "terminal_id": "T",
    }
    key = random.choice(list(details))
    details[key] = random.choice(("", "-1", "0", "1e9", "9" * 40, "٣", "x" * 99, details[key]))
    items = {"merchant_id": "M", "terminal_id": "T", "refund_ref": "r", "amount": "1"}
    confirmed = {"paymentRef": f"r{at - 1}", "confirmed": "true", "finished": "true"}
    body = random.choice(
        (
            envelope("Payment", {"billerRef": "SOAP_SMS", "paymentRef": f"r{at}"}, details),
            envelope("Payment", {"billerRef": "SOAP_DMS", "paymentRef": f"r{at}"}, details),
            envelope("Payment", {"billerRef": "SOAP_TOCARD", "paymentRef": f"r{at}"}, details),
            envelope("Request", {"paymentRef": f"r{at}"}, details),
            envelope("Payment", confirmed),
            envelope("GetPayment", {"paymentRef": f"r{at - 2}"}),
            envelope("CancelRequest", {"paymentRef": f"r{at - 2}"}),
            envelope("ReturnPayment", {"paymentRef": f"r{at - 2}"}, None, items),
        )
    )
    return damaged(random, body) if random.random() < 0.3 else body


@pytest.mark.parametrize("seed", range(4))
def test_humo_answers_any_envelope(tmp_path: Path, seed: int) -> None:
    """A SOAP reply or a Fault, whatever was asked."""
    random = Random(seed)
    humo = Humo(tmp_path, login="oqim", password="sandbox", bearer="b", seed=seed)
    statuses = set()
    for at in range(ROUNDS):
        call = humo.read("/", HEADERS, humo_body(random, at))
        reply: Reply = call.run(None, 0) if isinstance(call, Call) else call
        assert reply.body.endswith(b"</SOAP-ENV:Envelope>\n"), f"seed {seed}, round {at}"
        statuses.add(reply.status)
    assert statuses == {200, 500}
    assert_balanced(humo.ledger, HUMO_PAN)
    humo.ledger.close()
