"""One authorization request of 16 fields, and its dialect in pyiso8583's words.

Binary coded digits, EBCDIC texts, one length byte that counts digits: the dialect that the core
calls `visa-binary`.
"""

from typing import Any

MTI = "0100"
FIELDS: dict[int, str | bytes] = {
    2: "4242424242424242",
    3: "000000",
    4: "000001250000",
    7: "1121143000",
    11: "000123",
    14: "2812",
    18: "5999",
    19: "860",
    22: "010",
    25: "59",
    32: "412345",
    37: "632514000123",
    41: "TERM0001",
    42: "MERCHANT0000001",
    43: "OQIM TEST SHOP           TASHKENT     UZ",
    49: "860",
}

Field = dict[str, Any]


def _digits(length: int, *, is_variable: bool = False, pad: str = "left_pad") -> Field:
    return {
        "data_enc": "b",
        "len_enc": "b",
        "len_type": 1 if is_variable else 0,
        "len_count": "nibbles",
        "max_len": length,
        pad: "0",
        "desc": "",
    }


def _text(length: int) -> Field:
    return {"data_enc": "cp037", "len_enc": "b", "len_type": 0, "max_len": length, "desc": ""}


def _binary(length: int) -> Field:
    return {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": length, "desc": ""}


SPEC: dict[str, Field] = {
    "h": _binary(0),
    "t": _binary(2),
    "p": _binary(8),
    "1": _binary(8),
    "2": _digits(19, is_variable=True),
    "3": _digits(6),
    "4": _digits(12),
    "7": _digits(10),
    "11": _digits(6),
    "14": _digits(4),
    "18": _digits(4),
    "19": _digits(3),
    # Three digits and a trailing zero.
    "22": _digits(3, pad="right_pad"),
    "25": _digits(2),
    "32": _digits(11, is_variable=True),
    "37": _text(12),
    "41": _text(8),
    "42": _text(15),
    "43": _text(40),
    "49": _digits(3),
}
