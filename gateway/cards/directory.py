"""Cards and merchants as payments need them, kept in memory with their numbers still sealed.

A card number is opened only for the moment in which a connector is given it.
"""

from collections.abc import Iterable
from typing import Any

import asyncpg

from connectors.spi import CardData, Merchant, Pan
from gateway.cards.model import DELETED
from gateway.core import Core
from gateway.kernel.vault import Vault

CARDS = """
SELECT id, owner, scheme, bin, expiry, lookup, pan_sealed, token_sealed, status, version
FROM cards WHERE id = ANY($1::text[])
"""
MERCHANTS = """
SELECT id, name, city, country, mcc, acceptor_id, terminal_id
FROM merchants WHERE id = ANY($1::text[])
"""


def pan_binding(card_id: str) -> str:
    """Return what a card's sealed number is bound to."""
    return f"cards|pan|{card_id}"


def token_binding(card_id: str) -> str:
    """Return what a card's sealed processor token is bound to."""
    return f"cards|token|{card_id}"


class Directory:
    """Reads what decisions and messages need.

    Args:
        size_max: cards and merchants kept; the longest known are forgotten first.
    """

    def __init__(self, pool: asyncpg.Pool, core: Core, vault: Vault, *, size_max: int) -> None:
        self._pool = pool
        self._core = core
        self._vault = vault
        self._size_max = size_max
        self._cards: dict[str, asyncpg.Record] = {}
        self._merchants: dict[str, Merchant] = {}

    async def read_cards(self, connection: Any, ids: Iterable[str]) -> None:
        """Read cards; the core learns of those there are and of those there are not."""
        unknown = set(ids)
        for row in await connection.fetch(CARDS, list(unknown)):
            unknown.discard(row["id"])
            self._keep(self._cards, row["id"], row)
            if row["status"] == DELETED:
                # It is there for the payments it made, and for no other.
                self._core.put_no_card(row["id"])
                continue
            self._core.put_card(
                row["id"],
                row["owner"],
                row["scheme"],
                row["bin"],
                row["lookup"],
                row["status"] == "active",
                row["version"],
            )
        for card_id in unknown:
            self._core.put_no_card(card_id)

    async def read_merchants(self, connection: Any, ids: Iterable[str]) -> None:
        """Read merchants; the core learns of those there are and of those there are not."""
        unknown = set(ids)
        for row in await connection.fetch(MERCHANTS, list(unknown)):
            unknown.discard(row["id"])
            merchant = Merchant(
                id=row["acceptor_id"],
                terminal_id=row["terminal_id"],
                mcc=row["mcc"],
                name=row["name"],
                city=row["city"],
                country=row["country"],
            )
            self._keep(self._merchants, row["id"], merchant)
            self._core.put_merchant(row["id"], row["mcc"], row["country"])
        for merchant_id in unknown:
            self._core.put_no_merchant(merchant_id)

    def _keep(self, cache: dict[str, Any], key: str, value: Any) -> None:
        if len(cache) >= self._size_max:
            cache.pop(next(iter(cache)))
        cache[key] = value

    def forget_card(self, card_id: str) -> None:
        """Forget a card that changed."""
        self._cards.pop(card_id, None)
        self._core.forget_card(card_id)

    async def card(self, card_id: str) -> CardData:
        """Return a card with its number opened. Raises LookupError when there is none."""
        row = self._cards.get(card_id)
        if row is not None:
            try:
                return self._opened(row)
            except KeyError:
                # It was sealed anew since it was read, and the key of that time is gone.
                pass
        async with self._pool.acquire() as connection:
            await self.read_cards(connection, [card_id])
        return self._opened(self._cards[card_id])

    def _opened(self, row: asyncpg.Record) -> CardData:
        token = row["token_sealed"]
        bound_to = token_binding(row["id"])
        return CardData(
            scheme=row["scheme"],
            pan=Pan(self._vault.open(row["pan_sealed"], bound_to=pan_binding(row["id"]))),
            expiry=row["expiry"],
            token=self._vault.open(token, bound_to=bound_to) if token else None,
        )

    async def merchant(self, merchant_id: str) -> Merchant:
        """Return a merchant. Raises LookupError when there is none."""
        merchant = self._merchants.get(merchant_id)
        if merchant is None:
            async with self._pool.acquire() as connection:
                await self.read_merchants(connection, [merchant_id])
            merchant = self._merchants[merchant_id]
        return merchant
