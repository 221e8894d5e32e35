"""`oqim clients` and `oqim keys`: clients and signing keys, changed from the command line.

Whatever is changed is told to the audit log in the same transaction. A secret is shown once, when
it is made, and is nowhere afterwards.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import asyncpg
import msgspec

from gateway.identity import jose, store
from gateway.identity.clients import MOBILE, Client, Dpop, add, new_secret
from gateway.identity.jose import JoseFault
from gateway.identity.keys import SigningKeys, ends_at_s
from gateway.kernel import audit
from gateway.kernel.clock import system_clock
from gateway.kernel.passwords import hash_secret
from gateway.kernel.vault.keyring import Keyring
from gateway.kernel.vault.providers import open_provider
from gateway.settings import Settings

Kind = Literal["server", "app"]
Result = TypeVar("Result")

SCOPES = (
    "cards:read",
    "cards:write",
    "limits:read",
    "payments:capture",
    "payments:payout",
    "payments:read",
    "payments:refund",
    "payments:write",
    "sessions:read",
    "sessions:write",
    "webhooks:read",
    "webhooks:write",
)
"""What a client may be given; operators' scopes are theirs alone."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_CHANNELS = {"server": "api", "app": "mobile"}


class RegisterError(Exception):
    """What cannot be registered; the text says why."""


@dataclass(frozen=True, slots=True)
class Added:
    """A client. `secret` is None for one that has none, or has its own keys."""

    id: str
    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """A client as it is listed. `method` is how it authenticates at the token endpoint."""

    id: str
    channel: str
    subject: str
    method: str
    dpop: str
    scopes: list[str]


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A signing key. Times are Unix seconds; `ends_at_s` is None while no other takes its place."""

    kid: str
    created_at_s: float
    ends_at_s: float | None
    is_current: bool


def add_client(
    settings: Settings,
    client_id: str,
    *,
    kind: Kind,
    merchant: str | None,
    scopes: list[str],
    keys: bytes | None,
    dpop: Dpop,
    actor: str,
) -> Added:
    """Add a client.

    Args:
        merchant: whom a server acts for.
        keys: the JWKS by which a server authenticates; None to make it a secret.

    Raises:
        RegisterError.
    """
    if not _ID.match(client_id):
        raise RegisterError(
            "an id has up to 64 small letters, digits, dots, dashes and underscores"
        )
    if kind == "server" and merchant is None:
        raise RegisterError("a server acts for a merchant: give --merchant")
    if kind == "app" and (merchant is not None or keys is not None):
        raise RegisterError("an app carries customers and keeps no key: give neither")
    _check_scopes(scopes)
    jwks = None if keys is None else _checked(keys)
    secret = new_secret() if kind == "server" and jwks is None else None
    client = Client(
        id=client_id,
        channel=_CHANNELS[kind],
        subject=merchant,
        secret_hash=None if secret is None else hash_secret(secret),
        jwks=jwks,
        scopes=scopes,
        dpop=dpop,
    )

    async def act(connection: Any) -> None:
        known = await connection.fetchval("SELECT true FROM merchants WHERE id = $1", merchant)
        if merchant is not None and not known:
            raise RegisterError(f"there is no merchant {merchant}")
        if not await add(connection, client):
            raise RegisterError(f"there is a client {client_id} already; see `oqim clients change`")
        detail = {"kind": kind, "merchant": merchant, "scopes": scopes, "dpop": dpop}
        await _note(connection, "client.add", client_id, detail | _method(client), actor)

    _run(settings, act)
    return Added(client_id, secret)


def change_client(
    settings: Settings,
    client_id: str,
    *,
    scopes: list[str] | None,
    keys: bytes | None,
    renews_secret: bool,
    dpop: Dpop | None,
    actor: str,
) -> Added:
    """Change what is given of a client; the rest stays. Tokens that it has live on until they end.

    Args:
        keys: the JWKS by which it authenticates from now on, instead of a secret.
        renews_secret: whether it gets a new secret, instead of the old one or of keys.

    Raises:
        RegisterError.
    """
    if keys is not None and renews_secret:
        raise RegisterError("a client has keys or a secret, never both")
    if client_id == MOBILE:
        raise RegisterError(f"{MOBILE} is as config/settings.toml says ([identity] mobile_...)")
    if scopes is not None:
        _check_scopes(scopes)
    jwks = None if keys is None else _checked(keys)
    secret = new_secret() if renews_secret else None

    async def act(connection: Any) -> None:
        row = await connection.fetchrow(f"{store.GET_CLIENT} FOR UPDATE", client_id)
        if row is None:
            raise RegisterError(f"there is no client {client_id}")
        changes: dict[str, Any] = {}
        if scopes is not None:
            changes["scopes"] = scopes
        if dpop is not None:
            changes["dpop"] = dpop
        if jwks is not None or secret is not None:
            if row["subject"] is None:
                raise RegisterError("an app carries customers and keeps no key")
            hashed = None if secret is None else hash_secret(secret)
            changes |= {"jwks": jwks, "secret_hash": hashed}
        client = msgspec.structs.replace(Client(**row), **changes)
        values = msgspec.structs.astuple(client)
        await connection.execute(store.PUT_CLIENT, *values)
        detail = {"scopes": client.scopes, "dpop": client.dpop, "renewed": sorted(changes)}
        await _note(connection, "client.change", client_id, detail | _method(client), actor)

    _run(settings, act)
    return Added(client_id, secret)


def list_clients(settings: Settings) -> list[Shown]:
    """Return every client, by id."""

    async def act(connection: Any) -> list[Shown]:
        rows = await connection.fetch(store.LIST_CLIENTS)
        clients = [Client(**row) for row in rows]
        return [
            Shown(
                one.id,
                one.channel,
                one.subject or "",
                str(_method(one)["method"]),
                one.dpop,
                one.scopes,
            )
            for one in clients
        ]

    return _run(settings, act)


def rotate_key(settings: Settings, *, actor: str) -> str:
    """Add a signing key and return its id. Raises KeysError."""
    return asyncio.run(_with_keys(settings, lambda keys: keys.rotate(actor=actor)))


def drop_key(settings: Settings, kid: str, *, actor: str) -> None:
    """Forget a signing key at once. Raises RegisterError, KeysError."""
    if not asyncio.run(_with_keys(settings, lambda keys: keys.drop(kid, actor=actor))):
        raise RegisterError(f"there is no key {kid}")


def list_keys(settings: Settings) -> list[ShownKey]:
    """Return the signing keys, the oldest first. Raises KeysError."""

    async def act(keys: SigningKeys) -> list[ShownKey]:
        made = keys.made_at_s
        kids = list(made)
        following = [*kids[1:], None]
        return [
            ShownKey(
                kid,
                made[kid],
                None if after is None else ends_at_s(made[after]),
                kid == keys.current[0],
            )
            for kid, after in zip(kids, following, strict=True)
        ]

    return asyncio.run(_with_keys(settings, act))


async def _with_keys(settings: Settings, act: Callable[[SigningKeys], Awaitable[Result]]) -> Result:
    provider = open_provider(settings.vault)
    async with asyncpg.create_pool(settings.database.url, min_size=1, max_size=1) as pool:
        vault = await Keyring(provider).load(pool)
        keys = SigningKeys(pool=pool, vault=vault, core=None, clock=system_clock)
        await keys.load()
        return await act(keys)


def _run(settings: Settings, act: Callable[[Any], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        connection = await asyncpg.connect(settings.database.url)
        try:
            async with connection.transaction():
                return await act(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def _check_scopes(scopes: list[str]) -> None:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        named = ", ".join(unknown) or "nothing"
        raise RegisterError(f"a client cannot be given {named}; there are {', '.join(SCOPES)}")


def _checked(keys: bytes) -> str:
    """Return a JWKS as it is kept: the public parts, and nothing else that was in it."""
    try:
        found = jose.read_keys(keys)
    except JoseFault as fault:
        raise RegisterError(f"the keys cannot be used: {fault}") from None
    kept = [
        {"alg": one.algorithm, "use": "sig", **cast("dict[str, Any]", one.key.as_dict())}
        | ({} if one.kid is None else {"kid": one.kid})
        for one in found
    ]
    return msgspec.json.encode({"keys": kept}).decode()


def _method(client: Client) -> dict[str, Any]:
    if client.jwks is not None:
        keys = jose.read_keys(client.jwks.encode())
        return {"method": "private_key_jwt", "thumbprints": [one.thumbprint for one in keys]}
    return {"method": "none" if client.secret_hash is None else "client_secret"}


async def _note(
    connection: Any, action: str, client_id: str, detail: dict[str, Any], actor: str
) -> None:
    await audit.record(
        connection,
        at_ms=system_clock(),
        actor=actor,
        action=action,
        object=client_id,
        detail=detail,
    )
