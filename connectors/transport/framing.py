"""Frames of the VISA socket: 4-byte prefix, 22-byte header, message. Pure: bytes in, frames out.

Prefix: length of header and message, 2 bytes big-endian, then 00 00; the high nibble 2 of the
fourth byte is session control. A zero length is a keep-alive poll.
Header (22): own length, header format (bit 0x80: another header follows), text format, total
length (2), destination station (3 BCD), source station (3 BCD), round-trip control (1), flags (2),
status flags (3), batch (1), reserved (3), user information (1). A header of 26 bytes or more with
bit 0x80 of byte 22 is a reject; bytes 24 and 25 are its code.
"""

from dataclasses import dataclass, field
from enum import Enum

PREFIX_SIZE = 4
HEADER_SIZE = 22
KEEP_ALIVE = b"\x00\x00\x00\x00"

_REJECT_HEADER_SIZE = 26
_HEADERS_MAX = 2
_CONTROL_NIBBLE = 0x20


class FramingError(Exception):
    """The stream can no longer be cut into frames: the connection is of no more use."""


class FrameKind(Enum):
    MESSAGE = "message"
    KEEP_ALIVE = "keep-alive"
    CONTROL = "control"
    REJECT = "reject"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `message` starts at the MTI; `reject_code` is four digits of a reject."""

    kind: FrameKind
    message: bytes = field(default=b"", repr=False)
    reject_code: str = ""


class Framer:
    """Makes frames of one sender.

    Args:
        source_station, destination_station: 6 digits each.
    """

    def __init__(self, *, source_station: str, destination_station: str) -> None:
        self._head = bytes((HEADER_SIZE, 0x01, 0x02))
        self._tail = bytes.fromhex(destination_station + source_station) + bytes(11)

    def frame(self, message: bytes) -> bytes:
        """Prefix, header and `message`, ready to be written."""
        length = (HEADER_SIZE + len(message)).to_bytes(2, "big")
        return b"".join((length, b"\x00\x00", self._head, length, self._tail, message))


class FrameReader:
    """Cuts a byte stream into frames.

    Args:
        size_max: bytes of header and message together; a longer one ends the connection.
    """

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._buffer = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes, in order.

        Raises:
            FramingError: a length no peer may send.
        """
        buffer = self._buffer + data if self._buffer else data
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= PREFIX_SIZE:
            size = buffer[start] << 8 | buffer[start + 1]
            if size > self._size_max:
                raise FramingError("frame-too-large")
            end = start + PREFIX_SIZE + size
            if len(buffer) < end:
                break
            if size == 0:
                frames.append(Frame(FrameKind.KEEP_ALIVE))
            elif buffer[start + 3] & 0xF0 == _CONTROL_NIBBLE:
                frames.append(Frame(FrameKind.CONTROL))
            else:
                frames.append(_parse(buffer[start + PREFIX_SIZE : end]))
            start = end
        self._buffer = buffer[start:] if start else buffer
        return frames


def _parse(body: bytes) -> Frame:
    """Read the headers of one frame."""
    reject_code = ""
    start = 0
    for _ in range(_HEADERS_MAX):
        header_size = body[start] if start < len(body) else 0
        if header_size < HEADER_SIZE or start + header_size > len(body):
            return Frame(FrameKind.MALFORMED)
        if header_size >= _REJECT_HEADER_SIZE and body[start + 22] & 0x80:
            reject_code = body[start + 24 : start + 26].hex()
        has_another = body[start + 1] & 0x80
        start += header_size
        if not has_another:
            break
    else:
        return Frame(FrameKind.MALFORMED)
    if reject_code:
        return Frame(FrameKind.REJECT, body[start:], reject_code)
    return Frame(FrameKind.MESSAGE, body[start:])
