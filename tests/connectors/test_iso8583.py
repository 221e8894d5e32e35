"""The codec's Python face: the golden message, and pyiso8583 as a second opinion."""

from typing import Any

import iso8583
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.spi import Iso8583Codec
from gateway._core import Iso8583, Iso8583Error

GOLDEN = bytes.fromhex(
    "01007224648108e08000104242424242424242000000000001250000112114300000012328125999086001005906"
    "412345f6f3f2f5f1f4f0f0f0f1f2f3e3c5d9d4f0f0f0f1d4c5d9c3c8c1d5e3f0f0f0f0f0f0f1d6d8c9d440e3c5e2"
    "e340e2c8d6d74040404040404040404040e3c1e2c8d2c5d5e34040404040e4e90860"
)
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

# number: (kind, fixed width or None, most)
LAYOUT: dict[int, tuple[str, int | None, int]] = {
    2: ("n", None, 19),
    3: ("n", 6, 6),
    4: ("n", 12, 12),
    7: ("n", 10, 10),
    11: ("n", 6, 6),
    14: ("n", 4, 4),
    18: ("n", 4, 4),
    19: ("n", 3, 3),
    22: ("n", 3, 3),
    25: ("n", 2, 2),
    32: ("n", None, 11),
    33: ("n", None, 11),
    37: ("an", 12, 12),
    38: ("an", 6, 6),
    39: ("an", 2, 2),
    41: ("an", 8, 8),
    42: ("an", 15, 15),
    43: ("an", 40, 40),
    44: ("an", None, 25),
    49: ("n", 3, 3),
    55: ("b", None, 255),
    62: ("b", None, 255),
    63: ("b", None, 255),
    70: ("n", 3, 3),
    90: ("n", 42, 42),
    95: ("an", 42, 42),
    126: ("b", None, 255),
}


def peer_spec() -> dict[str, dict[str, Any]]:
    """The same dialect in pyiso8583's words."""
    spec: dict[str, dict[str, Any]] = {
        "h": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 0, "desc": ""},
        "t": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 2, "desc": ""},
        "p": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 8, "desc": ""},
        "1": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 8, "desc": ""},
    }
    for number, (kind, width, most) in LAYOUT.items():
        field: dict[str, Any] = {
            "data_enc": "cp037" if kind == "an" else "b",
            "len_enc": "b",
            "len_type": 1 if width is None else 0,
            "max_len": most,
            "desc": "",
        }
        if kind == "n":
            field["len_count"] = "nibbles"
            if number == 22:
                field["right_pad"] = "0"
            else:
                field["left_pad"] = "0"
            if width is not None and width % 2 == 0:
                field["max_len"] = width // 2
                del field["len_count"]
        spec[str(number)] = field
    return spec


SPEC = peer_spec()


def to_peer(mti: str, fields: dict[int, str | bytes]) -> dict[str, str]:
    values = {
        str(number): value.hex().upper() if isinstance(value, bytes) else value
        for number, value in fields.items()
    }
    return {"t": mti, **values}


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, dict[int, str | bytes]]:
    numbers = draw(st.sets(st.sampled_from(sorted(LAYOUT))))
    fields: dict[int, str | bytes] = {}
    for number in sorted(numbers):
        kind, width, most = LAYOUT[number]
        least = width if width is not None else (1 if kind == "n" else 0)
        if kind == "b":
            fields[number] = draw(st.binary(min_size=least, max_size=most))
            continue
        alphabet = st.sampled_from(
            "0123456789" if kind == "n" else [chr(code) for code in range(0x20, 0x7F)]
        )
        fields[number] = draw(st.text(alphabet, min_size=least, max_size=most))
    return draw(st.from_regex(r"[0-9]{4}", fullmatch=True)), fields


def test_the_golden_message_both_ways(codec: Iso8583Codec) -> None:
    """Byte for byte what the protocol's page shows."""
    assert codec.pack("0100", FIELDS) == GOLDEN
    assert codec.unpack(GOLDEN) == ("0100", FIELDS)


@given(messages())
def test_pyiso8583_reads_what_we_write(message: tuple[str, dict[int, str | bytes]]) -> None:
    """An independent codec finds the same fields in our bytes, and writes the same bytes."""
    mti, fields = message
    packed = Iso8583("visa-binary").pack(mti, fields)
    decoded, _ = iso8583.decode(packed, SPEC)
    shown = {name: value for name, value in decoded.items() if name not in ("h", "p", "1")}
    assert shown == to_peer(mti, fields)
    theirs, _ = iso8583.encode(to_peer(mti, fields), SPEC)
    assert bytes(theirs) == packed
    assert Iso8583("visa-binary").unpack(bytes(theirs)) == (mti, fields)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_message_or_an_error(data: bytes) -> None:
    """Nothing else than the codec's own error comes of any input."""
    codec = Iso8583("visa-binary")
    try:
        mti, fields = codec.unpack(data)
    except Iso8583Error:
        return
    assert codec.pack(mti, fields) == data


@pytest.mark.parametrize(
    ("mti", "fields", "path"),
    [
        ("010", {}, "mti"),
        ("01x0", {}, "mti"),
        ("0100", {1: "0"}, "F1"),
        ("0100", {300: "0"}, "fields"),
        ("0100", {-1: "0"}, "fields"),
        ("0100", {4: "1"}, "F4"),
        ("0100", {2: "4242 4242"}, "F2"),
        ("0100", {2: "\u0661\u0662"}, "F2"),
        ("0100", {43: "\ud800".ljust(40)}, "F43"),
        ("0100", {62: "text"}, "F62"),
    ],
)
def test_an_error_names_the_path_and_no_value(
    codec: Iso8583Codec, mti: str, fields: dict[int, str | bytes], path: str
) -> None:
    """The error is a ValueError that says where, not what."""
    with pytest.raises(Iso8583Error) as refused:
        codec.pack(mti, fields)
    assert isinstance(refused.value, ValueError)
    assert str(refused.value).startswith(f"{path}: ")
    assert "4242" not in str(refused.value)


def test_wrong_types_are_type_errors(codec: Any) -> None:
    """A value that is neither text nor bytes is our bug, not a peer's message."""
    with pytest.raises(TypeError, match="F3"):
        codec.pack("0100", {3: 0})


def test_an_unknown_dialect_is_refused() -> None:
    """There is no default dialect."""
    with pytest.raises(Iso8583Error, match="dialect"):
        Iso8583("base24")
