"""HUMO: payments in two messages, their faults, card information, and hostile XML."""

import re

import pytest

from tests.simulators.sim_clients import HUMO_PAN, HumoClient, envelope, read_soap, unique

HUMO_PAN_2 = "9860010000000017"
TTL_S = 10_080 * 60


async def states(humo: HumoClient, ref: str) -> list[str]:
    """List the states the ledger has under a paymentRef."""
    return [entry["state"] for entry in await humo.control.ledger(ref)]


async def test_a_purchase_is_created_and_confirmed(humo: HumoClient) -> None:
    """Action 4 locks the money and is `pending`, action 10 is `approved`."""
    ref = unique("att")
    created = await humo.create("SOAP_SMS", ref, 1_000)
    assert (created.status, created.element) == (200, "PaymentResponse")
    assert (created.fields["action"], created.fields["paymentRef"]) == ("4", ref)
    assert created.details["auth_action_code_final"] == "000"
    assert re.fullmatch("[0-9]{12}", created.details["auth_ref_number"])
    assert await states(humo, ref) == ["pending"]
    assert await humo.control.moved(HUMO_PAN) == -1_000
    finished = await humo.confirm(ref)
    assert finished.fields["action"] == "10"
    assert finished.fields["paymentID"] == created.fields["paymentID"]
    assert finished.details["transaction_amount"] == "1000"
    (entry,) = await humo.control.ledger(ref)
    assert (entry["kind"], entry["state"], entry["amount"]) == ("purchase", "approved", 1_000)
    assert entry["rrn"] == created.details["auth_ref_number"]


async def test_a_confirm_is_safe_to_repeat(humo: HumoClient) -> None:
    """The second is answered as the first; another amount is a duplicate."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 1_000)
    first, second = await humo.confirm(ref), await humo.confirm(ref)
    assert first == second
    assert (await humo.confirm(ref, 900)).error == 913
    assert await humo.control.moved(HUMO_PAN) == -1_000


async def test_a_payment_can_be_confirmed_by_its_number(humo: HumoClient) -> None:
    """paymentID finds it; a paymentRef that names another does not."""
    ref = unique("att")
    created = await humo.create("SOAP_SMS", ref, 10)
    fields = {
        "paymentID": created.fields["paymentID"],
        "paymentRef": "another",
        "confirmed": "true",
        "finished": "true",
    }
    assert (await humo.call("Payment", fields)).error == 914
    del fields["paymentRef"]
    assert (await humo.call("Payment", fields, prefix="urn")).fields["action"] == "10"


async def test_a_second_create_is_a_duplicate(humo: HumoClient) -> None:
    """913, and nothing more is locked."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 10)
    again = await humo.create("SOAP_SMS", ref, 10)
    assert (again.status, again.element, again.error) == (500, "Fault", 913)
    assert await humo.control.moved(HUMO_PAN) == -10


async def test_a_hold_is_captured_for_less(humo: HumoClient) -> None:
    """`approved` when created, `captured` for the confirmed amount, which is all that is taken."""
    ref = unique("att")
    await humo.create("SOAP_DMS", ref, 1_000)
    assert await states(humo, ref) == ["approved"]
    assert (await humo.confirm(ref, 1_001)).error == 110
    captured = await humo.confirm(ref, 600)
    assert (captured.fields["action"], captured.details["amount"]) == ("10", "600")
    (entry,) = await humo.control.ledger(ref)
    assert (entry["kind"], entry["state"]) == ("hold", "captured")
    assert (entry["amount"], entry["captured_amount"]) == (1_000, 600)
    assert await humo.control.moved(HUMO_PAN) == -600


@pytest.mark.parametrize("biller", ["SOAP_SMS", "SOAP_DMS"])
async def test_an_unfinished_payment_is_cancelled(humo: HumoClient, biller: str) -> None:
    """The money is let go, a repeat is answered alike, and it cannot be confirmed any more."""
    ref = unique("att")
    await humo.create(biller, ref, 1_000)
    for _ in range(2):
        cancelled = await humo.cancel(ref)
        assert (cancelled.status, cancelled.element) == (200, "CancelRequestResponse")
        assert cancelled.fields == {}
    assert await states(humo, ref) == ["released"]
    assert await humo.control.moved(HUMO_PAN) == 0
    assert (await humo.confirm(ref)).error == 914
    assert (await humo.inquire(ref)).details["state"] == "cancelled"


async def test_a_finished_payment_is_not_cancelled(humo: HumoClient) -> None:
    """It is no unknown payment either: -1, so that nobody takes it for undone."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 10)
    await humo.confirm(ref)
    assert (await humo.cancel(ref)).error == -1
    assert (await humo.cancel("nobody")).error == 914


@pytest.mark.parametrize("biller", ["SOAP_SMS", "SOAP_DMS"])
async def test_unconfirmed_money_comes_back_in_time(humo: HumoClient, biller: str) -> None:
    """A week by the simulator's clock."""
    ref = unique("att")
    await humo.create(biller, ref, 1_000)
    await humo.control.advance(TTL_S - 60)
    assert (await humo.inquire(ref)).details["state"] == "created"
    await humo.control.advance(61)
    told = await humo.inquire(ref)
    assert (told.details["state"], told.details["remaining_amount"]) == ("expired", "0")
    assert await states(humo, ref) == ["released"]
    assert await humo.control.moved(HUMO_PAN) == 0
    assert (await humo.confirm(ref)).error == 914


async def test_a_finished_payment_does_not_expire(humo: HumoClient) -> None:
    """The confirm ends its clock."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 1_000)
    await humo.confirm(ref)
    await humo.control.advance(TTL_S + 1)
    assert (await humo.inquire(ref)).details["state"] == "finished"
    assert await states(humo, ref) == ["approved"]


async def test_the_inquiry_tells_where_a_payment_stands(humo: HumoClient) -> None:
    """State, action and what is left, by paymentRef alone."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 1_000)
    told = await humo.inquire(ref)
    assert (told.element, told.fields["status"]) == ("GetPaymentResponse", "none")
    assert (told.details["action"], told.details["state"]) == ("4", "created")
    await humo.confirm(ref)
    told = await humo.inquire(ref)
    assert (told.details["action"], told.details["state"]) == ("10", "finished")
    assert told.details["remaining_amount"] == "1000"
    assert told.details["auth_action_code_final"] == "000"
    unknown = await humo.inquire("nobody")
    assert (unknown.status, unknown.error) == (500, 914)


async def test_a_payment_is_returned_whole(humo: HumoClient) -> None:
    """Without an amount everything left is given back; the reference makes it repeatable."""
    ref = unique("att")
    await humo.create("SOAP_SMS", ref, 1_000)
    assert (await humo.give_back(ref)).error == -1
    await humo.confirm(ref)
    for _ in range(2):
        returned = await humo.give_back(ref, refund_ref="ref_1")
        assert (returned.status, returned.element) == (200, "ReturnPaymentResponse")
    (entry,) = await humo.control.ledger(ref)
    assert (entry["state"], entry["refunded_amount"]) == ("refunded", 1_000)
    assert await humo.control.moved(HUMO_PAN) == 0
    told = await humo.inquire(ref)
    assert (told.details["state"], told.details["remaining_amount"]) == ("refunded", "0")
    assert told.details["refund_refs"] == "ref_1"
    assert (await humo.give_back(ref, refund_ref="ref_2")).error == 914
    assert (await humo.give_back("nobody")).error == 914


async def test_a_payment_is_returned_in_parts(humo: HumoClient) -> None:
    """Each part once, never more than was taken."""
    ref = unique("att")
    await humo.create("SOAP_DMS", ref, 1_000)
    await humo.confirm(ref, 800)
    assert (await humo.give_back(ref, amount=300, refund_ref="r1")).status == 200
    assert (await humo.give_back(ref, amount=300, refund_ref="r1")).status == 200
    assert (await humo.give_back(ref, amount=301, refund_ref="r1")).error == 913
    assert (await humo.give_back(ref, amount=501, refund_ref="r2")).error == 110
    (entry,) = await humo.control.ledger(ref)
    assert (entry["state"], entry["refunded_amount"]) == ("captured", 300)
    assert await humo.control.moved(HUMO_PAN) == -500
    assert (await humo.give_back(ref, amount=500, refund_ref="r2")).status == 200
    assert await states(humo, ref) == ["refunded"]
    assert (await humo.inquire(ref)).details["refund_refs"] == "r1,r2"


async def test_a_transfer_takes_its_fee_from_the_sender(humo: HumoClient) -> None:
    """Both halves are pending until the confirm and reversed by the return."""
    ref = unique("att")
    created = await humo.request(ref, HUMO_PAN_2, 1_000, fee=30)
    assert (created.element, created.fields["action"]) == ("RequestResponse", "4")
    assert created.fields["sessionID"] == ref
    assert created.details["amount_fee"] == "30"
    assert await states(humo, ref) == ["pending", "pending"]
    assert await humo.control.moved(HUMO_PAN) == -1_030
    assert await humo.control.moved(HUMO_PAN_2) == 0
    assert (await humo.confirm(ref)).fields["action"] == "10"
    debit, credit = await humo.control.ledger(ref)
    assert (debit["kind"], debit["amount"], debit["state"]) == ("debit", 1_030, "approved")
    assert (credit["kind"], credit["amount"], credit["state"]) == ("credit", 1_000, "approved")
    assert await humo.control.moved(HUMO_PAN_2) == 1_000
    assert (await humo.give_back(ref, amount=5)).error == 110
    assert (await humo.give_back(ref)).status == 200
    assert await states(humo, ref) == ["reversed", "reversed"]
    assert await humo.control.moved(HUMO_PAN) == 0
    assert await humo.control.moved(HUMO_PAN_2) == 0


async def test_an_unconfirmed_transfer_is_cancelled_on_both_sides(humo: HumoClient) -> None:
    """Nothing was credited, and what was locked comes back."""
    ref = unique("att")
    await humo.request(ref, HUMO_PAN_2, 1_000)
    await humo.cancel(ref)
    assert await states(humo, ref) == ["released", "released"]
    assert await humo.control.moved(HUMO_PAN) == 0


@pytest.mark.parametrize("biller", ["SOAP_TOCARD", "SOAP_TOCARD_2"])
async def test_a_credit_arrives_when_confirmed(humo: HumoClient, biller: str) -> None:
    """The card has the money at action 10, not before."""
    ref = unique("att")
    await humo.create(biller, ref, 500)
    assert await humo.control.moved(HUMO_PAN) == 0
    await humo.confirm(ref)
    (entry,) = await humo.control.ledger(ref)
    assert (entry["kind"], entry["state"], entry["amount"]) == ("credit", "approved", 500)
    assert await humo.control.moved(HUMO_PAN) == 500


@pytest.mark.parametrize(
    ("settings", "details", "expected"),
    [
        ({"balance": 999}, {}, 116),
        ({"status": "blocked"}, {}, 280),
        ({"status": 281}, {}, 281),
        ({"status": "stolen"}, {}, 209),
        ({"status": "fraud"}, {}, 129),
        ({}, {"expiry": "2001"}, 101),
        ({"expiry": "3011"}, {}, 111),
        ({}, {"ccy_code": "840"}, 904),
    ],
)
async def test_a_refused_create_is_recorded_as_declined(
    humo: HumoClient, settings: dict[str, object], details: dict[str, object], expected: int
) -> None:
    """A Fault with the action code; the inquiry shows the code, and nothing is locked."""
    if settings:
        await humo.control.card(HUMO_PAN, **settings)
    before = (await humo.control.card(HUMO_PAN))["balance"]
    ref = unique("att")
    refused = await humo.create("SOAP_SMS", ref, 1_000, **details)
    assert (refused.status, refused.error) == (500, expected)
    assert await states(humo, ref) == ["declined"]
    assert (await humo.control.card(HUMO_PAN))["balance"] == before
    told = await humo.inquire(ref)
    assert told.details["auth_action_code_final"] == f"{expected:03d}"
    assert told.details["state"] == "cancelled"


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"pan": "9860000000000019"}, 111),
        ({"pan": "4242420000000018"}, 111),
        ({"amount": 0}, 110),
        ({"amount": "1.5"}, 110),
        ({"amount": "-1"}, 110),
        ({"merchant_id": ""}, -1),
    ],
)
async def test_a_malformed_create_is_not_recorded(
    humo: HumoClient, details: dict[str, object], expected: int
) -> None:
    """What never became a payment leaves no trace."""
    ref = unique("att")
    arguments = {"amount": 10, **details}
    amount = arguments.pop("amount")
    refused = await humo.create("SOAP_SMS", ref, amount, **arguments)  # type: ignore[arg-type] # wrong on purpose
    assert refused.error == expected
    assert await humo.control.ledger() == []


@pytest.mark.parametrize("prefix", ["urn", "ebppif1", "x"])
async def test_any_prefix_is_read(humo: HumoClient, prefix: str) -> None:
    """Requests are routed by the local name of the body's element."""
    answer = await humo.call("GetPayment", {"paymentRef": "nobody"}, prefix=prefix)
    assert answer.error == 914


async def test_hostile_xml_is_refused(humo: HumoClient, tmp_path: object) -> None:
    """Document types, entities and broken text end in a Fault; no file is read."""
    body = envelope("GetPayment", {"paymentRef": "&x;"}).partition(b"?>")[2]
    entity = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + body
    lots = b'<!DOCTYPE a [<!ENTITY y "yyyy"><!ENTITY x "&y;&y;&y;">]>' + body
    external = (
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">'
        + envelope("GetPayment", {"paymentRef": "a"}).partition(b"?>")[2]
    )
    for hostile in (entity, lots, external, b"<a", b"", b"<a/>", b"<Envelope><Body/></Envelope>"):
        answer = read_soap(*await humo.post(hostile))
        assert (answer.status, answer.error) == (500, -1)


async def test_a_key_that_needs_escaping_is_echoed_rightly(humo: HumoClient) -> None:
    """The reply stays well-formed."""
    ref = unique("a&amp;b&lt;")
    created = await humo.create("SOAP_SMS", ref, 10)
    assert created.fields["paymentRef"] == ref.replace("&amp;", "&").replace("&lt;", "<")


async def test_strangers_are_turned_away(humo: HumoClient) -> None:
    """HTTP 401 for both services."""
    async with humo.session.post(f"{humo.url}/", data=b"<a/>") as response:
        assert response.status == 401
    async with humo.session.post(
        f"{humo.url}/v3/iiacs/card", json={}, headers={"Authorization": "Bearer wrong"}
    ) as response:
        assert response.status == 401


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("scheme", ["Bearer", "Bearer:"])
async def test_card_information(humo: HumoClient, version: str, scheme: str) -> None:
    """Status, balance and the phone of text-message banking."""
    await humo.control.card(HUMO_PAN, balance=77, phone="+998901234567", status="blocked")
    body = {"id": "1", "params": {"primaryAccountNumber": HUMO_PAN, "mb_flag": 1}}
    async with humo.session.post(
        f"{humo.url}/{version}/iiacs/card",
        json=body,
        headers={"Authorization": f"{scheme} sandbox"},
    ) as response:
        assert response.status == 200
        result = (await response.json())["result"]
    assert result["card"]["statuses"]["item"][0]["actionCode"] == "280"
    assert result["balance"]["availableAmount"] == 77
    assert result["mb"] == {"state": "on", "message": "", "phone": "998901234567"}


async def test_an_unknown_card_has_no_information(humo: HumoClient) -> None:
    """An error object, and no phone is told while none is known."""
    for pan, key in ((HUMO_PAN, "result"), ("8600000000000015", "error")):
        async with humo.session.post(
            f"{humo.url}/v3/iiacs/card",
            json={"id": "1", "params": {"primaryAccountNumber": pan}},
            headers={"Authorization": "Bearer sandbox"},
        ) as response:
            answer = await response.json()
        assert key in answer
        if key == "result":
            assert "phone" not in answer["result"]["mb"]
