"""A key-encryption key in a hardware module, reached over PKCS#11 (OASIS, version 2.40 and later).

The key is made in the module and never leaves it: what it wraps is sent in and comes out wrapped,
by AES-256-GCM. The library `python-pkcs11` is an extra (`pip install oqim[hsm]`); the module's own
library is the vendor's.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.kernel.secrets import KeysError

if TYPE_CHECKING:
    from pkcs11 import Session

_KEY_BITS = 256
_NONCE_BYTES = 12
# One of these says that it was not this key, or that what was wrapped was changed.
_FOREIGN = (
    "DataInvalid",
    "EncryptedDataInvalid",
    "EncryptedDataLenRange",
    "FunctionFailed",
    "GeneralError",
)


class HsmAddress(NamedTuple):
    """Where a key is.

    Args:
        module: the vendor's library, a path.
        token: the label of the module's token.
        key: the label of the key in it.
        pin_file: holds the user's PIN; mode 0600.
    """

    module: Path
    token: str
    key: str
    pin_file: Path


class HsmProvider:
    """A key in a module; made by `open_hsm`."""

    def __init__(self, key: Any, name: str) -> None:
        self._key = key
        self._name = name

    @property
    def kek(self) -> str:
        return self._name

    def wrap(self, key: bytes, *, bound_to: str) -> bytes:
        from pkcs11 import PKCS11Error

        nonce = os.urandom(_NONCE_BYTES)
        try:
            sealed: bytes = self._key.encrypt(key, **_gcm(nonce, bound_to))
        except PKCS11Error as error:
            raise KeysError(f"the hardware module did not wrap a key: {_of(error)}") from None
        return nonce + sealed

    def unwrap(self, wrapped: bytes, *, bound_to: str) -> bytes:
        from pkcs11 import PKCS11Error

        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            key: bytes = self._key.decrypt(sealed, **_gcm(nonce, bound_to))
        except PKCS11Error as error:
            if type(error).__name__ in _FOREIGN:
                raise KeysError("a data key was wrapped by another key-encryption key") from None
            raise KeysError(f"the hardware module did not unwrap a key: {_of(error)}") from None
        return key


def _gcm(nonce: bytes, bound_to: str) -> dict[str, Any]:
    from pkcs11 import GCMParams, Mechanism

    return {
        "mechanism": Mechanism.AES_GCM,
        "mechanism_param": GCMParams(nonce, aad=bound_to.encode(), tag_bits=128),
    }


def open_hsm(address: HsmAddress) -> HsmProvider:
    """Return the provider of a key in a module; its session stays open as long as the process.

    Raises:
        KeysError: says what is missing, and what to do.
    """
    from pkcs11 import KeyType, MultipleObjectsReturned, NoSuchKey, ObjectClass

    session = _session(address)
    try:
        key = session.get_key(
            object_class=ObjectClass.SECRET_KEY, key_type=KeyType.AES, label=address.key
        )
    except NoSuchKey:
        raise KeysError(
            f"the token {address.token} has no AES key {address.key}; make it: "
            "oqim vault new-hsm-key"
        ) from None
    except MultipleObjectsReturned:
        raise KeysError(f"the token {address.token} has several keys {address.key}") from None
    said = f"{session.token.serial!r}|{address.token}|{key.id.hex()}"
    return HsmProvider(key, hashlib.sha256(f"oqim name of {said}".encode()).hexdigest()[:16])


def make_key(address: HsmAddress) -> None:
    """Make a key in a module: 256 bits that never leave it.

    Raises:
        KeysError: there is one of that name, or the module refuses.
    """
    from pkcs11 import Attribute, KeyType, ObjectClass, PKCS11Error

    session = _session(address, is_writing=True)
    if (
        next(
            iter(
                session.get_objects(
                    {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: address.key}
                )
            ),
            None,
        )
        is not None
    ):
        raise KeysError(f"the token {address.token} has a key {address.key} already")
    only_here = {
        Attribute.ENCRYPT: True,
        Attribute.DECRYPT: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
    }
    try:
        session.generate_key(
            KeyType.AES,
            _KEY_BITS,
            id=os.urandom(16),
            label=address.key,
            store=True,
            template=only_here,
        )
    except PKCS11Error as error:
        raise KeysError(f"the hardware module did not make a key: {_of(error)}") from None


def _session(address: HsmAddress, *, is_writing: bool = False) -> "Session":
    try:
        import pkcs11
    except ImportError:
        raise KeysError("a hardware module needs one library more: pip install oqim[hsm]") from None

    pin = _read_pin(address.pin_file)
    try:
        token = pkcs11.lib(str(address.module)).get_token(token_label=address.token)
        try:
            return token.open(user_pin=pin, rw=is_writing)
        except pkcs11.UserAlreadyLoggedIn:
            # A process logs in once for all of its sessions.
            return token.open(rw=is_writing)
    except pkcs11.NoSuchToken:
        raise KeysError(f"the hardware module has no token {address.token}") from None
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinLocked) as error:
        raise KeysError(f"the hardware module refuses the PIN: {_of(error)}") from None
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise KeysError(
            f"the hardware module cannot be used by {address.module}: {_of(error)}"
        ) from None


def _read_pin(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        pin = path.read_text().strip()
    except OSError as error:
        raise KeysError(f"{path}, the hardware module's PIN: {error.strerror}") from None
    if mode & 0o077:
        raise KeysError(f"{path} can be read by others; run: chmod 600 {path}")
    return pin


def _of(error: BaseException) -> str:
    return type(error).__name__
