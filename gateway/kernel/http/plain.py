"""The plainest form of a request, read without a parser; and an answer, written without one.

Reads only what every reader of HTTP/1.1 must read alike: one request, whole, with an unmistakable
end, each header given once, nothing that changes where the body ends, what encodes it, or what
becomes of the connection. Whatever else comes is left to aiohttp's parser, which then decides
alone: so the two can never take the same bytes for different requests.
"""

import re
from email.utils import formatdate
from enum import Enum
from functools import cache
from http import HTTPStatus
from typing import NamedTuple

from gateway.kernel.http.messages import Response

HEAD_BYTES_MAX = 8_000
"""Below every bound of the parser's, so that none can be passed here."""
HEADERS_MAX = 64

_HEADER = re.compile(
    rb"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[!-~](?:[ -~\t]*[!-~])?)?)[ \t]*(?=\r\n)"
)
# What may be the beginning of one.
_BEGINNING = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*(?:(?<=.):[ -~\t]*)?\r?\Z")
_LENGTH = re.compile(rb"(?:0|[1-9][0-9]{0,6})\Z")
# They decide where a request ends, how it is to be read, what becomes of the connection, or whether
# a browser's page may ask at all.
_TELLING = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"expect",
        b"keep-alive",
        b"origin",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_KEEPS = frozenset((b"keep-alive", b"Keep-Alive"))
_ACCEPTS = frozenset((b"*/*", b"application/json"))

Headers = tuple[tuple[bytes, bytes], ...]


class Plain(NamedTuple):
    """A whole request after its first line: headers as they were sent, the same by lower name."""

    headers: Headers
    named: dict[bytes, bytes]
    body: bytes


class Told(Enum):
    """What else can be told of bytes that begin with a first line that is known."""

    UNFINISHED = 1
    """They are the beginning of a plain request."""
    STRANGE = 2
    """Only a parser can tell what they are."""


def read_plain(data: bytes, line_ends_at: int, body_bytes_max: int) -> Plain | Told:
    """Read what follows a request's first line.

    Args:
        data: everything that came, first line and all.
        line_ends_at: where the first line ends, before its CRLF.
        body_bytes_max: a longer body is for the parser to refuse.
    """
    head_ends_at = data.find(b"\r\n\r\n", line_ends_at)
    is_whole = head_ends_at >= 0
    lines_end_at = head_ends_at if is_whole else data.rfind(b"\r\n")
    if lines_end_at > HEAD_BYTES_MAX:
        return Told.STRANGE
    found = _HEADER.findall(data, line_ends_at, lines_end_at + 2)
    # Each line is a header, or this is not plain.
    if len(found) != data.count(b"\n", line_ends_at, lines_end_at) or len(found) > HEADERS_MAX:
        return Told.STRANGE
    named = {name.lower(): value for name, value in found}
    if len(named) != len(found) or not _is_plain(named):
        return Told.STRANGE
    length = named.get(b"content-length", b"0")
    if not _LENGTH.match(length) or int(length) > body_bytes_max:
        return Told.STRANGE
    if not is_whole:
        is_beginning = _BEGINNING.match(data, lines_end_at + 2) and len(data) < HEAD_BYTES_MAX
        return Told.UNFINISHED if is_beginning else Told.STRANGE
    if b"host" not in named:
        return Told.STRANGE
    missing = head_ends_at + 4 + int(length) - len(data)
    if missing > 0:
        return Told.UNFINISHED
    if missing < 0:
        # The beginning of another request, before this one was answered.
        return Told.STRANGE
    return Plain(tuple(found), named, data[head_ends_at + 4 :])


def _is_plain(named: dict[bytes, bytes]) -> bool:
    """Whether no header says anything that only a parser, or aiohttp, should answer to."""
    if not _TELLING.isdisjoint(named) and not _only_keeps_alive(named):
        return False
    return named.get(b"accept", b"*/*") in _ACCEPTS


def _only_keeps_alive(named: dict[bytes, bytes]) -> bool:
    return named.get(b"connection") in _KEEPS and len(_TELLING & named.keys()) == 1


@cache
def _first_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


class RawAnswers:
    """Writes answers as bytes for a socket; the connection stays open."""

    def __init__(self) -> None:
        self._date_s = -1
        self._date = ""

    def raw(self, response: Response, headers: dict[str, str], now_s: int) -> bytes:
        """Return an answer in HTTP/1.1.

        Args:
            headers: all of them but Content-Length and Date.
            now_s: Unix seconds.
        """
        if now_s != self._date_s:
            self._date_s, self._date = now_s, formatdate(now_s, usegmt=True)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        length = len(response.body)
        head = (
            f"{_first_line(response.status)}{lines}Content-Length: {length}\r\nDate: {self._date}"
        )
        if head.count("\n") != len(headers) + 2:
            raise ValueError("a header's value holds a line end")
        return head.encode("latin-1") + b"\r\n\r\n" + response.body
