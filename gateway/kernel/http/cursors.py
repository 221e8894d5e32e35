"""Opaque, signed cursors of lists: one position, good for one list of one owner and filter."""

import base64
import hashlib
import hmac

from gateway.kernel.http.problems import Problem

_TAG_BYTES = 16


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
