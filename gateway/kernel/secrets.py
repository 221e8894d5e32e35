"""Keys that must never be in the database or in a log: read once from a file only we can read.

The file is JSON: `{"lookup": base64, "quote": base64, "cursor": base64,
"codes": base64, "callbacks": {connector: "whsec_..."}, "audit": base64}`. A bank provides it
(`OQIM_KEYS_FILE`); the sandbox makes one in its data folder.
"""

import base64
import os
import secrets
import stat
from pathlib import Path

import msgspec


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Raw keys. Never printed.

    Attributes:
        lookup: HMAC key by which a card number is found again.
        quote: HMAC key that seals quotes.
        cursor: HMAC key that seals list cursors.
        codes: HMAC key under which one-time codes are kept.
        vault: data keys of a file from before they were wrapped in the database: taken over once.
        callbacks: Standard Webhooks secret of each connector that calls back.
        audit: seed of the Ed25519 key that signs the roots of the audit log, 32 bytes. A file from
            before there was one has none.
    """

    lookup: bytes
    quote: bytes
    cursor: bytes
    codes: bytes
    callbacks: dict[str, str]
    audit: bytes | None = None
    vault: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return "Keys(...)"


class KeysError(Exception):
    """A keys file that cannot be used; the text says what to do and shows no key."""


def load(path: Path) -> Keys:
    """Read the file. Raises KeysError when it is missing, open to others, or not of this form."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except FileNotFoundError:
        raise KeysError(f"{path} is missing; set OQIM_KEYS_FILE to your keys file") from None
    if mode & 0o077:
        raise KeysError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        return msgspec.json.decode(content, type=Keys)
    except msgspec.MsgspecError as error:
        raise KeysError(f"{path}: {error}") from None


def create(path: Path, connectors: list[str]) -> Keys:
    """Make new keys for a sandbox and write them with mode 0600."""
    keys = Keys(
        lookup=secrets.token_bytes(32),
        quote=secrets.token_bytes(32),
        cursor=secrets.token_bytes(32),
        codes=secrets.token_bytes(32),
        callbacks={
            name: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
            for name in connectors
        },
        audit=secrets.token_bytes(32),
    )
    _write(path, keys)
    return keys


def complete(path: Path, keys: Keys) -> Keys:
    """Give a sandbox's keys what they lack, and keep it."""
    if keys.audit is not None:
        return keys
    keys = msgspec.structs.replace(keys, audit=secrets.token_bytes(32))
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    _write(beside, keys)
    beside.replace(path)
    return keys


def _write(path: Path, keys: Keys) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(keys))
