"""Misbehaviour on demand: each kind on each protocol, and the ledger's word on what was done."""

import asyncio

import pytest

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
    envelope,
    hold,
    network,
    pay,
    unique,
    until,
)

SHORT_S = 0.3


async def test_uzcard_drops_a_reply_after_it_recorded(uzcard: UzcardClient) -> None:
    """No answer comes, and the inquiry finds the payment."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("drop_reply_after_commit")
    with pytest.raises(asyncio.TimeoutError):
        await uzcard.call("trans.pay.purpose", pay(token, ext, 10), timeout_s=SHORT_S)
    (shown,) = await uzcard.result("trans.ext", {"extId": ext})
    assert (shown["status"], shown["amount"]) == ("OK", 10)
    assert await uzcard.control.ok("GET", "faults") == []


async def test_uzcard_drops_a_request_before_it_is_done(uzcard: UzcardClient) -> None:
    """No answer comes, and nobody ever heard of the payment."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("drop_request")
    with pytest.raises(asyncio.TimeoutError):
        await uzcard.call("trans.pay.purpose", pay(token, ext, 10), timeout_s=SHORT_S)
    assert await uzcard.error("trans.ext", {"extId": ext}) == -267
    assert await uzcard.control.ledger() == []


async def test_uzcard_delivers_twice(uzcard: UzcardClient) -> None:
    """The answer is the second delivery's: a duplicate; the money moved once."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("duplicate_reply")
    assert await uzcard.error("trans.pay.purpose", pay(token, ext, 10)) == -207
    assert await uzcard.control.moved(UZCARD_PAN) == -10
    # A hold has no key: the same answer is given for the one hold there is.
    await uzcard.control.fault("duplicate_reply")
    held = await uzcard.result("hold.create", hold(token, 5))
    assert [entry["ref"] for entry in await uzcard.control.ledger()][1:] == [str(held["id"])]


async def test_uzcard_answers_garbage(uzcard: UzcardClient) -> None:
    """The bytes are no JSON, and the payment was made."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("garbage")
    with pytest.raises(ValueError, match=r"decode|utf|JSON"):
        await uzcard.call("trans.pay.purpose", pay(token, ext, 10))
    assert [entry["state"] for entry in await uzcard.control.ledger(ext)] == ["approved"]


async def test_uzcard_tells_a_wrong_amount(uzcard: UzcardClient) -> None:
    """One more than asked in the answer, the right one in the ledger and the inquiry."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("wrong_amount")
    paid = await uzcard.result("trans.pay.purpose", pay(token, ext, 10))
    assert paid["amount"] == 11
    (shown,) = await uzcard.result("trans.ext", {"extId": ext})
    assert shown["amount"] == 10
    assert await uzcard.control.moved(UZCARD_PAN) == -10


async def test_uzcard_declines_with_the_code_given(uzcard: UzcardClient) -> None:
    """Recorded as declined; -240 unless told otherwise."""
    token = await uzcard.token(UZCARD_PAN)
    await uzcard.control.fault("decline", code=-333, count=2)
    for _ in range(2):
        refused = await uzcard.error("trans.pay.purpose", pay(token, unique("att"), 10))
        assert refused == -333
    await uzcard.control.fault("decline")
    assert await uzcard.error("trans.pay.purpose", pay(token, unique("att"), 10)) == -240
    await uzcard.result("trans.pay.purpose", pay(token, unique("att"), 10))
    states = [entry["state"] for entry in await uzcard.control.ledger()]
    assert states == ["declined"] * 3 + ["approved"]


async def test_an_outage_does_not_use_up_the_key(uzcard: UzcardClient) -> None:
    """After -300 the same ext may be tried again, and there is one entry of it."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("decline", code=-300)
    assert await uzcard.error("trans.pay.purpose", pay(token, ext, 10)) == -300
    await uzcard.result("trans.pay.purpose", pay(token, ext, 10))
    assert [entry["state"] for entry in await uzcard.control.ledger(ext)] == ["approved"]
    assert await uzcard.control.moved(UZCARD_PAN) == -10


async def test_ask_later_is_said_of_what_was_done(uzcard: UzcardClient) -> None:
    """-301 is no decline: the inquiry tells that the payment, or the charge, was made."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("decline", code=-301)
    assert await uzcard.error("trans.pay.purpose", pay(token, ext, 10)) == -301
    assert (await uzcard.result("trans.ext", {"extId": ext}))[0]["status"] == "OK"
    held = await uzcard.result("hold.create", hold(token, 50))
    taken = unique("cap")
    await uzcard.control.fault("decline", code=-307, method="hold.dismiss.charge")
    assert await uzcard.error("hold.dismiss.charge", charge(held["id"], taken, 50)) == -307
    assert (await uzcard.result("trans.ext", {"extId": taken}))[0]["amount"] == 50


async def test_a_refused_charge_leaves_the_hold(uzcard: UzcardClient) -> None:
    """The hold can still be charged, with the same ext."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("cap")
    held = await uzcard.result("hold.create", hold(token, 50))
    await uzcard.control.fault("decline", code=-300)
    assert await uzcard.error("hold.dismiss.charge", charge(held["id"], ext, 50)) == -300
    await uzcard.result("hold.dismiss.charge", charge(held["id"], ext, 50))


async def test_faults_leave_inquiries_and_reversals_alone(uzcard: UzcardClient) -> None:
    """Unless a method is named."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    paid = await uzcard.result("trans.pay.purpose", pay(token, ext, 10))
    await uzcard.control.fault("decline", rate=1.0)
    await uzcard.result("trans.ext", {"extId": ext})
    await uzcard.control.fault("decline", code=-303, method="trans.reverse")
    assert await uzcard.error("trans.reverse", {"tranId": paid["refNum"]}) == -303
    await uzcard.result("trans.reverse", {"tranId": paid["refNum"]})
    assert len(await uzcard.control.ok("GET", "faults")) == 1


async def test_a_delay_holds_the_answer_back_and_combines(uzcard: UzcardClient) -> None:
    """The processor goes on although its client left; other messages are not held back."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("delay", seconds=0.4)
    await uzcard.control.fault("decline", code=-204)
    loop = asyncio.get_running_loop()
    began = loop.time()
    slow = asyncio.create_task(uzcard.error("trans.pay.purpose", pay(token, ext, 10)))
    await uzcard.token(UZCARD_PAN)
    assert not slow.done()
    assert await slow == -204
    assert loop.time() - began >= 0.4
    await uzcard.control.fault("delay", seconds=0.4)
    left = unique("att")
    with pytest.raises(asyncio.TimeoutError):
        await uzcard.call("trans.pay.purpose", pay(token, left, 10), timeout_s=0.1)
    assert await uzcard.control.ledger(left) == []

    async def recorded() -> bool:
        return bool(await uzcard.control.ledger(left))

    await until(recorded)
    assert [entry["state"] for entry in await uzcard.control.ledger(left)] == ["approved"]


async def test_a_rate_meets_its_share_and_can_be_had_again(uzcard: UzcardClient) -> None:
    """The seeded generator gives the same run after a reset."""
    token = await uzcard.token(UZCARD_PAN)

    async def run() -> list[bool]:
        await uzcard.control.ok("POST", "reset")
        await uzcard.control.fault("decline", rate=0.5)
        calls = [
            await uzcard.call("trans.pay.purpose", pay(token, unique("att"), 10)) for _ in range(60)
        ]
        return ["error" in call for call in calls]

    first = await run()
    assert 10 < sum(first) < 50
    assert await run() == first


@pytest.mark.parametrize(
    ("amount", "expected"), [(1_051, -240), (1_091, -244), (1_094, -207), (1_059, -333)]
)
async def test_amounts_decide_when_switched_on(
    uzcard: UzcardClient, amount: int, expected: int
) -> None:
    """The last two digits name the fault; off, they are digits."""
    token = await uzcard.token(UZCARD_PAN)
    await uzcard.result("trans.pay.purpose", pay(token, unique("att"), amount))
    await uzcard.control.fault("by_amount")
    assert await uzcard.error("trans.pay.purpose", pay(token, unique("att"), amount)) == expected
    await uzcard.result("trans.pay.purpose", pay(token, unique("att"), 1_000))
    await uzcard.control.fault("by_amount", count=0)
    await uzcard.result("trans.pay.purpose", pay(token, unique("att"), amount))


async def test_amounts_drop_and_delay(uzcard: UzcardClient) -> None:
    """..68 commits and says nothing; ..07 comes late."""
    token, ext = await uzcard.token(UZCARD_PAN), unique("att")
    await uzcard.control.fault("by_amount", seconds=0.2)
    with pytest.raises(asyncio.TimeoutError):
        await uzcard.call("trans.pay.purpose", pay(token, ext, 1_068), timeout_s=SHORT_S)
    assert [entry["state"] for entry in await uzcard.control.ledger(ext)] == ["approved"]
    began = asyncio.get_running_loop().time()
    await uzcard.result("trans.pay.purpose", pay(token, unique("att"), 1_007))
    assert asyncio.get_running_loop().time() - began >= 0.2


# -- HUMO ------------------------------------------------------------------------------------------


async def humo_call(humo: HumoClient, ref: str, step: str) -> bytes:
    """Write a confirm, or a create of the usual card."""
    if step == "confirm":
        fields = {"paymentRef": ref, "confirmed": "true", "finished": "true"}
        return envelope("Payment", fields)
    details = {"pan": HUMO_PAN, "amount": 10, "merchant_id": "M", "terminal_id": "T"}
    return envelope("Payment", {"billerRef": "SOAP_SMS", "paymentRef": ref}, details)


@pytest.mark.parametrize(("step", "state"), [("create", "created"), ("confirm", "finished")])
async def test_humo_drops_a_reply_after_it_recorded(
    humo: HumoClient, step: str, state: str
) -> None:
    """Whichever of the two messages it was, the inquiry tells how far it came."""
    ref = unique("att")
    if step == "confirm":
        await humo.create("SOAP_SMS", ref, 10)
    await humo.control.fault("drop_reply_after_commit", method=step)
    with pytest.raises(asyncio.TimeoutError):
        await humo.post(await humo_call(humo, ref, step), timeout_s=SHORT_S)
    assert (await humo.inquire(ref)).details["state"] == state


async def test_humo_drops_a_request(humo: HumoClient) -> None:
    """A create that never arrived is unknown."""
    ref = unique("att")
    await humo.control.fault("drop_request", method="SOAP_SMS")
    with pytest.raises(asyncio.TimeoutError):
        await humo.post(await humo_call(humo, ref, "create"), timeout_s=SHORT_S)
    assert (await humo.inquire(ref)).error == 914


async def test_humo_delivers_twice(humo: HumoClient) -> None:
    """The second create is a duplicate; the second confirm is answered as the first."""
    ref = unique("att")
    await humo.control.fault("duplicate_reply", count=2)
    assert (await humo.create("SOAP_SMS", ref, 10)).error == 913
    assert (await humo.confirm(ref)).fields["action"] == "10"
    assert await humo.control.moved(HUMO_PAN) == -10


async def test_humo_answers_garbage_and_wrong_amounts(humo: HumoClient) -> None:
    """What was recorded is right."""
    ref = unique("att")
    await humo.control.fault("wrong_amount")
    assert (await humo.create("SOAP_SMS", ref, 10)).details["transaction_amount"] == "11"
    await humo.control.fault("garbage")
    status, body = await humo.post(await humo_call(humo, ref, "confirm"))
    assert status == 200
    assert not body.startswith(b"<")
    assert (await humo.inquire(ref)).details["amount"] == "10"
    assert await humo.control.moved(HUMO_PAN) == -10


@pytest.mark.parametrize(
    ("code", "state", "stage"),
    [(116, "declined", "cancelled"), (907, "pending", "created"), (911, "approved", "finished")],
)
async def test_humo_refuses_a_confirm(humo: HumoClient, code: int, state: str, stage: str) -> None:
    """A decline ends the payment, an outage leaves it, a time-out is said of what was done."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 10)
    await humo.control.fault("decline", code=code, method="confirm")
    assert (await humo.confirm(ref)).error == code
    assert [entry["state"] for entry in await humo.control.ledger(ref)] == [state]
    assert (await humo.inquire(ref)).details["state"] == stage


async def test_humo_keeps_a_hold_whose_capture_was_refused(humo: HumoClient) -> None:
    """It can be captured afterwards."""
    ref = unique("att")
    await humo.create("SOAP_DMS", ref, 10)
    await humo.control.fault("decline", code=116, method="confirm")
    assert (await humo.confirm(ref)).error == 116
    assert (await humo.confirm(ref)).fields["action"] == "10"


async def test_humo_tries_a_create_again_after_an_outage(humo: HumoClient) -> None:
    """910 did not use up the paymentRef."""
    ref = unique("att")
    await humo.control.fault("decline", code=910)
    assert (await humo.create("SOAP_SMS", ref, 10)).error == 910
    assert (await humo.create("SOAP_SMS", ref, 10)).fields["action"] == "4"
    assert [entry["state"] for entry in await humo.control.ledger(ref)] == ["pending"]


async def test_humo_faults_can_name_returns(humo: HumoClient) -> None:
    """A return refused gives nothing back; one timed out was done."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 10)
    await humo.confirm(ref)
    await humo.control.fault("decline", code=907, method="ReturnPayment")
    assert (await humo.give_back(ref)).error == 907
    assert await humo.control.moved(HUMO_PAN) == -10
    await humo.control.fault("decline", code=909, method="ReturnPayment")
    assert (await humo.give_back(ref, refund_ref="r")).error == 909
    assert await humo.control.moved(HUMO_PAN) == 0


# -- VISA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "states"), [("drop_reply_after_commit", ["approved"]), ("drop_request", [])]
)
async def test_visa_stays_silent(
    visa: VisaClient, visa_control: Control, kind: str, states: list[str]
) -> None:
    """Nothing comes back; the reversal settles it, by 00 or by 25."""
    await visa_control.fault(kind)
    request = authorisation(10)
    visa.send(request)
    assert await visa.is_silent()
    assert [entry["state"] for entry in await visa_control.ledger()] == states
    assert (await visa.ask(about("0420", request)))["39"] == ("00" if states else "25")
    assert await visa_control.moved(VISA_PAN) == 0


async def test_visa_replies_twice(visa: VisaClient, visa_control: Control) -> None:
    """The same bytes come again; the money moved once."""
    await visa_control.fault("duplicate_reply")
    visa.send(authorisation(10))
    assert await visa.frame() == await visa.frame()
    assert await visa_control.moved(VISA_PAN) == -10


async def test_visa_answers_garbage_and_wrong_amounts(
    visa: VisaClient, visa_control: Control
) -> None:
    """The stream stays readable, and what was recorded is right."""
    await visa_control.fault("garbage")
    visa.send(authorisation(10))
    whole = await visa.frame()
    assert whole[22:24] not in (b"\x01\x10", b"\x01\x30")
    await visa_control.fault("wrong_amount")
    assert (await visa.ask(authorisation(20)))["4"] == "000000000021"
    assert [entry["amount"] for entry in await visa_control.ledger()] == [10, 20]


async def test_visa_declines_and_delays(visa: VisaClient, visa_control: Control) -> None:
    """A late reply comes after those of messages sent later."""
    await visa_control.fault("decline", code="05")
    await visa_control.fault("delay", seconds=0.3)
    request = authorisation(10)
    visa.send(request)
    assert (await visa.ask(network("301")))["t"] == "0810"
    late = await visa.message()
    assert (late["11"], late["39"]) == (request["11"], "05")


async def test_visa_says_too_late_of_what_it_approved(
    visa: VisaClient, visa_control: Control
) -> None:
    """68 is no decline: the ledger approved, and the reversal undoes it."""
    await visa_control.fault("decline", code="68")
    request = authorisation(10)
    assert (await visa.ask(request))["39"] == "68"
    assert [entry["state"] for entry in await visa_control.ledger()] == ["approved"]
    assert (await visa.ask(about("0420", request)))["39"] == "00"


async def test_visa_faults_can_name_a_message(visa: VisaClient, visa_control: Control) -> None:
    """Reversals and completions by MTI, authorisations also by kind."""
    await visa_control.fault("drop_reply_after_commit", method="0400")
    await visa_control.fault("decline", method="credit")
    held = authorisation(10, condition="06")
    assert (await visa.ask(held))["39"] == "00"
    visa.send(about("0400", held))
    assert await visa.is_silent()
    assert [entry["state"] for entry in await visa_control.ledger()] == ["released"]
    assert (await visa.ask(authorisation(10, "260000")))["39"] == "51"


@pytest.mark.parametrize(("amount", "code"), [(151, "51"), (191, "91"), (159, "59"), (194, "94")])
async def test_visa_amounts_decide(
    visa: VisaClient, visa_control: Control, amount: int, code: str
) -> None:
    """The deterministic table, when switched on."""
    await visa_control.fault("by_amount")
    assert (await visa.ask(authorisation(amount)))["39"] == code
    assert (await visa.ask(authorisation(200)))["39"] == "00"
