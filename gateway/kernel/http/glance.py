"""What can be told of a request by a glance at its first bytes, before HTTP is parsed.

Says something only of the plainest form: one whole request with an unmistakable end. Whatever it
does not recognise is left to the parser; it must never take a request for another's bytes.
"""

import re
from typing import NamedTuple

_FIRST_LINE = re.compile(rb"([A-Z]{3,7}) (/[!-$&->@-~]*)(?:\?[!-~]*)? HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,7})\r\n")
_REQUEST_ID = re.compile(rb"\r\nx-request-id: *([a-z0-9_.-]{1,64})\r\n")
_KEEP_ALIVE = b"\r\nconnection: keep-alive\r\n"
# Their presence decides where a request ends, or what becomes of the connection.
_LEFT_TO_THE_PARSER = (b"\r\ntransfer-encoding", b"\r\nupgrade", b"\r\nexpect", b"\r\n ", b"\r\n\t")


class Glance(NamedTuple):
    """A whole request. The path has no percent-escapes; `request_id` is empty without one."""

    method: str
    path: str
    request_id: bytes


def glance(data: bytes) -> Glance | None:
    """Return what `data` asks for when it is exactly one plain HTTP/1.1 request, else None."""
    first = _FIRST_LINE.match(data)
    if first is None:
        return None
    starts_at = first.end() - 2
    ends_at = data.find(b"\r\n\r\n", starts_at)
    if ends_at < 0:
        return None
    # Lower case has the same length: what is found in it stands at the same place.
    head = data[starts_at : ends_at + 2].lower()
    if any(name in head for name in _LEFT_TO_THE_PARSER) or head.count(b"\n") != head.count(
        b"\r\n"
    ):
        return None
    if b"\r\nconnection" in head and _KEEP_ALIVE not in head:
        return None
    length = 0
    lengths = head.count(b"\r\ncontent-length")
    if lengths:
        found = _LENGTH.search(head)
        if lengths > 1 or found is None:
            return None
        length = int(found[1])
    if len(data) != ends_at + 4 + length:
        return None
    named = _REQUEST_ID.search(head) if b"\r\nx-request-id" in head else None
    request_id = b""
    if named is not None:
        request_id = data[starts_at + named.start(1) : starts_at + named.end(1)]
    return Glance(first[1].decode(), first[2].decode(), request_id)
