"""The processors' codecs and tables alone: bytes in, values out, and hostile bytes refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.humo import codec as humo
from connectors.humo import status as humo_status
from connectors.spi import Instruction, Iso8583Codec, Kind, Merchant, Outcome
from connectors.transport.faults import OutcomeUnknown
from connectors.uzcard import codec as uzcard
from connectors.uzcard import status as uzcard_status
from connectors.visa import advice
from connectors.visa import codec as visa
from connectors.visa import status as visa_status
from tests.connectors.cards import card

SOAP = (
    b'<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"'
    b' xmlns:e="urn:PaymentServer"><SOAP-ENV:Body>%s</SOAP-ENV:Body></SOAP-ENV:Envelope>'
)
ACQUIRER = visa.Acquirer(acquirer_id="412345", country_code="860", entry_mode="010")
# 2026-11-21 14:30:00 UTC, day 325.
CREATED_AT_MS = 1_795_271_400_000


def instruction(**changes: Any) -> Instruction:
    values: dict[str, Any] = {
        "kind": Kind.PURCHASE,
        "reference": "att_1",
        "sequence": 122,
        "created_at_ms": CREATED_AT_MS,
        "amount_minor": 12_500_00,
        "currency": "UZS",
        "card": card("visa", "424242424242424"),
        "merchant": Merchant("MERCHANT0000001", "TERM0001", "5999", "OQIM TEST SHOP"),
    }
    return Instruction(**{**values, **changes})


# Tables.


@pytest.mark.parametrize("code", [-1, -99_999, -203, -310_000])
def test_an_unknown_svgate_error_is_pending(code: int) -> None:
    assert uzcard_status.of_error(code) is Outcome.PENDING


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((code, Outcome.PENDING) for code in (-301, -302, -307, -308, -309, -310, -311)),
        *((code, Outcome.SWITCH_UNAVAILABLE) for code in (-300, -303, -306, -400, -604, -350)),
        (-207, Outcome.DUPLICATE),
        (-240, Outcome.INSUFFICIENT_FUNDS),
        (-208, Outcome.ORIGINAL_NOT_FOUND),
        (-389, Outcome.ALREADY_REVERSED),
    ],
)
def test_svgate_errors(code: int, outcome: Outcome) -> None:
    assert uzcard_status.of_error(code) is outcome


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, Outcome.APPROVED),
        (2, Outcome.APPROVED_PARTIAL),
        (8, Outcome.PENDING),
        (116, Outcome.INSUFFICIENT_FUNDS),
        (199, Outcome.DO_NOT_HONOR),
        (299, Outcome.PICKUP),
        (400, Outcome.APPROVED),
        (499, Outcome.PENDING),
        (599, Outcome.PENDING),
        (909, Outcome.PENDING),
        (911, Outcome.PENDING),
        (999, Outcome.PENDING),
        (1_160, Outcome.PENDING),
        (-2, Outcome.PENDING),
    ],
)
def test_humo_actions_fall_back_by_family(code: int, outcome: Outcome) -> None:
    assert humo_status.of_action(code) is outcome


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("00", Outcome.APPROVED),
        ("10", Outcome.APPROVED_PARTIAL),
        ("51", Outcome.INSUFFICIENT_FUNDS),
        ("68", Outcome.PENDING),
        ("94", Outcome.DUPLICATE),
        ("N7", Outcome.SECURITY),
        ("ZZ", Outcome.PENDING),
        ("", Outcome.PENDING),
    ],
)
def test_visa_responses(code: str, outcome: Outcome) -> None:
    assert visa_status.of_response(code) is outcome


def test_every_code_the_protocol_lists_for_f39_is_mapped() -> None:
    """None of the codes a processor is known to answer is left to chance."""
    listed = (
        "00 01 02 03 04 05 06 07 10 11 12 13 14 15 19 21 25 28 30 41 43 51 52 53 54 55 57 58 59 61"
        " 62 63 65 68 75 76 77 78 80 81 82 83 85 86 91 92 93 94 96 N7 1A"
    )
    assert set(listed.split()) == set(visa_status.RESPONSES)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("00", Outcome.APPROVED),
        ("25", Outcome.ORIGINAL_NOT_FOUND),
        ("21", Outcome.ORIGINAL_NOT_FOUND),
        ("05", Outcome.PENDING),
        ("96", Outcome.PENDING),
    ],
)
def test_a_reversal_is_final_only_when_it_says_so(code: str, outcome: Outcome) -> None:
    assert visa_status.of_reversal(code) is outcome


# UZCARD.


def test_svgate_request_is_the_same_each_time() -> None:
    """The id is the reference: the same instruction is the same bytes."""
    encoded = uzcard.encode("trans.ext", {"extId": "att_1"}, "att_1")
    assert encoded == (
        b'{"jsonrpc":"2.0","id":"att_1","method":"trans.ext","params":{"extId":"att_1"}}'
    )


TRANSACTION = (
    b'{"id":"1000000001","refNum":"123456789012","ext":"att_1","amount":"1250000","currency":860,'
    b'"status":"OK","resp":0,"field38":"123456"}'
)


def test_svgate_numbers_are_read_as_text_or_number() -> None:
    reply = uzcard.decode(b'{"jsonrpc":"2.0","id":"x","result":%s}' % TRANSACTION, "x")
    transaction = uzcard.transaction(reply.result)
    assert (transaction.amount, transaction.currency) == (1_250_000, "860")
    assert transaction.is_done


@pytest.mark.parametrize(
    "change",
    [
        (b'"OK"', b'"ERR"'),
        (b'"resp":0', b'"resp":51'),
        (b"123456789012", b"000000000000"),
        (b"123456789012", b""),
    ],
)
def test_svgate_approval_needs_every_sign_of_it(change: tuple[bytes, bytes]) -> None:
    """Status, response and a reference of the switch: without one of them nothing is approved."""
    changed = TRANSACTION.replace(*change)
    reply = uzcard.decode(b'{"jsonrpc":"2.0","id":"x","result":%s}' % changed, "x")
    assert not uzcard.transaction(reply.result).is_done


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b'{"jsonrpc":"2.0","id":"x"}',
        b'{"jsonrpc":"1.0","id":"x","result":{}}',
        b'{"jsonrpc":"2.0","id":"other","result":{}}',
        b'{"jsonrpc":"2.0","id":"x","error":{}}',
        b'{"jsonrpc":"2.0","id":"x","error":{"code":"-207"}}',
        b'{"jsonrpc":"2.0","id":"x","error":{"code":true}}',
        b'{"jsonrpc":"2.0","id":"x","result":{"amount":NaN}}',
    ],
)
def test_a_reply_that_is_none_is_unknown(body: bytes) -> None:
    with pytest.raises(OutcomeUnknown):
        uzcard.decode(body, "x")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_a_transaction_or_unknown(value: Any) -> None:
    for shape in (value, {"amount": value, "resp": value, "refNum": value}):
        try:
            uzcard.transaction(shape)
        except OutcomeUnknown:
            continue


# HUMO.


def test_humo_text_is_escaped() -> None:
    """What a name holds cannot become an element."""
    message = humo.create("SOAP_SMS", "att_1", [("merchant_id", "<a>&")], "oqim")
    assert b"&lt;a&gt;&amp;" in message
    assert b"<a>" not in message


def test_humo_reply_is_read_by_local_names() -> None:
    body = SOAP % (
        b"<e:PaymentResponse><e:paymentID>7</e:paymentID><paymentRef>att_1</paymentRef>"
        b"<details><item><name>auth_action_code_final</name><value>000</value></item>"
        b"<item><name>amount</name><value>5</value></item></details>"
        b"<action>10</action></e:PaymentResponse>"
    )
    reply = humo.decode(body)
    assert (reply.payment_id, reply.payment_ref, reply.action) == ("7", "att_1", 10)
    assert (reply.final_code, reply.amount) == (0, 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"<a/>",
        b"<a><Body/></a>",
        SOAP % b"",
        SOAP % b"<SOAP-ENV:Fault><faultcode>x</faultcode></SOAP-ENV:Fault>",
        SOAP % b"<e:PaymentResponse>",
        b'<!DOCTYPE a [<!ENTITY e "x">]>' + SOAP % b"<e:PaymentResponse>&e;</e:PaymentResponse>",
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + SOAP % b"<e:PaymentResponse/>",
        '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY e "x">]><a/>'.encode(
            "utf-16"
        ),
    ],
)
def test_humo_hostile_xml_is_unknown(body: bytes) -> None:
    """Cut, foreign, with a document type or an entity: it says nothing."""
    with pytest.raises(OutcomeUnknown):
        humo.decode(body)


def test_humo_external_entities_are_not_read(tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("4242424242424242")
    body = (
        b'<!DOCTYPE a [<!ENTITY e SYSTEM "file://%s">]>' % str(secret).encode()
        + SOAP % b"<e:PaymentResponse><e:paymentID>&e;</e:paymentID></e:PaymentResponse>"
    )
    with pytest.raises(OutcomeUnknown) as raised:
        humo.decode(body)
    assert "4242" not in str(raised.value)


@given(st.binary(max_size=200))
def test_humo_any_bytes_are_a_reply_or_unknown(data: bytes) -> None:
    for body in (data, SOAP % data):
        try:
            humo.decode(body)
        except OutcomeUnknown:
            continue


# VISA.


def test_visa_names_derive_from_time_and_sequence() -> None:
    """F7, F11 and F37 of the golden message."""
    names = visa.names(sequence=122, created_at_ms=CREATED_AT_MS)
    assert names == visa.Names("1121143000", "000123", "632514000123")
    assert visa.names(sequence=999_999, created_at_ms=0).trace == "000001"
    assert visa.names(sequence=999_998, created_at_ms=0).trace == "999999"


def test_visa_authorisation_is_the_golden_one(codec: Iso8583Codec) -> None:
    """The whole message of the protocol's page, from an instruction."""
    from tests.connectors.test_iso8583 import FIELDS

    fields = visa.authorisation(instruction(), ACQUIRER)
    fields[2], fields[14] = "4242424242424242", "2812"
    assert fields == FIELDS
    assert codec.pack("0100", fields)


def test_visa_original_data_names_the_original() -> None:
    original = visa.original_data(instruction(), ACQUIRER)
    assert original == "0100" + "000123" + "1121143000" + "00000412345" + "0" * 11


@pytest.mark.parametrize(
    ("number", "value"),
    [(4, "000001250001"), (49, "840"), (2, "4000000000000002"), (42, "OTHER".ljust(15))],
)
def test_visa_an_answer_about_something_else_is_no_echo(number: int, value: str) -> None:
    request = visa.authorisation(instruction(), ACQUIRER)
    answer = {key: request[key] for key in (2, 4, 7, 11, 32, 37, 42, 49)}
    assert visa.is_echo(request, answer, is_money=True)
    assert not visa.is_echo(request, {**answer, number: value}, is_money=True)


@pytest.mark.parametrize("missing", [4, 49])
def test_visa_an_approval_must_name_its_money(missing: int) -> None:
    request = visa.authorisation(instruction(), ACQUIRER)
    answer = {key: request[key] for key in (4, 7, 11, 49) if key != missing}
    assert not visa.is_echo(request, answer, is_money=True)
    assert visa.is_echo(request, answer, is_money=False)


def test_visa_merchants_with_other_alphabets_do_not_fail(codec: Iso8583Codec) -> None:
    """A name that EBCDIC cannot say is shown with marks, cut and padded."""
    merchant = Merchant(
        "M",
        "T",
        "5999",
        "O\u02bbqim do\u02bbkoni - Toshkent shahridagi eng katta",
        "\u0422\u043e\u0448\u043a\u0435\u043d\u0442",
    )
    fields = visa.authorisation(instruction(merchant=merchant), ACQUIRER)
    assert len(str(fields[43])) == 40
    assert codec.pack("0100", fields)


def test_visa_an_advice_names_its_original() -> None:
    """A repeat is the same event; what F90 names is what is looked for."""
    fields = visa.reversal(instruction(), ACQUIRER)
    fields[11] = "000777"
    first, repeat = advice.of_advice("0420", fields), advice.of_advice("0421", fields)
    assert first is not None
    assert repeat is not None
    assert first.event_id == repeat.event_id
    assert first.lookup == {
        "rrn": "632514000123",
        "stan": "000123",
        "transmitted": "1121143000",
    }
    assert first.reversed
    assert (first.amount_minor, first.currency) == (12_500_00, "UZS")


def test_visa_an_advice_without_names_is_left() -> None:
    assert advice.of_advice("0120", {7: "1121143000"}) is None
