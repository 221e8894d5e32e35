"""`oqim clients ...` and `oqim keys ...`, as they are typed and what they print.

What they do is imported when it is done: no other command waits for it.
"""

import getpass
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import Parameter

from gateway import settings as settings_module
from gateway.kernel.secrets import KeysError
from gateway.settings import Settings, SettingsError

if TYPE_CHECKING:
    from gateway.identity.registering import Added

Result = TypeVar("Result")

Scope = Annotated[list[str], Parameter(help="What it may do; give it again for each.")]
Keys = Annotated[
    Path | None,
    Parameter(help='Its public keys: a JWKS, {"keys": [...]}. Instead of a secret.'),
]
Dpop = Literal["off", "optional", "required"]


def add(
    client_id: str,
    *,
    kind: Annotated[
        Literal["server", "app"],
        Parameter(help="`server`: acts for a merchant by itself. `app`: carries customers."),
    ],
    scope: Scope,
    merchant: Annotated[str | None, Parameter(help="Whom a server acts for: mer_...")] = None,
    keys: Keys = None,
    dpop: Annotated[
        Dpop, Parameter(help="Whether its tokens are bound to a key that it proves (RFC 9449).")
    ] = "off",
) -> None:
    """Add a client, and print its secret once unless it has keys of its own.

    A server that holds a private key (Ed25519, P-256 or RSA) is the safer one: nothing that could
    be copied is ever sent. Make a key, give its public half, and authenticate by assertions
    (`private_key_jwt`):

    `oqim clients add shop --kind server --merchant mer_... --scope payments:write --scope
    payments:read --keys shop.jwks.json --dpop required`

    A key is Ed25519, P-256 or RSA of 2048 bits or more; of several, each has a `kid`. Writes the
    database of OQIM_DATABASE_URL, and the audit log.
    """
    from gateway.identity import registering

    added = _done(
        lambda settings: registering.add_client(
            settings,
            client_id,
            kind=kind,
            merchant=merchant,
            scopes=scope,
            keys=None if keys is None else keys.read_bytes(),
            dpop=dpop,
            actor=_actor(),
        )
    )
    _tell(added)


def change(
    client_id: str,
    *,
    scope: Annotated[
        list[str] | None, Parameter(help="All that it may do from now on; give it again for each.")
    ] = None,
    keys: Keys = None,
    new_secret: Annotated[bool, Parameter(help="Make it a new secret.", negative="")] = False,
    dpop: Annotated[Dpop | None, Parameter(help="Whether its tokens are bound to a key.")] = None,
) -> None:
    """Change a client: its scopes, its keys or its secret, whether it proves a key.

    The old secret or keys stop working at once. To change keys without a gap, first give a JWKS
    with the old and the new one, each with its `kid`, and later one with the new one alone. Tokens
    that it has live on until they expire, or until an operator revokes the client.
    """
    from gateway.identity import registering

    changed = _done(
        lambda settings: registering.change_client(
            settings,
            client_id,
            scopes=scope,
            keys=None if keys is None else keys.read_bytes(),
            renews_secret=new_secret,
            dpop=dpop,
            actor=_actor(),
        )
    )
    _tell(changed)


def list_clients() -> None:
    """List the clients: whom each acts for, how it authenticates, what it may do."""
    from gateway.identity import registering

    for one in _done(registering.list_clients):
        print(f"{one.id}  {one.channel}  {one.subject or '-'}  {one.method}  dpop={one.dpop}")
        print(f"    {' '.join(one.scopes)}")


def rotate_key() -> None:
    """Make a new key for signing tokens; it signs in about three minutes.

    Tokens by the old key are accepted until they expire; then the key is forgotten. Workers learn
    of it within a minute; nothing is restarted. By itself this happens every `signing_key_life_s`.
    """
    from gateway.identity import registering

    print(_done(lambda settings: registering.rotate_key(settings, actor=_actor())))


def list_keys() -> None:
    """List the keys that tokens are verified with, and until when."""
    from gateway.identity import registering

    for one in _done(registering.list_keys):
        mark = "signs" if one.is_current else "verifies"
        until = "" if one.ends_at_s is None else f", until {_time(one.ends_at_s)}"
        print(f"{one.kid}  {mark}, since {_time(one.created_at_s)}{until}")


def drop_key(kid: str) -> None:
    """Forget a key at once, as when somebody else may have it: its tokens are refused in a minute.

    Another key signs from then on, if need be a new one. Customers' apps renew by themselves.
    """
    from gateway.identity import registering

    _done(lambda settings: registering.drop_key(settings, kid, actor=_actor()))
    print(f"{kid} is forgotten; every worker refuses its tokens within a minute")


def _tell(client: "Added") -> None:
    print(client.id)
    if client.secret is not None:
        print(f"Its secret, shown once: {client.secret}")


def _done(act: Callable[[Settings], Result]) -> Result:
    from gateway.identity.registering import RegisterError

    try:
        settings = settings_module.load()
        if not settings.database.url:
            raise SettingsError("OQIM_DATABASE_URL is not set")
        return act(settings)
    except (RegisterError, SettingsError, KeysError, OSError) as error:
        print(f"oqim: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
