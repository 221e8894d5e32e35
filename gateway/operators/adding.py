"""`oqim operators add`: an operator made from the command line, and told to the audit log."""

import asyncio
import re
from dataclasses import dataclass, field

import asyncpg

from gateway.kernel import audit
from gateway.kernel.clock import system_clock
from gateway.kernel.ids import new_id
from gateway.kernel.passwords import hash_secret
from gateway.kernel.vault.keyring import Keyring
from gateway.kernel.vault.providers import open_provider
from gateway.operators import codes, store
from gateway.operators.model import PASSWORD_LENGTH_MIN
from gateway.operators.roles import read_roles
from gateway.operators.sessions import binding
from gateway.settings import Settings

_LOGIN = re.compile(r"[a-z0-9._-]{1,64}")


class AddError(Exception):
    """An operator that cannot be added; the text says why."""


@dataclass(frozen=True, slots=True)
class Added:
    """A new operator. The URI holds the secret of the codes, and is shown once."""

    id: str
    provisioning_uri: str = field(repr=False)


def run(
    settings: Settings, *, login: str, name: str, roles: list[str], password: str, actor: str
) -> Added:
    """Add an operator.

    Raises:
        AddError, KeysError, SettingsError.
    """
    known = read_roles(settings.roles).scopes
    unknown = sorted(set(roles) - set(known))
    if unknown:
        raise AddError(
            f"there is no role {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    if not _LOGIN.fullmatch(login):
        raise AddError("a login has up to 64 small letters, digits, dots, dashes and underscores")
    if len(password) < PASSWORD_LENGTH_MIN:
        raise AddError(f"a password has {PASSWORD_LENGTH_MIN} characters at least")
    return asyncio.run(_add(settings, login, name, roles, password, actor))


async def _add(
    settings: Settings, login: str, name: str, roles: list[str], password: str, actor: str
) -> Added:
    provider = open_provider(settings.vault)
    pool = await asyncpg.create_pool(settings.database.url, min_size=1, max_size=1)
    try:
        vault = await Keyring(provider).load(pool)
        operator_id, secret = new_id("opr_", system_clock()), codes.new_secret()
        sealed = vault.seal(secret, bound_to=binding(operator_id))
        try:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    store.ADD, operator_id, name, login, hash_secret(password), sealed, roles
                )
                await audit.record(
                    connection,
                    at_ms=system_clock(),
                    actor=actor,
                    action="operator.add",
                    object=operator_id,
                    detail={"login": login, "roles": roles},
                )
        except asyncpg.UniqueViolationError:
            raise AddError(f"there is an operator {login} already") from None
    finally:
        await pool.close()
    return Added(operator_id, codes.provisioning_uri(secret, login))
