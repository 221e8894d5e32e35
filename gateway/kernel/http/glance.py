"""What can be told of a request by a glance at its first bytes, before HTTP is parsed.

Says something only of the plainest form: one whole request with an unmistakable end. Whatever it
does not recognise is left to the parser; it must never take a request for another's bytes.
"""

import re
from typing import NamedTuple

_FIRST_LINE = re.compile(rb"([A-Z]{3,7}) (/[!-$&->@-~]*)(?:\?[!-~]*)? HTTP/1\.1\r\n")
# Lines that may be one of `_TELLING`, or go on with the line before.
_MAYBE_TELLING = re.compile(rb"\r\n([CcTtEeUuXx \t][^\r\n]*)")
# They decide where a request ends or what becomes of the connection: left to the parser.
_TELLING = frozenset((b"transfer-encoding", b"expect", b"upgrade", b""))
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")


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
    if data.count(b"\n", starts_at, ends_at) != data.count(b"\r\n", starts_at, ends_at):
        return None
    length: int | None = None
    request_id = b""
    for line in _MAYBE_TELLING.findall(data, starts_at, ends_at):
        written, _, value = line.partition(b":")
        name, value = written.lower(), value.strip()
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 7:
                return None
            length = int(value)
        elif name == b"x-request-id":
            request_id = value if _REQUEST_ID.fullmatch(value) else b""
        elif name == b"connection":
            if value.lower() != b"keep-alive":
                return None
        elif name in _TELLING or name.strip() != name:
            return None
    if len(data) != ends_at + 4 + (length or 0):
        return None
    return Glance(first[1].decode(), first[2].decode(), request_id)
