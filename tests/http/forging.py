"""Tokens that the house would never sign, signed with the house's own key.

So that nothing but the one thing that is wrong with a token can be what refuses it.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.house import House, Reply, new_key
from tests.vault.opened import opened_vault


def encoded(raw: bytes | dict[str, Any]) -> str:
    """Return base64url of bytes, or of JSON."""
    if isinstance(raw, dict):
        raw = json.dumps(raw).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Forger:
    """Signs what the house would never sign, with the house's own key."""

    def __init__(self, kid: str, key: Ed25519PrivateKey, claims: dict[str, Any]) -> None:
        self.kid = kid
        self.key = key
        self.claims = claims

    def token(
        self,
        claims: dict[str, Any] | None = None,
        header: dict[str, Any] | None = None,
        key: Ed25519PrivateKey | None = None,
    ) -> str:
        """Return a token that is good but for what is given; None takes a claim away."""
        said = self.claims | {"jti": secrets.token_hex(8)} | (claims or {})
        said = {name: value for name, value in said.items() if value is not None}
        head = {"alg": "EdDSA", "typ": "at+jwt", "kid": self.kid} | (header or {})
        signed = f"{encoded(head)}.{encoded(said)}"
        return f"{signed}.{encoded((key or self.key).sign(signed.encode()))}"

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


async def forger_of(house: House) -> Forger:
    """Return who signs with a house's key."""
    (row,) = await house.rows("SELECT kid, private_key FROM signing_keys")
    vault = await opened_vault(house)
    opened = vault.open(row["private_key"], bound_to=f"signing_keys|private_key|{row['kid']}")
    raw = base64.urlsafe_b64decode(opened + "=")
    payload = house.user(0)["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return Forger(row["kid"], Ed25519PrivateKey.from_private_bytes(raw), claims)


async def ask(house: House, door: str, *lines: bytes) -> Reply | None:
    """Ask at a door with these header lines and no other authorization."""
    if door == "list":
        raw = [b"GET /v1/payments HTTP/1.1", b"Host: oqim", *lines, b"", b""]
    else:
        body = json.dumps(house.purchase(0, "humo", 10_000)).encode()
        path = {"pay": b"/v1/payments", "quote": b"/v1/payments/quote"}[door]
        raw = [
            b"POST " + path + b" HTTP/1.1",
            b"Host: oqim",
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(body),
            b"Idempotency-Key: " + new_key().encode(),
            *lines,
            b"",
            body,
        ]
    return await house.send(b"\r\n".join(raw), within_s=5.0)
