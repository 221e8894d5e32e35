"""The VISA dialect of ISO 8583:1987 as data for pyiso8583, and the framing around it.

Numerics are packed BCD (odd lengths padded on the left), bitmaps are binary, a variable field has
one binary length byte that counts digits or characters, text is EBCDIC (code page 037). A frame is
a 4-byte prefix (2-byte big-endian length of what follows, then two zero bytes), a 22-byte header
and the message; a frame of length zero is a keep-alive poll.
"""

from collections.abc import Mapping
from typing import Any

PREFIX_SIZE = 4
HEADER_SIZE = 22
REJECT_HEADER_SIZE = 26
FRAME_SIZE_MAX = 2048
KEEP_ALIVE = bytes(PREFIX_SIZE)
STATION = bytes.fromhex("400001")

Field = dict[str, Any]


def _fixed_digits(length: int) -> Field:
    return {
        "data_enc": "b",
        "len_enc": "b",
        "len_type": 0,
        "len_count": "nibbles",
        "max_len": length,
        "left_pad": "0",
        "desc": "",
    }


def _variable_digits(length: int) -> Field:
    return {**_fixed_digits(length), "len_type": 1}


def _fixed_text(length: int) -> Field:
    return {"data_enc": "cp037", "len_enc": "b", "len_type": 0, "max_len": length, "desc": ""}


def _variable_text(length: int) -> Field:
    return {**_fixed_text(length), "len_type": 1}


def _variable_binary(length: int) -> Field:
    return {"data_enc": "b", "len_enc": "b", "len_type": 1, "max_len": length, "desc": ""}


def _bitmap() -> Field:
    return {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 8, "desc": ""}


_DIGITS = {
    3: 6, 4: 12, 5: 12, 6: 12, 7: 10, 9: 8, 10: 8, 11: 6, 12: 6, 13: 4, 14: 4, 15: 4, 16: 4,
    18: 4, 19: 3, 20: 3, 21: 3, 23: 3, 24: 3, 25: 2, 26: 2, 49: 3, 50: 3, 51: 3, 70: 3, 73: 6,
    90: 42,
}  # fmt: skip
_TEXT = {37: 12, 38: 6, 39: 2, 40: 3, 41: 8, 42: 15, 43: 40, 95: 42}

SPEC: dict[str, Field] = {
    "h": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 0, "desc": ""},
    "t": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 2, "desc": ""},
    "p": _bitmap(),
    "1": _bitmap(),
    **{str(number): _fixed_digits(length) for number, length in _DIGITS.items()},
    **{str(number): _fixed_text(length) for number, length in _TEXT.items()},
    "2": _variable_digits(19),
    # Three digits and a trailing zero.
    "22": _fixed_digits(4),
    "32": _variable_digits(11),
    "33": _variable_digits(11),
    "35": _variable_digits(37),
    "44": _variable_text(25),
    "45": _variable_text(76),
    "52": {"data_enc": "b", "len_enc": "b", "len_type": 0, "max_len": 8, "desc": ""},
    "54": _variable_text(120),
    **{str(number): _variable_binary(255) for number in (48, 55, 60, 62, 63, 126)},
}


_ECHOED = (2, 3, 4, 7, 11, 19, 25, 32, 37, 41, 42, 49, 70, 90)
_REPLY_FIELDS = tuple((str(number), 1 << (128 - number)) for number in sorted({*_ECHOED, 38, 39}))
_SECONDARY = 1 << 127
_LOWER_HALF = (1 << 64) - 1


class FrameError(ValueError):
    """The bytes on the socket are no frame of this dialect; the connection cannot go on."""


def reply_message(
    mti: str, received: Mapping[str, Mapping[str, bytes]], code: str, approval: str, shift: int
) -> bytes:
    """Build a reply out of the request's own encoded fields, which the codec keeps as it decodes.

    Encoding every echoed field anew would cost as much as decoding them did.

    Args:
        received: the codec's encoded fields of the request, `{number: {"len", "data"}}`.
        code: F39. approval: F38, left out when empty. shift: is added to F4.
    """
    bits = 0
    parts: list[bytes] = []
    for number, bit in _REPLY_FIELDS:
        if number == "39":
            parts.append(code.encode("cp037"))
        elif number == "38":
            if not approval:
                continue
            parts.append(approval.encode("cp037"))
        else:
            field = received.get(number)
            if field is None:
                continue
            data = field["data"]
            if shift and number == "4":
                data = bytes.fromhex(f"{int(data.hex()) + shift:012d}")
            parts += (field["len"], data)
        bits |= bit
    if bits & _LOWER_HALF:
        bitmap = (bits | _SECONDARY).to_bytes(16, "big")
    else:
        bitmap = (bits >> 64).to_bytes(8, "big")
    return b"".join((bytes.fromhex(mti), bitmap, *parts))


def frame(header: bytes, message: bytes | bytearray) -> bytes:
    """Put prefix and header before a message."""
    length = len(header) + len(message)
    return b"".join((length.to_bytes(2, "big"), b"\0\0", header, message))


def header(total: int, destination: bytes, source: bytes) -> bytes:
    """Build a 22-byte header. Args: total is the length of header and message."""
    return b"".join((b"\x16\x01\x02", total.to_bytes(2, "big"), destination, source, bytes(11)))


def reply_frame(request_header: bytes, message: bytes | bytearray) -> bytes:
    """Frame a reply: the request's header with the stations swapped and the length its own."""
    total = HEADER_SIZE + len(message)
    return b"".join(
        (
            total.to_bytes(2, "big"),
            b"\0\0\x16\x01\x02",
            total.to_bytes(2, "big"),
            request_header[8:11],
            request_header[5:8],
            request_header[11:22],
            message,
        )
    )


def own_frame(message: bytes | bytearray, peer: bytes) -> bytes:
    """Frame a message that this side begins. Args: peer is the station it goes to."""
    return frame(header(HEADER_SIZE + len(message), peer, STATION), message)


def reject_frame(code: str, rejected: bytes) -> bytes:
    """Frame a reject: a 26-byte header with field 13, then the rejected header and message.

    Args:
        code: four digits, BCD at bytes 24 and 25.
        rejected: what was received after its prefix; empty when nothing is given back.
    """
    total = REJECT_HEADER_SIZE + len(rejected)
    known = rejected if len(rejected) >= HEADER_SIZE else bytes(HEADER_SIZE)
    # Bit 0x80 of the format says that another header follows this one.
    header_format = b"\x81" if len(rejected) >= HEADER_SIZE else b"\x01"
    reject_header = b"".join(
        (
            b"\x1a",
            header_format,
            b"\x02",
            total.to_bytes(2, "big"),
            known[8:11],
            known[5:8],
            bytes(11),
            b"\x80\x00",
            bytes.fromhex(code),
        )
    )
    return frame(reject_header, rejected)


class Deframer:
    """Cuts a stream of bytes into frames. Keep-alive polls come out as empty frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return the whole frames, without their prefixes.

        Raises:
            FrameError: a length beyond 2048.
        """
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= PREFIX_SIZE:
            length = buffer[start] << 8 | buffer[start + 1]
            if length > FRAME_SIZE_MAX:
                raise FrameError(f"a frame of {length} bytes")
            stop = start + PREFIX_SIZE + length
            if stop > end:
                break
            # A high nibble of 2 in the last byte is session control, which carries no message.
            if buffer[start + 3] >> 4 != 2:
                frames.append(bytes(buffer[start + PREFIX_SIZE : stop]))
            start = stop
        if start:
            del buffer[:start]
        return frames
