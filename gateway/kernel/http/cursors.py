"""Lists by pages, and their cursors: opaque, signed, good for one list of one owner and filter.

Owns what every list of the API does alike: where a page begins, how much is read for it, and
whether another follows. What is listed, and by what key, is the room's.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.kernel.http.problems import Problem

_TAG_BYTES = 16
Row = TypeVar("Row")


class PageQuery(Protocol):
    """What a client says of the page it wants: `limit` is 1 or more."""

    limit: int
    cursor: str | None


class Cursors:
    """Makes and reads cursors.

    Args:
        key: HMAC key; cursors made under another are refused.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _tag(self, position: str, list_name: str, bound_to: str) -> bytes:
        text = "\x00".join((list_name, bound_to, position)).encode()
        return hmac.new(self._key, text, hashlib.sha256).digest()[:_TAG_BYTES]

    def page(self, list_name: str, query: PageQuery, *bound_to: object) -> "Page":
        """Return the page of a list that is asked for.

        Args:
            bound_to: owner and filters; a cursor is refused with others.

        Raises:
            Problem: `invalid-cursor`.
        """
        return Page(self, list_name, query, "|".join(str(one or "") for one in bound_to))

    def encode(self, position: str, *, list_name: str, bound_to: str) -> str:
        """Return a cursor that continues `list_name` after `position`.

        Args:
            bound_to: owner and filters; the cursor is refused with others.
        """
        raw = self._tag(position, list_name, bound_to) + position.encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def decode(self, cursor: str, *, list_name: str, bound_to: str) -> str:
        """Return the position. Raises Problem `invalid-cursor`."""
        invalid = Problem("invalid-cursor", "Use the next_cursor of the page before.")
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            tag, position = raw[:_TAG_BYTES], raw[_TAG_BYTES:].decode()
        except ValueError:
            raise invalid from None
        if not hmac.compare_digest(tag, self._tag(position, list_name, bound_to)):
            raise invalid
        return position


class Page:
    """A page that a client asked for, made by `Cursors.page`.

    Attributes:
        position: the key of the last row of the page before; None on the first.
        limit: how many rows to read: one more than is shown, which tells whether a page follows.
    """

    def __init__(self, cursors: Cursors, list_name: str, query: PageQuery, bound_to: str) -> None:
        self._cursors = cursors
        self._list_name = list_name
        self._bound_to = bound_to
        self._size = query.limit
        self.limit = query.limit + 1
        self.position: str | None = None
        if query.cursor is not None:
            self.position = cursors.decode(query.cursor, list_name=list_name, bound_to=bound_to)

    def cut(self, rows: list[Row], key: Callable[[Row], str]) -> tuple[list[Row], str | None]:
        """Return the rows to show, and the cursor of the page that follows, None when none does.

        Args:
            rows: up to `limit`, in the order of the list.
            key: a row's position.
        """
        shown = rows[: self._size]
        if len(rows) == len(shown):
            return shown, None
        position = key(shown[-1])
        return shown, self._cursors.encode(
            position, list_name=self._list_name, bound_to=self._bound_to
        )
