"""Reports as the processors write them, made and doctored by hand; nothing of the product's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

VISA_COLUMNS = (
    "business_date,transaction_code,processing_code,rrn,approval_code,card_last4,"
    "amount,currency,processing_fee,transaction_date"
)


def visa_row(day: date, _rrn: str, _amount: int, **changes: str) -> list[str]:
    """A sale; `changes` by column."""
    values = {
        "business_date": day.isoformat(),
        "transaction_code": "05",
        "processing_code": "000000",
        "rrn": _rrn,
        "approval_code": "000123",
        "card_last4": "4242",
        "amount": str(_amount),
        "currency": "UZS",
        "processing_fee": str(_amount // 1000),
        "transaction_date": day.isoformat(),
    }
    values |= changes
    return list(values.values())


def visa_file(rows: Iterable[list[str]]) -> bytes:
    """A clearing file with the trailer its rows need."""
    lines = [",".join(row) for row in rows]
    total = sum(int(row.split(",")[6]) for row in lines)
    return "\n".join([VISA_COLUMNS, *lines, f"TRAILER,{len(lines)},{total}", ""]).encode()


def visa_rows(file: bytes) -> list[list[str]]:
    """The rows of a clearing file."""
    return [line.split(",") for line in file.decode().splitlines()[1:-1]]


def humo_row(day: date, _ref: str, _amount: int, **changes: str) -> list[str]:
    """A purchase; `changes` by name."""
    values = {
        "mark": "D",
        "operation": "SOAP_SMS",
        "original": "",
        "ref": _ref,
        "id": "77",
        "rrn": "632514000123",
        "code": "000",
        "amount": str(_amount),
        "fee": "0",
        "currency": "860",
        "time": f"{day:%Y%m%d}103000",
    }
    values |= changes
    return list(values.values())


def humo_file(day: date, rows: Iterable[list[str]]) -> bytes:
    """A day's file with the header and trailer its rows need."""
    rows = list(rows)
    sums = [0, 0, 0, 0]
    for row in rows:
        if row[6] == "000":
            at = 2 if row[1] in ("RETURN", "REVERSAL", "SOAP_TOCARD", "SOAP_TOCARD_2") else 0
            sums[at] += 1
            sums[at + 1] += int(row[7]) + int(row[8])
    trailer = f"T;{len(rows)};" + ";".join(str(one) for one in sums)
    lines = [f"H;HUMO;{day:%Y%m%d}", *(";".join(row) for row in rows), trailer, ""]
    return "\r\n".join(lines).encode()


def humo_rows(file: bytes) -> list[list[str]]:
    """The rows of a day's file."""
    return [line.split(";") for line in file.decode().splitlines()[1:-1]]


def uzcard_row(day: date, _ext: str, _amount: int, **changes: Any) -> dict[str, Any]:
    """A payment; `changes` by member."""
    return {
        "id": "1000000001",
        "refNum": "000123456789",
        "ext": _ext,
        "tranType": "DEBIT",
        "amount": _amount,
        "currency": 860,
        "resp": 0,
        "status": "OK",
        "field38": "123456",
        "reversal": False,
        "udate": int(f"{day:%Y%m%d}"),
        "utime": 103000,
    } | changes


def uzcard_file(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows of `report.detail` and their count."""
    rows = list(rows)
    lines = [json.dumps(row) for row in [*rows, {"totalElements": len(rows)}]]
    return ("\n".join(lines) + "\n").encode()


def uzcard_rows(file: bytes) -> list[dict[str, Any]]:
    """The rows of such a file."""
    return [json.loads(line) for line in file.decode().splitlines()[:-1]]


def parts(file: bytes, size: int) -> Iterator[bytes]:
    """A file as it may arrive, `size` bytes at a time."""
    for start in range(0, len(file), size):
        yield file[start : start + size]
