"""UZCARD: SVGate's methods, their errors, and what the ledger says of them."""

import base64
import re

import pytest

from tests.simulators.sim_clients import (
    HUMO_PAN,
    UZCARD_PAN,
    UZCARD_PAN_2,
    UzcardClient,
    basic,
    charge,
    hold,
    pay,
    unique,
)

PHONE = "998901234567"
DAY_S = 86_400


async def new_otp(uzcard: UzcardClient, **more: object) -> dict[str, object]:
    """Ask for a one-time code."""
    params = {
        "card": {"pan": UZCARD_PAN, "expiry": "3012"},
        "serviceName": "oqim",
        "requestorPhone": PHONE,
        **more,
    }
    result: dict[str, object] = await uzcard.result("cards.new.otp", params)
    return result


async def code_sent(uzcard: UzcardClient) -> str:
    """Read the last code sent to the phone."""
    messages = await uzcard.control.ok("GET", f"messages?to=%2B{PHONE}")
    code: str = messages[-1]["code"]
    return code


async def test_linking_a_card_sends_a_code_and_gives_its_token(uzcard: UzcardClient) -> None:
    """The code goes to the requestor's phone, and verifying it answers the card without expiry."""
    otp = await new_otp(uzcard)
    assert otp["verified"] is False
    assert re.fullmatch("[0-9A-F]{32}", str(otp["token"]))
    code = await code_sent(uzcard)
    assert re.fullmatch("[0-9]{6}", code)
    card = await uzcard.result("cards.new.verify", {"otp": {"id": otp["id"], "code": code}})
    assert card["id"] == otp["token"] == await uzcard.token(UZCARD_PAN)
    assert card["pan"] == "860000******0015"
    assert "expiry" not in card
    again = await uzcard.error("cards.new.verify", {"otp": {"id": otp["id"], "code": code}})
    assert again == -270


async def test_three_wrong_codes_lock_the_card_for_a_while(uzcard: UzcardClient) -> None:
    """-269 for each wrong code, then -261 until a quarter of an hour has passed."""
    otp = await new_otp(uzcard)
    code = await code_sent(uzcard)
    wrong = {"otp": {"id": otp["id"], "code": f"{(int(code) + 1) % 1_000_000:06d}"}}
    for _ in range(3):
        assert await uzcard.error("cards.new.verify", wrong) == -269
    right = {"otp": {"id": otp["id"], "code": code}}
    assert await uzcard.error("cards.new.verify", right) == -261
    params = {"card": {"pan": UZCARD_PAN, "expiry": "3012"}}
    assert await uzcard.error("cards.new.otp", params) == -261
    await uzcard.control.advance(15 * 60 + 1)
    await new_otp(uzcard)


async def test_a_code_expires_and_an_unknown_one_is_no_better(uzcard: UzcardClient) -> None:
    """-270 once its life is over."""
    otp = await new_otp(uzcard)
    code = await code_sent(uzcard)
    await uzcard.control.advance(181)
    verify = {"otp": {"id": otp["id"], "code": code}}
    assert await uzcard.error("cards.new.verify", verify) == -270
    assert await uzcard.error("cards.new.verify", {"otp": {"id": 1, "code": code}}) == -270


@pytest.mark.parametrize(
    ("settings", "card", "expected"),
    [
        ({}, {"pan": "8600000000000016", "expiry": "3012"}, -200),
        ({}, {"pan": "4242420000000018", "expiry": "3012"}, -200),
        ({}, {"pan": UZCARD_PAN, "expiry": "2001"}, -201),
        ({"expiry": "3011"}, {"pan": UZCARD_PAN, "expiry": "3012"}, -202),
        ({"status": "blocked"}, {"pan": UZCARD_PAN, "expiry": "3012"}, -204),
        ({"status": 7}, {"pan": UZCARD_PAN, "expiry": "3012"}, -205),
        ({"phone": "+998900000000"}, {"pan": UZCARD_PAN, "expiry": "3012"}, -277),
        ({}, {"pan": UZCARD_PAN, "expiry": "12"}, -103),
    ],
)
async def test_a_card_that_cannot_be_linked_is_refused(
    uzcard: UzcardClient, settings: dict[str, object], card: dict[str, str], expected: int
) -> None:
    """Each reason has its code."""
    if settings:
        await uzcard.control.card(UZCARD_PAN, **settings)
    params = {"card": card, "requestorPhone": PHONE}
    assert await uzcard.error("cards.new.otp", params) == expected


async def test_card_data_and_balances_are_told_by_token(uzcard: UzcardClient) -> None:
    """`cards.get` and `balance.get` answer in the order asked."""
    first, second = await uzcard.token(UZCARD_PAN), await uzcard.token(UZCARD_PAN_2)
    await uzcard.control.card(UZCARD_PAN, balance=100, phone="+998901112233", status=12)
    cards = await uzcard.result("cards.get", {"ids": [second, first]})
    assert [card["id"] for card in cards] == [second, first]
    assert (cards[1]["status"], cards[1]["phone"], cards[1]["balance"]) == (12, "998901112233", 100)
    balances = await uzcard.result("balance.get", {"ids": [first]})
    assert balances["totalBalance"] == 100
    assert await uzcard.error("cards.get", {"ids": ["0" * 32]}) == -257


async def test_p2p_info_knows_both_local_schemes(uzcard: UzcardClient) -> None:
    """UZCARD and HUMO cards have tokens; a VISA card has none."""
    info = await uzcard.result("p2p.info", {"hpan": HUMO_PAN})
    assert set(info) == {"CREF_NO", "EMBOS_NAME", "CARDTYPE", "CARDSTATUS", "CARDID", "PINCNT"}
    assert re.fullmatch("[0-9A-F]{32}", info["CARDID"])
    assert await uzcard.error("p2p.info", {"hpan": "4242420000000018"}) == -200


async def test_a_payment_moves_money_once(uzcard: UzcardClient) -> None:
    """The same ext again is -207, and the inquiry tells the first."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    paid = await uzcard.result("trans.pay.purpose", pay(token, ext, 1_000, commission=10))
    assert (paid["status"], paid["resp"], paid["respSV"]) == ("OK", 0, "00")
    assert (paid["amount"], paid["ext"], paid["tranType"]) == (1_000, ext, "DEBIT")
    assert re.fullmatch("[0-9]{12}", paid["refNum"])
    assert paid["refNum"] != "0" * 12
    assert await uzcard.error("trans.pay.purpose", pay(token, ext, 1_000)) == -207
    assert await uzcard.result("trans.ext", {"extId": ext}) == [paid]
    assert await uzcard.result("trans.sv", {"svId": paid["refNum"]}) == [paid]
    (entry,) = await uzcard.control.ledger()
    assert (entry["ref"], entry["kind"], entry["state"]) == (ext, "purchase", "approved")
    assert (entry["amount"], entry["rrn"], entry["pan_last4"]) == (1_010, paid["refNum"], "0015")
    assert await uzcard.control.moved(UZCARD_PAN) == -1_010


@pytest.mark.parametrize(
    ("settings", "change", "expected", "resp"),
    [
        ({"balance": 999}, {}, -240, 51),
        ({"status": "blocked"}, {}, -204, 62),
        ({"status": "lost"}, {}, -205, 43),
        ({"status": "fraud"}, {}, -333, 59),
        ({"expiry": "2001"}, {}, -201, 54),
        ({}, {"amount": 0}, -245, 13),
        ({}, {"amount": -5}, -245, 13),
    ],
)
async def test_a_refused_payment_is_recorded_as_declined(
    uzcard: UzcardClient,
    settings: dict[str, object],
    change: dict[str, int],
    expected: int,
    resp: int,
) -> None:
    """It moves nothing, its ext is used up, and the inquiry shows that it was not done."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    if settings:
        await uzcard.control.card(UZCARD_PAN, **settings)
    before = (await uzcard.control.card(UZCARD_PAN))["balance"]
    order = pay(token, ext, change.get("amount", 1_000))
    assert await uzcard.error("trans.pay.purpose", order) == expected
    (entry,) = await uzcard.control.ledger(ext)
    assert entry["state"] == "declined"
    assert (await uzcard.control.card(UZCARD_PAN))["balance"] == before
    (shown,) = await uzcard.result("trans.ext", {"extId": ext})
    assert (shown["resp"], shown["refNum"]) == (resp, "0" * 12)
    assert shown["status"] != "OK"
    assert await uzcard.error("trans.pay.purpose", pay(token, ext, 1_000)) == -207


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cardId": "F" * 32}, -257),
        ({"merchantId": ""}, -237),
        ({"terminalId": "1" * 17}, -236),
        ({"currency": "840"}, -103),
        ({"ext": ""}, -103),
        ({"ext": "e" * 76}, -103),
        ({"amount": "1000"}, -103),
        ({"amount": 10.5}, -103),
    ],
)
async def test_a_malformed_payment_is_not_recorded(
    uzcard: UzcardClient, change: dict[str, object], expected: int
) -> None:
    """What never became a transaction leaves no trace."""
    token = await uzcard.token(UZCARD_PAN)
    params = pay(token, unique("att"), 1_000)
    params["tran"].update(change)
    assert await uzcard.error("trans.pay.purpose", params) == expected
    assert await uzcard.control.ledger() == []


async def test_inquiry_and_reversal_of_the_unknown(uzcard: UzcardClient) -> None:
    """-267 by ext, -208 by reference."""
    assert await uzcard.error("trans.ext", {"extId": "nobody"}) == -267
    assert await uzcard.error("trans.sv", {"svId": "123456789012"}) == -208
    assert await uzcard.error("trans.reverse", {"tranId": "123456789012"}) == -208


async def test_a_payment_is_reversed_whole_once(uzcard: UzcardClient) -> None:
    """ROK, then -389; by ext it is -380, and the inquiry no longer says OK."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    paid = await uzcard.result("trans.pay.purpose", pay(token, ext, 700))
    assert await uzcard.error("trans.reverse", {"tranId": ext}) == -380
    (undone,) = await uzcard.result("trans.reverse", {"tranId": paid["refNum"]})
    assert undone["status"] == "ROK"
    assert await uzcard.error("trans.reverse", {"tranId": paid["refNum"]}) == -389
    (shown,) = await uzcard.result("trans.ext", {"extId": ext})
    assert shown["status"] == "ROK"
    (entry,) = await uzcard.control.ledger()
    assert (entry["state"], entry["refunded_amount"]) == ("refunded", 700)
    assert await uzcard.control.moved(UZCARD_PAN) == 0


async def test_a_payment_is_given_back_in_parts(uzcard: UzcardClient) -> None:
    """Parts have their own ext, never exceed what was taken, and end in `refunded`."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    paid = await uzcard.result("trans.pay.purpose", pay(token, ext, 700))

    def part(part_ext: str, amount: int) -> dict[str, object]:
        return {"tran": {"tranId": paid["refNum"], "reverseAmount": amount, "ext": part_ext}}

    first = unique("ref")
    given = await uzcard.result("trans.reverse.partial", part(first, 300))
    assert (given["status"], given["amount"], given["ext"]) == ("OK", 300, first)
    assert await uzcard.result("trans.ext", {"extId": first}) == [given]
    assert await uzcard.error("trans.reverse.partial", part(first, 300)) == -207
    assert await uzcard.error("trans.reverse.partial", part(unique("ref"), 401)) == -245
    (stuck,) = await uzcard.result("trans.reverse", {"tranId": paid["refNum"]})
    assert stuck["status"] == "RER"
    (entry,) = await uzcard.control.ledger()
    assert (entry["state"], entry["refunded_amount"]) == ("approved", 300)
    assert await uzcard.control.moved(UZCARD_PAN) == -400
    await uzcard.result("trans.reverse.partial", part(unique("ref"), 400))
    (entry,) = await uzcard.control.ledger()
    assert (entry["state"], entry["refunded_amount"]) == ("refunded", 700)
    assert await uzcard.error("trans.reverse.partial", part(unique("ref"), 1)) == -389


async def test_a_hold_is_captured_for_less(uzcard: UzcardClient) -> None:
    """The rest is let go; the charge's ext is findable and the hold's id stays the reference."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("cap")
    held = await uzcard.result("hold.create", hold(token, 1_000))
    assert held["status"] == 0
    assert await uzcard.control.moved(UZCARD_PAN) == -1_000
    assert await uzcard.error("hold.dismiss.charge", charge(held["id"], ext, 1_001)) == -245
    taken = await uzcard.result("hold.dismiss.charge", charge(held["id"], ext, 600))
    assert (taken["status"], taken["amount"], taken["ext"]) == ("OK", 600, ext)
    assert await uzcard.result("trans.ext", {"extId": ext}) == [taken]
    assert await uzcard.error("hold.dismiss.charge", charge(held["id"], ext, 600)) == -207
    later = charge(held["id"], unique("cap"), 1)
    assert await uzcard.error("hold.dismiss.charge", later) == -242
    assert await uzcard.error("hold.dismiss", {"hold": {"holdId": held["id"]}}) == -242
    (entry,) = await uzcard.control.ledger(str(held["id"]))
    assert (entry["kind"], entry["state"], entry["capture_ref"]) == ("hold", "captured", ext)
    assert (entry["amount"], entry["captured_amount"]) == (1_000, 600)
    assert await uzcard.control.moved(UZCARD_PAN) == -600
    (undone,) = await uzcard.result("trans.reverse", {"tranId": taken["refNum"]})
    assert undone["status"] == "ROK"
    assert await uzcard.control.moved(UZCARD_PAN) == 0


async def test_a_hold_is_dismissed_once(uzcard: UzcardClient) -> None:
    """Releasing gives the money back; a second time there is no hold."""
    token = await uzcard.token(UZCARD_PAN)
    held = await uzcard.result("hold.create", hold(token, 1_000))
    order = {"hold": {"holdId": held["id"], "merchantId": "9", "terminalId": "9", "amount": 1_000}}
    assert (await uzcard.result("hold.dismiss", order))["status"] == 0
    assert await uzcard.error("hold.dismiss", order) == -242
    shown = await uzcard.result("hold.get.id", {"id": held["id"]})
    assert (shown["status"], shown["remark"]) == (2, "RELEASED")
    assert [entry["state"] for entry in await uzcard.control.ledger()] == ["released"]
    assert await uzcard.control.moved(UZCARD_PAN) == 0


async def test_a_hold_expires_by_the_clock(uzcard: UzcardClient) -> None:
    """Its minutes over, the money is back and the hold cannot be charged."""
    token = await uzcard.token(UZCARD_PAN)
    held = await uzcard.result("hold.create", hold(token, 1_000, minutes=7 * 24 * 60))
    await uzcard.control.advance(7 * DAY_S - 60)
    assert (await uzcard.result("hold.get.id", {"id": held["id"]}))["status"] == 0
    await uzcard.control.advance(61)
    shown = await uzcard.result("hold.get.id", {"id": held["id"]})
    assert (shown["status"], shown["remark"]) == (3, "EXPIRED")
    order = charge(held["id"], unique("cap"), 1_000)
    assert await uzcard.error("hold.dismiss.charge", order) == -242
    assert [entry["state"] for entry in await uzcard.control.ledger()] == ["released"]
    assert await uzcard.control.moved(UZCARD_PAN) == 0


async def test_holds_are_found_by_card(uzcard: UzcardClient) -> None:
    """Newest first, with what a client needs to recognise its own; declined ones are no holds."""
    token = await uzcard.token(UZCARD_PAN)
    ids = [(await uzcard.result("hold.create", hold(token, 100 + at)))["id"] for at in range(3)]
    await uzcard.control.card(UZCARD_PAN, balance=1)
    assert await uzcard.error("hold.create", hold(token, 5_000)) == -239
    listed = await uzcard.result("hold.get.cardId", {"cardId": token})
    assert [shown["hid"] for shown in listed] == ids[::-1]
    assert listed[0]["reqamt"] == 102
    assert listed[0]["waitingTime"] == 60
    by_id = await uzcard.result("hold.get.id", {"id": ids[2]})
    assert by_id == listed[0]
    assert await uzcard.error("hold.get.id", {"id": 1}) == -242


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"time": 0}, -241),
        ({"time": 43_201}, -241),
        ({"amount": 0}, -245),
        ({"cardId": "0" * 32}, -257),
    ],
)
async def test_a_wrong_hold_is_refused(
    uzcard: UzcardClient, change: dict[str, object], expected: int
) -> None:
    """Period, amount and card are looked at."""
    params = hold(await uzcard.token(UZCARD_PAN), 1_000)
    params["hold"].update(change)
    assert await uzcard.error("hold.create", params) == expected


def p2p(sender: str, recipient: str, ext: str, amount: int, fee: int) -> dict[str, object]:
    """Parameters of `p2p.universal`."""
    return {
        "p2p": {
            "sender": sender,
            "recipient": recipient,
            "amount": amount,
            "feeAmount": fee,
            "ext": ext,
            "merchantId": "1",
            "terminalId": "2",
        }
    }


async def test_a_transfer_debits_fee_and_credits_amount(uzcard: UzcardClient) -> None:
    """Two entries share the ext; reversing undoes both."""
    sender, recipient = await uzcard.token(UZCARD_PAN), await uzcard.token(HUMO_PAN)
    ext = unique("att")
    moved = await uzcard.result("p2p.universal", p2p(sender, recipient, ext, 1_000, 25))
    assert (moved["status"], moved["amount"], moved["tranType"]) == ("OK", 1_000, "P2P")
    assert moved["refNumDebit"] != moved["refNumCredit"]
    assert isinstance(moved["transType"], int)
    debit, credit = await uzcard.control.ledger(ext)
    assert (debit["kind"], debit["amount"], debit["state"]) == ("debit", 1_025, "approved")
    assert (credit["kind"], credit["amount"], credit["state"]) == ("credit", 1_000, "approved")
    assert await uzcard.control.moved(UZCARD_PAN) == -1_025
    assert await uzcard.control.moved(HUMO_PAN) == 1_000
    again = await uzcard.error("p2p.universal", p2p(sender, recipient, ext, 1_000, 25))
    assert again == -207
    assert await uzcard.result("trans.ext", {"extId": ext}) == [moved]
    (undone,) = await uzcard.result("trans.reverse", {"tranId": moved["refNumCredit"]})
    assert undone["status"] == "ROK"
    assert [entry["state"] for entry in await uzcard.control.ledger(ext)] == ["reversed"] * 2
    assert await uzcard.control.moved(UZCARD_PAN) == 0
    assert await uzcard.control.moved(HUMO_PAN) == 0


async def test_a_refused_transfer_moves_neither_card(uzcard: UzcardClient) -> None:
    """Fee included, the sender must have the money; a blocked recipient takes none."""
    sender, recipient = await uzcard.token(UZCARD_PAN), await uzcard.token(UZCARD_PAN_2)
    await uzcard.control.card(UZCARD_PAN, balance=1_024)
    refused = await uzcard.error("p2p.universal", p2p(sender, recipient, unique("att"), 1_000, 25))
    assert refused == -240
    await uzcard.control.card(UZCARD_PAN_2, status="blocked")
    refused = await uzcard.error("p2p.universal", p2p(sender, recipient, unique("att"), 10, 0))
    assert refused == -204
    assert {entry["state"] for entry in await uzcard.control.ledger()} == {"declined"}
    assert await uzcard.control.moved(UZCARD_PAN_2) == 0


async def test_a_credit_reaches_the_card(uzcard: UzcardClient) -> None:
    """`p2p.universal.credit` has no sender's card here."""
    ext = unique("att")
    order = {
        "credit": {
            "amount": 900,
            "ext": ext,
            "merchantId": "1",
            "terminalId": "2",
            "recipient": await uzcard.token(UZCARD_PAN_2),
            "sender": {"id": "1", "system": "humo", "lastName": "A", "firstName": "B"},
        }
    }
    done = await uzcard.result("p2p.universal.credit", order)
    assert (done["status"], done["amount"]) == ("OK", 900)
    assert await uzcard.error("p2p.universal.credit", order) == -207
    (entry,) = await uzcard.control.ledger(ext)
    assert (entry["kind"], entry["amount"], entry["state"]) == ("credit", 900, "approved")
    assert await uzcard.control.moved(UZCARD_PAN_2) == 900


async def test_the_envelope_is_checked(uzcard: UzcardClient) -> None:
    """Parse errors, batches, versions, unknown methods and strangers have their codes."""
    assert b"-32700" in await uzcard.raw(b"{nonsense")
    assert b"-32600" in await uzcard.raw(b"[]")
    assert b"-32600" in await uzcard.raw(b'{"id":1,"method":"p2p.info","params":{}}')
    assert await uzcard.error("no.such", {}) == -32601
    assert await uzcard.error("p2p.info", {}) == -103
    stranger = basic("oqim", "wrong")
    body = b'{"jsonrpc":"2.0","id":"x","method":"p2p.info","params":{}}'
    assert b"-256" in await uzcard.raw(body, stranger)


async def test_a_token_outlives_a_reset_and_hides_the_number(uzcard: UzcardClient) -> None:
    """A client that kept a token can go on; the token does not contain the digits."""
    token = await uzcard.token(UZCARD_PAN)
    await uzcard.control.ok("POST", "reset")
    paid = await uzcard.result("trans.pay.purpose", pay(token, unique("att"), 1))
    assert paid["pan"] == "860000******0015"
    assert UZCARD_PAN not in token
    assert base64.b16encode(UZCARD_PAN.encode()).decode() not in token
