"""Reports are read line by line, whole or not at all; what does not fit is told by its line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.humo.reports import HumoReports
from connectors.spi.reports import (
    LINE_BYTES_MAX,
    Movement,
    ReportError,
    ReportLine,
    Reports,
)
from connectors.transport.places import Place
from connectors.uzcard.reports import DetailReader
from connectors.visa.reports import VisaReports
from tests.reconciliation.files import (
    VISA_COLUMNS,
    humo_file,
    humo_row,
    parts,
    uzcard_file,
    uzcard_row,
    visa_file,
    visa_row,
)

DAY = date(2026, 11, 21)
NOWHERE = Place(address="", timeout_ms=1_000, bytes_max=1 << 20)
RRN = "632514000123"
ATT = "att_01M80XATWMKKJE1C79V60RNB731"


def visa(place: Place = NOWHERE) -> Reports:
    return VisaReports("visa", place)


def humo(place: Place = NOWHERE) -> Reports:
    return HumoReports("humo", place)


def read(reader: Any, data: Iterator[bytes]) -> list[ReportLine]:
    lines = [line for part in data for line in reader.feed(part)]
    reader.finish()
    return lines


def read_visa(file: bytes, size: int = 1 << 16) -> list[ReportLine]:
    return read(visa().reader(DAY), parts(file, size))


def read_humo(file: bytes, size: int = 1 << 16) -> list[ReportLine]:
    return read(humo().reader(DAY), parts(file, size))


def read_uzcard(file: bytes, size: int = 1 << 16) -> list[ReportLine]:
    return read(DetailReader(DAY), parts(file, size))


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_visa_lines_mean_what_their_codes_say(size: int) -> None:
    """Whatever the parts it arrives in, every code has its movement and its sign."""
    rows = [
        visa_row(DAY, RRN, 125_000),
        visa_row(DAY, RRN, 50_000, transaction_code="06", processing_code="200000"),
        visa_row(DAY, RRN, 70_000, transaction_code="06", processing_code="260000"),
        visa_row(DAY, RRN, 90_000, processing_code="100000", currency="USD"),
        visa_row(DAY, RRN, 20_000, transaction_code="25"),
        visa_row(DAY, RRN, 30_000, transaction_code="26", processing_code="260000"),
    ]
    lines = read_visa(visa_file(rows), size)
    assert [(one.movement, one.net_minor) for one in lines] == [
        (Movement.DEBIT, 125_000),
        (Movement.REFUND, -50_000),
        (Movement.CREDIT, -70_000),
        (Movement.DEBIT, 90_000),
        (Movement.REFUND, -20_000),
        (Movement.REFUND, 30_000),
    ]
    assert lines[0] == ReportLine(
        number=2,
        movement=Movement.DEBIT,
        is_approved=True,
        reference="",
        processor_reference=RRN,
        amount_minor=125_000,
        commission_minor=None,
        fee_minor=125,
        net_minor=125_000,
        currency="UZS",
        day=DAY,
    )
    assert lines[3].currency == "USD"


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_humo_lines_mean_what_their_operations_say(size: int) -> None:
    """Refunds and what was undone give back what they name; a decline moves nothing."""
    rows = [
        humo_row(DAY, ATT, 1_000),
        humo_row(DAY, ATT, 2_000, operation="P2P", fee="30"),
        humo_row(DAY, ATT, 3_000, operation="SOAP_TOCARD_2"),
        humo_row(DAY, "rfd_1", 400, operation="RETURN", original="SOAP_SMS"),
        humo_row(DAY, ATT, 2_000, operation="REVERSAL", original="P2P", fee="30"),
        humo_row(DAY, ATT, 3_000, operation="REVERSAL", original="SOAP_TOCARD"),
        humo_row(DAY, ATT, 9_000, code="116"),
    ]
    lines = read_humo(humo_file(DAY, rows), size)
    assert [(one.movement, one.net_minor, one.is_approved) for one in lines] == [
        (Movement.DEBIT, 1_000, True),
        (Movement.TRANSFER, 30, True),
        (Movement.CREDIT, -3_000, True),
        (Movement.REFUND, -400, True),
        (Movement.REFUND, -30, True),
        (Movement.REFUND, 3_000, True),
        (Movement.DEBIT, 0, False),
    ]
    assert (lines[1].reference, lines[1].commission_minor) == (ATT, 30)


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_uzcard_rows_mean_what_their_kinds_say(size: int) -> None:
    """A row without every sign of an approval moved nothing."""
    undone = {"tranType": "REVERSAL", "reversal": True}
    rows = [
        uzcard_row(DAY, ATT, 1_000),
        uzcard_row(DAY, ATT, 2_000, tranType="P2P", commission=30),
        uzcard_row(DAY, ATT, 3_000, tranType="CREDIT"),
        uzcard_row(DAY, "rfd_1", 400, origTranType="DEBIT", **undone),
        uzcard_row(DAY, ATT, 2_000, origTranType="P2P", commission=30, **undone),
        uzcard_row(DAY, ATT, 9_000, resp=51, status="ERR", refNum="000000000000"),
        uzcard_row(DAY, ATT, 9_000, refNum="000000000000"),
    ]
    lines = read_uzcard(uzcard_file(rows), size)
    assert [(one.movement, one.net_minor, one.is_approved) for one in lines] == [
        (Movement.DEBIT, 1_000, True),
        (Movement.TRANSFER, 30, True),
        (Movement.CREDIT, -3_000, True),
        (Movement.REFUND, -400, True),
        (Movement.REFUND, -30, True),
        (Movement.DEBIT, 0, False),
        (Movement.DEBIT, 0, False),
    ]


def visa_with(**changes: str) -> bytes:
    return visa_file([visa_row(DAY, RRN, 1), visa_row(DAY, RRN, 1, **changes)])


HEAD = VISA_COLUMNS.encode()
ROW = ",".join(visa_row(DAY, RRN, 1)).encode()
END = b"TRAILER,1,1\n"
VISA_HOSTILE = {
    "nothing at all": (b"", 0),
    "a byte order mark": (b"\xef\xbb\xbf" + visa_file([]), 1),
    "sixteen bits a character": (visa_file([]).decode().encode("utf-16-le"), 1),
    "other columns": (HEAD.replace(b"rrn,", b"") + b"\nTRAILER,0,0\n", 1),
    "no header": (ROW + b"\n" + END, 1),
    "mixed line ends": (HEAD + b"\r\n" + ROW + b"\n" + END, 2),
    "a bare carriage return": (HEAD + b"\n" + ROW + b"\r\r\n" + END, 2),
    "a line without an end": (HEAD + b"\n" + ROW, 2),
    "no trailer": (HEAD + b"\n" + ROW + b"\n", 2),
    "a trailer of more lines": (HEAD + b"\n" + ROW + b"\nTRAILER,2,1\n", 3),
    "a trailer of another sum": (HEAD + b"\n" + ROW + b"\nTRAILER,1,2\n", 3),
    "two trailers": (HEAD + b"\n" + ROW + b"\n" + END + END, 4),
    "a line after the trailer": (HEAD + b"\n" + ROW + b"\n" + END + ROW + b"\n", 4),
    "an empty line": (HEAD + b"\n\n" + END, 2),
    "a cell too few": (HEAD + b"\n" + ROW[:-11] + b"\nTRAILER,1,1\n", 2),
    "a cell too many": (HEAD + b"\n" + ROW + b",x\nTRAILER,1,1\n", 2),
    "a million cells": (HEAD + b"\n" + b"," * 1_000_000 + b"\n" + END, 2),
    "a giant line": (HEAD + b"\n" + b"7" * 1_000_000, 2),
    "a quoted cell": (visa_with(card_last4='"42'), 3),
    "a formula": (visa_with(approval_code="=cmd()"), 3),
    "a formula by plus": (visa_with(approval_code="+1+1"), 3),
    "a formula by at": (visa_with(approval_code="@SUM"), 3),
    "a control character": (visa_with(approval_code="a\x00b"), 3),
    "a letter of another script": (
        HEAD + b"\n" + ROW.replace(b"UZS", "\u0423\u0417\u0421".encode()) + b"\n",
        2,
    ),
    "a sign": (HEAD + b"\n" + ROW.replace(b",1,UZS", b",-1,UZS") + b"\n" + END, 2),
    "a fraction": (HEAD + b"\n" + ROW.replace(b",1,UZS", b",1.5,UZS") + b"\n" + END, 2),
    "no amount": (HEAD + b"\n" + ROW.replace(b",1,UZS", b",,UZS") + b"\n" + END, 2),
    "an amount beyond all money": (visa_with(amount=str(10**15 + 1)), 3),
    "an amount without an end": (HEAD + b"\n" + ROW.replace(b",1,", b"," + b"9" * 4_000 + b","), 2),
    "digits of another script": (
        HEAD + b"\n" + ROW.replace(b",1,", ",\u0661,".encode()) + b"\n",
        2,
    ),
    "a day that is none": (visa_with(transaction_date="2026-02-30"), 3),
    "a week for a day": (visa_with(transaction_date="2026-W47-6"), 3),
    "another business day": (visa_with(business_date="2026-11-20"), 3),
    "an unknown code": (visa_with(transaction_code="07"), 3),
    "an unknown processing code": (visa_with(processing_code="990000"), 3),
    "an unknown currency": (visa_with(currency="XYZ"), 3),
    "a short RRN": (visa_with(rrn="1"), 3),
    "a whole card number": (visa_with(card_last4="4242420000000018"), 3),
}


@pytest.mark.parametrize("case", VISA_HOSTILE)
@pytest.mark.parametrize("size", [13, 1 << 16])
def test_a_clearing_file_that_does_not_fit_is_refused_by_its_line(case: str, size: int) -> None:
    """However it is cut up; and nothing of what it holds is repeated."""
    file, line = VISA_HOSTILE[case]
    with pytest.raises(ReportError) as refused:
        read_visa(file, size)
    assert refused.value.line == line, refused.value
    for cell in ("cmd", "4242420000000018", "XYZ", "990000"):
        assert cell not in str(refused.value)


HUMO_ROW = ";".join(humo_row(DAY, ATT, 1)).encode()
HUMO_HEAD = b"H;HUMO;20261121\r\n"
HUMO_HOSTILE = {
    "another's header": (b"H;VISA;20261121\r\n", 1),
    "another day's": (humo_file(date(2026, 11, 20), []), 1),
    "no trailer": (HUMO_HEAD + HUMO_ROW + b"\r\n", 2),
    "a trailer of other sums": (HUMO_HEAD + HUMO_ROW + b"\r\nT;1;1;2;0;0\r\n", 3),
    "a trailer of other lines": (HUMO_HEAD + HUMO_ROW + b"\r\nT;2;1;1;0;0\r\n", 3),
    "another mark": (humo_file(DAY, [humo_row(DAY, ATT, 1, mark="X")]), 2),
    "another currency": (humo_file(DAY, [humo_row(DAY, ATT, 1, currency="840")]), 2),
    "an unknown operation": (humo_file(DAY, [humo_row(DAY, ATT, 1, operation="SOAP_X")]), 2),
    "a refund of nothing": (humo_file(DAY, [humo_row(DAY, ATT, 1, operation="RETURN")]), 2),
    "a refund of a refund": (
        humo_file(DAY, [humo_row(DAY, ATT, 1, operation="RETURN", original="RETURN")]),
        2,
    ),
    "a code of letters": (humo_file(DAY, [humo_row(DAY, ATT, 1, code="0x0")]), 2),
    "half a time": (humo_file(DAY, [humo_row(DAY, ATT, 1, time="20261121")]), 2),
    "no reference": (humo_file(DAY, [humo_row(DAY, "", 1)]), 2),
    "a reference with a tab": (humo_file(DAY, [humo_row(DAY, "a\tb", 1)]), 2),
    "a reference with a backslash": (humo_file(DAY, [humo_row(DAY, "a\\N", 1)]), 2),
    "a reference without an end": (humo_file(DAY, [humo_row(DAY, "a" * 76, 1)]), 2),
    "a formula": (humo_file(DAY, [humo_row(DAY, "=1", 1)]), 2),
}


@pytest.mark.parametrize("case", HUMO_HOSTILE)
def test_a_humo_file_that_does_not_fit_is_refused_by_its_line(case: str) -> None:
    """Its trailer is held to its lines as well."""
    file, line = HUMO_HOSTILE[case]
    with pytest.raises(ReportError) as refused:
        read_humo(file, 11)
    assert refused.value.line == line, refused.value


def uzcard_with(**changes: Any) -> bytes:
    return uzcard_file([uzcard_row(DAY, ATT, 1, **changes)])


UZCARD_HOSTILE = {
    "not JSON": (b"{\n", 1),
    "not an object": (b"[1]\n", 1),
    "nested without an end": (b"[" * 4_000 + b"\n", 1),
    "a row too few": (b'{"totalElements":1}\n', 1),
    "no count": (uzcard_file([uzcard_row(DAY, ATT, 1)]).splitlines()[0] + b"\n", 1),
    "a row after the count": (b'{"totalElements":0}\n{"totalElements":0}\n', 2),
    "a row that counts": (b'{"totalElements":0,"ext":"x"}\n', 1),
    "no amount": (uzcard_with(amount=None), 1),
    "a fraction": (uzcard_with(amount=1.5), 1),
    "true for an amount": (uzcard_with(amount=True), 1),
    "a negative amount": (uzcard_with(amount=-1), 1),
    "an amount beyond all money": (uzcard_with(amount=10**15 + 1), 1),
    "a negative commission": (uzcard_with(commission=-1), 1),
    "another currency": (uzcard_with(currency=840), 1),
    "another day": (uzcard_with(udate=20261120), 1),
    "no day": (uzcard_with(udate=None), 1),
    "an unknown kind": (uzcard_with(tranType="SOMETHING"), 1),
    "a kind that is a list": (uzcard_with(tranType=["DEBIT"]), 1),
    "a reversal that does not say so": (uzcard_with(tranType="REVERSAL"), 1),
    "a reversal of nothing": (uzcard_with(tranType="REVERSAL", reversal=True), 1),
    "no ext": (uzcard_with(ext=""), 1),
    "an ext with a backslash": (uzcard_with(ext="a\\N"), 1),
    "a giant row": (b'{"ext":"' + b"x" * LINE_BYTES_MAX, 1),
}


@pytest.mark.parametrize("case", UZCARD_HOSTILE)
def test_a_uzcard_report_that_does_not_fit_is_refused_by_its_line(case: str) -> None:
    """Its count is held to its rows as well."""
    file, line = UZCARD_HOSTILE[case]
    with pytest.raises(ReportError) as refused:
        read_uzcard(file, 11)
    assert refused.value.line == line, refused.value


def test_a_reference_that_looks_like_a_card_is_masked() -> None:
    """Whoever shares the terminal may name payments as he likes."""
    pan = "8600000000000015"
    (line,) = read_uzcard(uzcard_file([uzcard_row(DAY, pan, 1)]))
    assert pan not in repr(line)
    assert line.reference == "860000...0015"


PIECES = (b"\n", b"\r\n", b",", b";", b'"', b"\\", b"\t", b"-1", b"9" * 17, b"\xff", b"null", b"{}")
UNDONE = {"tranType": "REVERSAL", "reversal": True, "origTranType": "P2P", "commission": 7}
WHOLE = {
    "visa": (read_visa, visa_file([visa_row(DAY, RRN, 125_000), visa_row(DAY, RRN, 1)])),
    "humo": (
        read_humo,
        humo_file(
            DAY,
            [
                humo_row(DAY, ATT, 1_000),
                humo_row(DAY, ATT, 20, operation="RETURN", original="SOAP_SMS"),
            ],
        ),
    ),
    "uzcard": (
        read_uzcard,
        uzcard_file([uzcard_row(DAY, ATT, 1_000), uzcard_row(DAY, ATT, 20, **UNDONE)]),
    ),
}


@pytest.mark.parametrize("scheme", WHOLE)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_spoilt_report_is_read_or_refused_and_nothing_else(
    scheme: str, data: st.DataObject
) -> None:
    """Whatever bytes are changed, put in or taken out, and however it is cut up."""
    reader, file = WHOLE[scheme]
    spoilt = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        taken = data.draw(st.integers(0, 3))
        spoilt[at : at + taken] = data.draw(st.binary(max_size=4) | st.sampled_from(PIECES))
        if not spoilt:
            break
    results = []
    for size in (data.draw(st.integers(1, 40)), 1 << 16):
        try:
            results.append(reader(bytes(spoilt), size))
        except ReportError as refused:
            results.append((refused.line, refused.what))
    assert results[0] == results[1]
    if isinstance(results[0], list):
        for line in results[0]:
            assert 0 <= line.amount_minor <= 10**15
            assert abs(line.net_minor) <= 2 * 10**15
            # They go into the database as they are.
            assert not set("\t\n\r\\") & set(line.reference + line.processor_reference)
