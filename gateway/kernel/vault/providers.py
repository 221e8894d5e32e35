"""Who holds the key-encryption key, and wraps data keys with it.

A provider never gives the key away: it wraps and unwraps. One makes it from the shares of at least
two custodians, files that no one of them needs to be able to read both of; the other has it in a
hardware module (`hsm`).
"""

import base64
import binascii
import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.kernel.secrets import KeysError
from gateway.kernel.vault.hsm import HsmAddress, open_hsm
from gateway.settings import Vault

SHARES_MIN = 2
_SHARE_BYTES = 32
_NONCE_BYTES = 12


class Provider(Protocol):
    """Holds one key-encryption key."""

    @property
    def kek(self) -> str:
        """What the key is called: says nothing of it, and is another for another key."""
        ...

    def wrap(self, key: bytes, *, bound_to: str) -> bytes:
        """Return a data key that only this provider unwraps."""
        ...

    def unwrap(self, wrapped: bytes, *, bound_to: str) -> bytes:
        """Return the data key. Raises KeysError when another wrapped it."""
        ...


class ShareProvider:
    """A key made of shares: it needs all of them.

    Args:
        shares: 32 bytes each; two at least, no two alike.
    """

    def __init__(self, shares: Sequence[bytes]) -> None:
        if len(shares) < SHARES_MIN:
            raise KeysError(f"the key-encryption key needs {SHARES_MIN} shares, of as many people")
        if len(set(shares)) != len(shares):
            raise KeysError("two shares of the key-encryption key are the same")
        joined = bytes(_SHARE_BYTES)
        for share in shares:
            if len(share) != _SHARE_BYTES:
                raise KeysError(f"a share of the key-encryption key has {_SHARE_BYTES} bytes")
            joined = bytes(one ^ other for one, other in zip(joined, share, strict=True))
        key = HKDF(hashes.SHA256(), 32, salt=None, info=b"oqim key-encryption key").derive(joined)
        self._cipher = AESGCM(key)
        self._name = hashlib.sha256(b"oqim name of " + key).hexdigest()[:16]

    @property
    def kek(self) -> str:
        return self._name

    def wrap(self, key: bytes, *, bound_to: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, bound_to.encode())

    def unwrap(self, wrapped: bytes, *, bound_to: str) -> bytes:
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, bound_to.encode())
        except InvalidTag:
            raise KeysError("a data key was wrapped by another key-encryption key") from None


def from_files(paths: Sequence[Path]) -> ShareProvider:
    """Return the provider of custodians' shares.

    Args:
        paths: one file a custodian: 32 bytes in base64, mode 0600.

    Raises:
        KeysError: names the file, and what to do; shows no share.
    """
    return ShareProvider([_read(path) for path in paths])


def open_provider(settings: Vault, *, kek: str | None = None) -> Provider:
    """Return the provider that the settings name.

    Args:
        kek: `shares` or `pkcs11`, in place of the one that is in use.

    Raises:
        KeysError: it cannot be had; says what to do.
    """
    if (kek or settings.kek) == "pkcs11":
        return open_hsm(hsm_address(settings))
    return from_files([Path(one) for one in settings.kek_shares])


def hsm_address(settings: Vault) -> HsmAddress:
    """Return where the settings say that a hardware module's key is. Raises KeysError."""
    if not (settings.pkcs11_module and settings.pkcs11_pin_file):
        raise KeysError("set vault.pkcs11_module and vault.pkcs11_pin_file in settings.toml")
    return HsmAddress(
        module=Path(settings.pkcs11_module),
        token=settings.pkcs11_token,
        key=settings.pkcs11_key,
        pin_file=Path(settings.pkcs11_pin_file),
    )


def _read(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text()
    except FileNotFoundError:
        raise KeysError(
            f"{path}, a share of the key-encryption key, is missing; name all shares with "
            "OQIM_KEK_SHARES, or make them: oqim vault new-share FILE"
        ) from None
    if mode & 0o077:
        raise KeysError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        share = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        share = b""
    if len(share) != _SHARE_BYTES:
        raise KeysError(f"{path} is no share: it must hold {_SHARE_BYTES} bytes in base64")
    return share


def make_share(path: Path) -> None:
    """Write a new share, mode 0600. Raises FileExistsError: a share is never overwritten."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(_SHARE_BYTES)) + b"\n")
