"""VISA: bytes against known ones, each message pair, and what the ledger says of them."""

import asyncio

import iso8583
import pytest

from connectors.simulators.visa_spec import SPEC, Deframer, FrameError, reply_message
from tests.simulators.sim_clients import (
    VISA_PAN,
    Control,
    VisaClient,
    about,
    authorisation,
    network,
    trace,
)

GOLDEN = bytes.fromhex(
    "01007224648108e08000104242424242424242000000000001250000112114300000012328125999086001005906"
    "412345f6f3f2f5f1f4f0f0f0f1f2f3e3c5d9d4f0f0f0f1d4c5d9c3c8c1d5e3f0f0f0f0f0f0f1d6d8c9d440e3c5e2"
    "e340e2c8d6d74040404040404040404040e3c1e2c8d2c5d5e34040404040e4e90860"
)
GOLDEN_FRAME = bytes.fromhex("0094000016010200940000004123450000000000000000000000") + GOLDEN
GOLDEN_DOC = {
    "t": "0100",
    "2": "4242424242424242",
    "3": "000000",
    "4": "000001250000",
    "7": "1121143000",
    "11": "000123",
    "14": "2812",
    "18": "5999",
    "19": "860",
    "22": "0100",
    "25": "59",
    "32": "412345",
    "37": "632514000123",
    "41": "TERM0001",
    "42": "MERCHANT0000001",
    "43": "OQIM TEST SHOP           TASHKENT     UZ",
    "49": "860",
}


def test_the_dialect_makes_the_known_bytes() -> None:
    """The specification encodes and decodes the known vector."""
    encoded, _ = iso8583.encode(dict(GOLDEN_DOC), SPEC)
    assert bytes(encoded) == GOLDEN
    decoded, _ = iso8583.decode(GOLDEN, SPEC)
    assert {name: value for name, value in decoded.items() if name != "p"} == GOLDEN_DOC


@pytest.mark.parametrize(
    ("mti", "fields", "bitmap"),
    [
        ("0110", "2 3 4 7 11 19 25 32 37 38 39 41 42 49", "722020810ec08000"),
        (
            "0400",
            "2 3 4 7 11 14 18 19 22 25 32 37 38 41 42 43 49 90",
            "f22464810ce080000000004000000000",
        ),
        ("0800", "7 11 37 70", "82200000080000000400000000000000"),
        ("0810", "7 11 37 39 70", "822000000a0000000400000000000000"),
    ],
)
def test_bitmaps_are_the_known_ones(mti: str, fields: str, bitmap: str) -> None:
    """The fields of each message give the known bitmap."""
    widths = {"2": 16, "3": 6, "4": 12, "7": 10, "11": 6, "14": 4, "18": 4, "19": 3, "22": 4}
    widths |= {"25": 2, "32": 6, "37": 12, "38": 6, "39": 2, "41": 8, "42": 15, "43": 40}
    widths |= {"49": 3, "70": 3, "90": 42}
    doc = {"t": mti, **{number: "0" * widths[number] for number in fields.split()}}
    encoded, _ = iso8583.encode(doc, SPEC)
    assert encoded[2 : 2 + len(bitmap) // 2].hex() == bitmap


@pytest.mark.parametrize(("approval", "shift"), [("123456", 0), ("", 0), ("654321", 7)])
def test_a_reply_is_what_the_codec_would_make(approval: str, shift: int) -> None:
    """Reusing the request's bytes gives the same message as encoding every field."""
    for doc in (GOLDEN_DOC, {**GOLDEN_DOC, "90": "1" * 42}):
        encoded, _ = iso8583.encode(dict(doc), SPEC)
        _, received = iso8583.decode(bytes(encoded), SPEC)
        reply = reply_message("0110", received, "00", approval, shift)
        numbers = ("2", "3", "4", "7", "11", "19", "25", "32", "37", "41", "42", "49", "90")
        expected = {number: doc[number] for number in numbers if number in doc}
        expected |= {"t": "0110", "39": "00", "4": f"{1_250_000 + shift:012d}"}
        if approval:
            expected["38"] = approval
        assert reply == bytes(iso8583.encode(expected, SPEC)[0])


def test_frames_are_cut_wherever_the_stream_breaks() -> None:
    """One byte at a time, keep-alive polls between, and a length that cannot be."""
    deframer = Deframer()
    stream = GOLDEN_FRAME + bytes(4) + GOLDEN_FRAME
    frames = [whole for at in range(len(stream)) for whole in deframer.feed(stream[at : at + 1])]
    assert frames == [GOLDEN_FRAME[4:], b"", GOLDEN_FRAME[4:]]
    # Session control carries no message.
    assert deframer.feed(bytes.fromhex("00010020ff")) == []
    with pytest.raises(FrameError):
        deframer.feed(b"\xff\xff\0\0")


async def test_a_known_request_gets_a_reply_with_stations_swapped(visa: VisaClient) -> None:
    """The reply's header names the sender as destination; its bitmap is the known one."""
    visa.write(GOLDEN_FRAME)
    whole = await visa.frame()
    assert whole[0] == 22
    assert int.from_bytes(whole[3:5], "big") == len(whole)
    assert (whole[5:8].hex(), whole[8:11].hex()) == ("412345", "000000")
    assert whole[22:24].hex() == "0110"
    doc, _ = iso8583.decode(whole[22:], SPEC)
    # The known card's expiry is 2812: approved, unless that has passed.
    assert doc["39"] in ("00", "54")
    assert doc["37"] == "632514000123"


async def test_a_purchase_is_approved_once(visa: VisaClient, visa_control: Control) -> None:
    """The same request again is answered from what was kept; a changed one is 94."""
    request = authorisation(1_250)
    reply = await visa.ask(request)
    assert (reply["t"], reply["39"], reply["4"]) == ("0110", "00", request["4"])
    assert [reply[number] for number in ("2", "7", "11", "37")] == [
        request[number] for number in ("2", "7", "11", "37")
    ]
    assert reply["p"] == "722020810EC08000"
    assert await visa.ask(request) == reply
    assert (await visa.ask({**request, "4": "000000001251"}))["39"] == "94"
    (entry,) = await visa_control.ledger(request["37"])
    assert (entry["kind"], entry["state"], entry["amount"]) == ("purchase", "approved", 1_250)
    assert (entry["currency"], entry["pan_last4"]) == ("UZS", "0018")
    assert await visa_control.moved(VISA_PAN) == -1_250


@pytest.mark.parametrize(
    ("proc", "condition", "kind", "sign"),
    [
        ("000000", "59", "purchase", -1),
        ("000000", "06", "hold", -1),
        ("100000", "59", "debit", -1),
        ("260000", "59", "credit", 1),
    ],
)
async def test_processing_codes_are_kinds(
    visa: VisaClient, visa_control: Control, proc: str, condition: str, kind: str, sign: int
) -> None:
    """F3 and F25 say what is asked."""
    assert (await visa.ask(authorisation(70, proc, condition)))["39"] == "00"
    (entry,) = await visa_control.ledger()
    assert (entry["kind"], entry["state"]) == (kind, "approved")
    assert await visa_control.moved(VISA_PAN) == sign * 70


@pytest.mark.parametrize(
    ("settings", "change", "expected"),
    [
        ({"balance": 99}, {}, "51"),
        ({"status": "lost"}, {}, "41"),
        ({"status": "stolen"}, {}, "43"),
        ({"status": "fraud"}, {}, "59"),
        ({"status": "05"}, {}, "05"),
        ({"status": "N7"}, {}, "N7"),
        ({}, {"f14": "2001"}, "54"),
        ({"expiry": "3011"}, {}, "14"),
        ({}, {"f2": "4242420000000019"}, "14"),
        ({}, {"f2": "8600000000000015"}, "14"),
        ({}, {"f3": "990000"}, "12"),
        ({}, {"f4": "000000000000"}, "13"),
    ],
)
async def test_a_refusal_is_recorded_and_repeated(
    visa: VisaClient,
    visa_control: Control,
    settings: dict[str, object],
    change: dict[str, str],
    expected: str,
) -> None:
    """F39 names the reason, F38 is absent, and a duplicate hears the same."""
    if settings:
        await visa_control.card(VISA_PAN, **settings)
    before = (await visa_control.card(VISA_PAN))["balance"]
    request = authorisation(100, **change)
    reply = await visa.ask(request)
    assert reply["39"] == expected
    assert "38" not in reply
    assert await visa.ask(request) == reply
    assert [entry["state"] for entry in await visa_control.ledger()] == ["declined"]
    assert (await visa_control.card(VISA_PAN))["balance"] == before


async def test_an_account_check_moves_nothing(visa: VisaClient, visa_control: Control) -> None:
    """85 for a good card, the card's own code for another, and no entry."""
    assert (await visa.ask(authorisation(0, condition="51")))["39"] == "85"
    await visa_control.card(VISA_PAN, status="stolen")
    assert (await visa.ask(authorisation(0, condition="51")))["39"] == "43"
    assert await visa_control.ledger() == []


async def test_incomplete_and_unpacked_fields_are_format_errors(visa: VisaClient) -> None:
    """F39 30 when a field is missing or its digits are none."""
    request = authorisation(10)
    del request["37"]
    assert (await visa.ask(request))["39"] == "30"
    assert (await visa.ask({**authorisation(10), "4": "00000000A010"}))["39"] == "30"


async def test_a_hold_is_captured_by_advice(visa: VisaClient, visa_control: Control) -> None:
    """The completion may be smaller, and its repeat (0121) is answered alike."""
    hold = authorisation(1_000, condition="06")
    approval = (await visa.ask(hold))["38"]
    assert (await visa.ask(about("0120", hold, 1_001)))["39"] == "13"
    capture = {**about("0120", hold, 600), "38": approval}
    reply = await visa.ask(capture)
    assert (reply["t"], reply["39"], reply["38"]) == ("0130", "00", approval)
    assert (await visa.ask({**capture, "t": "0121"}))["39"] == "00"
    assert (await visa.ask(about("0120", hold, 599)))["39"] == "94"
    (entry,) = await visa_control.ledger()
    assert (entry["state"], entry["captured_amount"]) == ("captured", 600)
    assert await visa_control.moved(VISA_PAN) == -600
    assert (await visa.ask(about("0400", hold)))["39"] == "12"


async def test_a_hold_is_cancelled(visa: VisaClient, visa_control: Control) -> None:
    """0400 releases; its repeat (0401) hears the same, another hears that nothing is left."""
    hold = authorisation(1_000, condition="06")
    await visa.ask(hold)
    cancel = about("0400", hold)
    reply = await visa.ask(cancel)
    assert (reply["t"], reply["39"], reply["90"]) == ("0410", "00", cancel["90"])
    assert (await visa.ask({**cancel, "t": "0401"}))["39"] == "00"
    assert (await visa.ask(about("0400", hold)))["39"] == "21"
    assert (await visa.ask(about("0120", hold)))["39"] == "21"
    assert [entry["state"] for entry in await visa_control.ledger()] == ["released"]
    assert await visa_control.moved(VISA_PAN) == 0


@pytest.mark.parametrize(
    ("proc", "condition"), [("000000", "59"), ("260000", "59"), ("000000", "06")]
)
async def test_a_reversal_advice_undoes_anything(
    visa: VisaClient, visa_control: Control, proc: str, condition: str
) -> None:
    """0420 and its repeat 0421 are answered 00; the original is not approved again."""
    request = authorisation(500, proc, condition)
    await visa.ask(request)
    undo = about("0420", request)
    assert (await visa.ask(undo))["39"] == "00"
    repeated = await visa.ask({**undo, "t": "0421"})
    assert (repeated["t"], repeated["39"]) == ("0430", "00")
    assert [entry["state"] for entry in await visa_control.ledger()] == ["reversed"]
    assert await visa_control.moved(VISA_PAN) == 0
    assert (await visa.ask(request))["39"] == "94"


@pytest.mark.parametrize("mti", ["0400", "0420"])
async def test_a_reversal_may_come_before_its_original(
    visa: VisaClient, visa_control: Control, mti: str
) -> None:
    """25, as often as asked; the original that comes late is refused."""
    request = authorisation(500)
    undo = about(mti, request)
    assert (await visa.ask(undo))["39"] == "25"
    assert (await visa.ask({**undo, "t": f"{mti[:3]}1"}))["39"] == "25"
    assert (await visa.ask(request))["39"] == "94"
    assert await visa_control.ledger() == []
    assert await visa_control.moved(VISA_PAN) == 0


async def test_a_declined_original_has_nothing_to_undo(visa: VisaClient) -> None:
    """21 is final for whoever asks."""
    request = authorisation(500, f2="4242420000000018", f14="2001")
    assert (await visa.ask(request))["39"] == "54"
    assert (await visa.ask(about("0420", request)))["39"] == "21"


async def test_refunds_name_their_original(visa: VisaClient, visa_control: Control) -> None:
    """Parts add up to what was taken, a duplicate counts once, and a refund can be reversed."""
    purchase = authorisation(1_000)
    await visa.ask(purchase)

    def refund(amount: int) -> dict[str, str]:
        return {**about("0100", purchase, amount), **trace(), "3": "200000"}

    first = refund(400)
    assert (await visa.ask(first))["39"] == "00"
    assert (await visa.ask(first))["39"] == "00"
    assert (await visa.ask(refund(601)))["39"] == "13"
    (entry,) = await visa_control.ledger()
    assert (entry["state"], entry["refunded_amount"]) == ("approved", 400)
    assert await visa_control.moved(VISA_PAN) == -600
    second = refund(600)
    assert (await visa.ask(second))["39"] == "00"
    assert [entry["state"] for entry in await visa_control.ledger()] == ["refunded"]
    assert (await visa.ask(about("0420", second)))["39"] == "00"
    (entry,) = await visa_control.ledger()
    assert (entry["state"], entry["refunded_amount"]) == ("approved", 400)
    assert await visa_control.moved(VISA_PAN) == -600


async def test_a_refund_of_nothing_is_refused(visa: VisaClient, visa_control: Control) -> None:
    """25 without an original, and for a hold that was not captured."""
    hold = authorisation(1_000, condition="06")
    await visa.ask(hold)
    for original in (authorisation(1), hold):
        refund = {**about("0100", original, 1), **trace(), "3": "200000"}
        assert (await visa.ask(refund))["39"] == "25"
    assert await visa_control.moved(VISA_PAN) == -1_000


async def test_network_messages_and_polls(visa: VisaClient) -> None:
    """Echo, sign-off, sign-on; a poll of length zero comes back as it is."""
    reply = await visa.ask(network("301"))
    assert (reply["t"], reply["39"], reply["70"]) == ("0810", "00", "301")
    assert (await visa.ask(network("999")))["39"] == "12"
    visa.write(bytes(4))
    assert await visa.frame() == b""
    assert (await visa.ask(network("002")))["39"] == "00"
    assert (await visa.ask(authorisation(1)))["39"] == "91"
    assert (await visa.ask(network("001")))["39"] == "00"
    assert (await visa.ask(authorisation(1)))["39"] == "00"


@pytest.mark.parametrize(
    "broken",
    [
        GOLDEN_FRAME[4:-1],
        GOLDEN_FRAME[4:] + b"\0",
        GOLDEN_FRAME[4:26] + b"\x02\x00" + GOLDEN[2:],
        b"\x15" + GOLDEN_FRAME[5:],
        b"\x16\x01\x02",
    ],
)
async def test_an_unparseable_frame_is_rejected(
    visa: VisaClient, visa_control: Control, broken: bytes
) -> None:
    """A header of 26 bytes with field 13 and a code, then what was received; no decline."""
    visa.write(len(broken).to_bytes(2, "big") + b"\0\0" + broken)
    whole = await visa.frame()
    assert whole[0] == 26
    assert whole[22] & 0x80
    assert whole[24:26].hex() == "0290"
    assert whole[26:] == broken
    assert int.from_bytes(whole[3:5], "big") == len(whole)
    assert await visa_control.ledger() == []
    assert await visa.is_silent()


async def test_an_impossible_length_ends_the_connection(
    visa: VisaClient, visa_control: Control
) -> None:
    """Nothing after it could be understood; other connections live on."""
    visa.write(b"\xff\xff\0\0")
    assert await visa.is_closed()


async def test_thousands_in_flight_on_one_socket(visa: VisaClient, visa_control: Control) -> None:
    """Each reply carries its request's trace, whatever the order."""
    requests = {
        request["11"]: request for request in (authorisation(at + 1) for at in range(2_000))
    }
    for request in requests.values():
        visa.send(request)
    for _ in range(len(requests)):
        reply = await visa.message()
        request = requests.pop(reply["11"])
        assert (reply["39"], reply["4"], reply["37"]) == ("00", request["4"], request["37"])
    assert requests == {}
    assert len(await visa_control.ledger()) == 2_000
    assert len(await visa_control.ok("GET", "ledger?limit=10&offset=1995")) == 5


async def test_several_connections_share_the_ledger(
    visa: VisaClient, visa_control: Control, simulators: object
) -> None:
    """What one connection did, another may undo."""
    request = authorisation(500)
    await visa.ask(request)
    at = simulators.ready["visa"]  # type: ignore[attr-defined] # the session's process
    async with VisaClient(at["host"], at["port"]) as other:
        assert (await other.ask(about("0420", request)))["39"] == "00"
    assert [entry["state"] for entry in await visa_control.ledger()] == ["reversed"]


async def test_an_unasked_reversal_undoes_and_is_acknowledged(
    visa: VisaClient, visa_control: Control
) -> None:
    """0420 from VISA's side names the operation; the ledger says `reversed` already."""
    request = authorisation(500)
    approval = (await visa.ask(request))["38"]
    sent = await visa_control.ok("POST", "advices", {"rrn": request["37"], "kind": "0420"})
    advice = await visa.message()
    assert (advice["t"], advice["37"], advice["38"]) == ("0420", request["37"], approval)
    assert advice["90"][:31] == about("0420", request)["90"][:31]
    assert (advice["2"], advice["4"], advice["11"]) == (VISA_PAN, request["4"], sent["stan"])
    assert [entry["state"] for entry in await visa_control.ledger()] == ["reversed"]
    visa.send({"t": "0430", **{n: advice[n] for n in ("7", "11", "32", "37")}, "39": "00"})
    assert await visa.is_silent()
    (shown,) = await visa_control.ok("GET", "advices")
    assert shown["acknowledged"] is True


async def test_an_unacknowledged_advice_is_repeated(
    visa: VisaClient, visa_control: Control
) -> None:
    """0120 comes again as 0121 with the same trace."""
    request = authorisation(500)
    await visa.ask(request)
    await visa_control.ok("POST", "advices", {"rrn": request["37"], "kind": "0120"})
    first, second = await visa.message(), await visa.message(timeout_s=20.0)
    assert (first["t"], second["t"], second["39"]) == ("0120", "0121", "00")
    assert (first["11"], first["7"]) == (second["11"], second["7"])
    assert [entry["state"] for entry in await visa_control.ledger()] == ["approved"]


async def test_advices_need_an_operation_and_a_connection(
    visa: VisaClient, visa_control: Control
) -> None:
    """404 for an unknown reference, 400 for another kind, 409 when nobody is signed on."""
    request = authorisation(500)
    await visa.ask(request)
    known = request["37"]
    unknown = {"rrn": "000000000000", "kind": "0420"}
    assert (await visa_control.call("POST", "advices", unknown))[0] == 404
    wrong = {"rrn": known, "kind": "0100"}
    assert (await visa_control.call("POST", "advices", wrong))[0] == 400
    await visa.ask(network("002"))
    order = {"rrn": known, "kind": "0420"}
    assert (await visa_control.call("POST", "advices", order))[0] == 409
    assert [entry["state"] for entry in await visa_control.ledger()] == ["approved"]


async def test_a_forced_sign_off_is_announced(visa: VisaClient, visa_control: Control) -> None:
    """0800 with 002 arrives, and money is refused until the next sign-on."""
    assert (await visa_control.ok("POST", "sign-off"))["connections"] == 1
    told = await visa.message()
    assert (told["t"], told["70"]) == ("0800", "002")
    assert (await visa.ask(authorisation(1)))["39"] == "91"
    assert await visa_control.ledger() == []
    await visa.ask(network("001"))
    assert (await visa.ask(authorisation(1)))["39"] == "00"


async def test_rejects_are_sent_at_once_or_for_the_next_messages(
    visa: VisaClient, visa_control: Control
) -> None:
    """An empty reject now; with a count the request itself comes back and is not done."""
    await visa_control.ok("POST", "rejects", {"code": "0555"})
    whole = await visa.frame()
    assert (len(whole), whole[0], whole[22] & 0x80, whole[24:].hex()) == (26, 26, 0x80, "0555")
    await visa_control.ok("POST", "rejects", {"code": "0042", "count": 1})
    request = authorisation(1)
    visa.send(request)
    whole = await visa.frame()
    assert (whole[0], whole[24:26].hex(), whole[26]) == (26, "0042", 22)
    returned, _ = iso8583.decode(whole[26 + 22 :], SPEC)
    assert returned["11"] == request["11"]
    assert await visa_control.ledger() == []
    assert (await visa.ask(request))["39"] == "00"


async def test_replies_to_a_burst_arrive_whole(visa: VisaClient) -> None:
    """Messages split across writes are still answered, each once."""
    for at in range(0, len(GOLDEN_FRAME), 7):
        visa.write(GOLDEN_FRAME[at : at + 7])
        await asyncio.sleep(0)
    assert (await visa.message())["37"] == "632514000123"
    assert await visa.is_silent()
