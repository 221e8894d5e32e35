"""The sandbox's people: 50 users with a card of each scheme, a merchant, two operators.

Cards are added the way the API adds them: each processor is asked, and UZCARD's one-time code is
read from its simulator. Everybody who is there already stays; tokens are made anew at each start.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import asyncpg

from connectors.spi import CardData, Connector, Pan
from gateway import settings as settings_module
from gateway.app.ground import Ground, open_ground
from gateway.app.identity import IdentityRoom, open_identity
from gateway.app.payments import ignore_advice, open_connectors
from gateway.cards.directory import pan_binding, token_binding
from gateway.identity.clients import MOBILE, new_secret
from gateway.kernel.ids import new_id
from gateway.kernel.secrets import Keys
from gateway.operators.roles import read_roles

USERS = 50
TOKEN_TTL_S = 12 * 3600
_CONCURRENT_MAX = 8
_EXPIRY = "3012"
# Issuer prefixes of the sandbox's cards, eleven digits of number, a check digit.
_PREFIXES = {"visa": "4242", "humo": "9860", "uzcard": "8600"}
MERCHANT = {
    "name": "OQIM SANDBOX SHOP",
    "city": "TASHKENT",
    "country": "UZ",
    "mcc": "5411",
    "acceptor_id": "MERCHANT0000001",
    "terminal_id": "TERM0001",
}
_MERCHANT_SCOPES = [
    "payments:read",
    "payments:write",
    "payments:payout",
    "payments:capture",
    "payments:refund",
    "limits:read",
    "webhooks:read",
    "webhooks:write",
]
# Everything, as config/roles.toml says of it.
_OPERATOR_ROLE = "administrator"


async def seed(
    environment: Mapping[str, str],
    keys: Keys,
    simulators: Mapping[str, str],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Make what is missing and return the sandbox's description, without its addresses.

    Args:
        environment: what the gateway's workers are started with.
        simulators: each scheme's control URL.
        note: told what is being done.
    """
    settings = settings_module.load(environment, is_sandbox=True)
    async with AsyncExitStack() as stack:
        ground = await open_ground(settings, keys, stack)
        identity = await open_identity(ground, stack)
        connectors = await open_connectors(ground, stack, ignore_advice)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        seeder = _Seeder(ground, identity, connectors, simulators, session)
        merchant = await seeder.merchant()
        operators = [await seeder.operator(f"Operator {number}") for number in (1, 2)]
        users = await seeder.users(note)
        return {
            "users": users,
            "merchant": merchant,
            "operators": operators,
            "simulators": dict(simulators),
            "callbacks": dict(keys.callbacks),
        }


class _Seeder:
    def __init__(
        self,
        ground: Ground,
        identity: IdentityRoom,
        connectors: Mapping[str, Connector],
        simulators: Mapping[str, str],
        session: aiohttp.ClientSession,
    ) -> None:
        self._ground = ground
        self._identity = identity
        self._connectors = connectors
        self._simulators = simulators
        self._session = session
        self._slots = asyncio.Semaphore(_CONCURRENT_MAX)

    def _id(self, prefix: str) -> str:
        return new_id(prefix, self._ground.clock())

    async def users(self, note: Callable[[str], None]) -> list[dict[str, Any]]:
        done = 0

        async def one(number: int) -> dict[str, Any]:
            nonlocal done
            async with self._slots:
                user = await self._user(number)
            done += 1
            note(f"{done} of {USERS} users")
            return user

        return await asyncio.gather(*(one(number) for number in range(1, USERS + 1)))

    async def _user(self, number: int) -> dict[str, Any]:
        phone = f"+9989012300{number:02}"
        user_id: str = await self._ground.pool.fetchval(
            """
            INSERT INTO users (id, phone, tier) VALUES ($1, $2, 'identified')
            ON CONFLICT (phone) DO UPDATE SET tier = users.tier RETURNING id
            """,
            self._id("usr_"),
            phone,
        )
        cards = {scheme: await self._card(user_id, phone, scheme, number) for scheme in _PREFIXES}
        tokens = await self._session_of(user_id)
        return {"id": user_id, "phone": phone} | tokens | {"cards": cards}

    async def _card(self, owner: str, phone: str, scheme: str, number: int) -> str:
        pan = with_check_digit(f"{_PREFIXES[scheme]}01{number:09}")
        ground = self._ground
        lookup = ground.core.lookup_of(pan)
        known: str | None = await ground.pool.fetchval(
            "SELECT id FROM cards WHERE owner = $1 AND lookup = $2 AND status = 'active'",
            owner,
            lookup,
        )
        if known is not None:
            return known
        card_id = self._id("card_")
        token = await self._link(CardData(scheme, Pan(pan), _EXPIRY), phone, card_id)
        sealed = ground.vault.seal(pan, bound_to=pan_binding(card_id))
        token_sealed = ground.vault.seal(token, bound_to=token_binding(card_id)) if token else None
        await ground.pool.execute(
            """
            INSERT INTO cards (id, owner, scheme, bin, last4, expiry, lookup, pan_sealed,
                token_sealed, status)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'active')
            """,
            card_id,
            owner,
            scheme,
            pan[:6],
            pan[-4:],
            _EXPIRY,
            lookup,
            sealed,
            token_sealed,
        )
        return card_id

    async def _link(self, card: CardData, phone: str, reference: str) -> str | None:
        """Add a card at its processor; returns the processor's token for it, if it has one."""
        connector = self._connectors[card.scheme]
        check = await connector.check_card(card, phone=phone, reference=reference)
        if not check.outcome.is_approved:
            raise RuntimeError(f"a sandbox card was refused by {card.scheme}: {check.outcome}")
        if check.challenge is None:
            return None
        url = f"{self._simulators[card.scheme]}/_sim/messages"
        async with self._session.get(url, params={"to": phone}) as reply:
            messages = await reply.json()
        link = await connector.link_card(card, challenge=check.challenge, code=messages[-1]["code"])
        if not link.outcome.is_approved:
            raise RuntimeError(f"a sandbox card was not linked by {card.scheme}: {link.outcome}")
        return link.token

    async def merchant(self) -> dict[str, str]:
        """Make the merchant once, and a new secret for its client at each start."""
        pool: asyncpg.Pool = self._ground.pool
        merchant_id: str | None = await pool.fetchval(
            "SELECT id FROM merchants WHERE acceptor_id = $1", MERCHANT["acceptor_id"]
        )
        if merchant_id is None:
            merchant_id = self._id("mer_")
            await pool.execute(
                """
                INSERT INTO merchants (id, name, city, country, mcc, acceptor_id, terminal_id)
                VALUES ($1, $2, $3, $4, $5, $6, $7)
                """,
                merchant_id,
                *MERCHANT.values(),
            )
        client_id, secret = "sandbox-shop", new_secret()
        await self._identity.clients.put(
            client_id=client_id,
            channel="api",
            subject=merchant_id,
            secret=secret,
            scopes=_MERCHANT_SCOPES,
        )
        return {"id": merchant_id, "client_id": client_id, "client_secret": secret}

    async def operator(self, name: str) -> dict[str, str]:
        """Make an operator once, and a token at each start."""
        pool: asyncpg.Pool = self._ground.pool
        operator_id: str | None = await pool.fetchval(
            "SELECT id FROM operators WHERE name = $1", name
        )
        if operator_id is None:
            operator_id = self._id("opr_")
            await pool.execute(
                "INSERT INTO operators (id, name, roles) VALUES ($1, $2, $3)",
                operator_id,
                name,
                [_OPERATOR_ROLE],
            )
        token = self._identity.tokens.issue(
            sub=operator_id,
            client_id="console",
            scope=read_roles(self._ground.settings.roles).permitted([_OPERATOR_ROLE]),
            channel="console",
            ttl_s=TOKEN_TTL_S,
        )
        return {"id": operator_id, "access_token": token}

    async def _session_of(self, user_id: str) -> dict[str, str]:
        """Log a user in on the sandbox's own device."""
        grant = await self._identity.sessions.create(
            user_id=user_id,
            client_id=MOBILE,
            device_id="sandbox",
            device_name="Oqim sandbox",
        )
        token = self._identity.tokens.issue(
            sub=user_id,
            client_id=MOBILE,
            scope=self._ground.settings.identity.mobile_scopes,
            sid=grant.session_id,
            tier="identified",
            channel="mobile",
            device=grant.device_id,
            ttl_s=TOKEN_TTL_S,
        )
        return {"access_token": token, "refresh_token": grant.refresh_token}


def with_check_digit(digits: str) -> str:
    """Return `digits` and their Luhn check digit (ISO/IEC 7812-1)."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)
