"""Signatures of what is sent (Standard Webhooks 1.0.0). Pure; secrets are never kept or printed."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
# The standard asks for 24 to 64.
_SECRET_BYTES = 32


def new_secret() -> str:
    """Return a secret of 256 random bits, as the standard writes it: `whsec_` and base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return one signature: `v1,` and the base64 of HMAC-SHA-256 over `id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(
    keys: Sequence[str], *, message_id: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """Return the standard's three headers.

    Args:
        keys: one secret, or two while the older one still signs: a signature each.
        message_id: the same at every try, and without a dot.
        timestamp_s: Unix seconds of this try.
    """
    signatures = (
        sign(key, message_id=message_id, timestamp_s=timestamp_s, body=body) for key in keys
    )
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signatures),
    }
