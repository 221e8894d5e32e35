"""Many users, each with a card of every scheme and an access token, put straight into the database.

Only for load tests: no processor is asked. VISA's and HUMO's simulators know every card of their
numbers, and UZCARD's names a card by a token that it can always read back. While the database
copies one part, the next is made. Those seeded before stay; new ones are numbered after them.

    .venv/bin/python loadtests/seed.py var/sandbox.json 100000 var/seeded.json
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.simulators.pans import token_of
from gateway import settings as settings_module
from gateway.app.ground import Ground, open_ground
from gateway.app.identity import open_identity
from gateway.cards.directory import pan_binding, token_binding
from gateway.identity.clients import MOBILE
from gateway.identity.tokens import Tokens
from gateway.kernel import secrets as keys_module
from gateway.kernel.ids import new_id
from gateway.kernel.progress import Counter
from gateway.sandbox.seed import TOKEN_TTL_S, with_check_digit

# Apart from the sandbox's own people in phone and number.
PREFIXES = {"visa": "424277", "humo": "986077", "uzcard": "860077"}
PHONES_FROM = 998_970_000_000
EXPIRY = "3012"
PART = 2_000

USERS = ("id", "phone", "tier")
CARDS = (
    "id", "owner", "scheme", "bin", "last4", "expiry", "lookup", "pan_sealed", "token_sealed",
    "status",
)  # fmt: skip


KNOWN = "SELECT count(*) FROM users WHERE phone >= $1 AND phone < $2"
PHONES_MAX = 1_000_000


@dataclass(slots=True)
class Part:
    """Rows of some users, ready to be copied, and their tokens."""

    users: list[tuple[Any, ...]] = field(default_factory=list)
    cards: list[tuple[Any, ...]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


class Seeder:
    """Makes users, a part at a time.

    Args:
        told: who there is, for the generators; grows.
    """

    def __init__(self, ground: Ground, tokens: Tokens, told: dict[str, Any]) -> None:
        self._ground = ground
        self._tokens = tokens
        self._scopes = ground.settings.identity.mobile_scopes
        self._told = told

    def make(self, numbers: range) -> Part:
        """Make the rows of users with these numbers, their cards' and their tokens."""
        part, ground = Part(), self._ground
        for number in numbers:
            user_id = new_id("usr_", ground.clock())
            part.users.append((user_id, f"+{PHONES_FROM + number}", "identified"))
            part.cards += _cards(ground, user_id, number)
            part.tokens.append(_token(self._tokens, user_id, self._scopes))
        return part

    async def store(self, part: Part) -> None:
        """Copy a part into the database (binary COPY), all of it or nothing."""
        async with self._ground.pool.acquire() as connection, connection.transaction():
            await connection.copy_records_to_table("users", records=part.users, columns=USERS)
            await connection.copy_records_to_table("cards", records=part.cards, columns=CARDS)
        self._told["tokens"] += part.tokens
        for card in part.cards:
            self._told["cards"][card[2]].append(card[0])


async def seed(
    sandbox: dict[str, Any],
    data_dir: Path,
    count: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Make users in a sandbox; returns who they are, for the generators.

    Args:
        sandbox: its `sandbox.json`.
        data_dir: where its keys are.
        count: how many users; each has three cards.
        advance: told how many of how many users are made.
    """
    environment = os.environ | {
        "OQIM_DATABASE_URL": sandbox["database_url"],
        "OQIM_REDIS_URL": sandbox["redis_url"],
        "OQIM_DATA_DIR": str(data_dir),
    }
    settings = settings_module.load(environment, is_sandbox=True)
    keys = keys_module.load(data_dir / "keys.json")
    told: dict[str, Any] = {
        "merchant": sandbox["merchant"]["id"],
        "tokens": [],
        "cards": {scheme: [] for scheme in PREFIXES},
    }
    async with AsyncExitStack() as stack:
        ground = await open_ground(settings, keys, stack)
        identity = await open_identity(ground, stack)
        seeder = Seeder(ground, identity.tokens, told)
        bounds = (f"+{PHONES_FROM}", f"+{PHONES_FROM + PHONES_MAX}")
        known = await ground.pool.fetchval(KNOWN, *bounds)
        if known + count > PHONES_MAX:
            raise SystemExit(f"{known} users are seeded; there is no room for {count} more")
        storing: asyncio.Task[None] | None = None
        for first in range(0, count, PART):
            numbers = range(known + first, known + min(first + PART, count))
            part = await asyncio.to_thread(seeder.make, numbers)
            if storing is not None:
                await storing
            storing = asyncio.create_task(seeder.store(part))
            advance(first, count)
        if storing is not None:
            await storing
        await ground.pool.execute("ANALYZE users, cards")
    advance(count, count)
    return told


def _cards(ground: Ground, owner: str, number: int) -> list[tuple[Any, ...]]:
    """Return one row of `CARDS` a scheme."""
    rows = []
    for scheme, prefix in PREFIXES.items():
        card_id = new_id("card_", ground.clock())
        pan = with_check_digit(f"{prefix}{number:09}")
        token = token_of(pan) if scheme == "uzcard" else None
        rows.append(
            (
                card_id,
                owner,
                scheme,
                pan[:6],
                pan[-4:],
                EXPIRY,
                ground.core.lookup_of(pan),
                ground.vault.seal(pan, bound_to=pan_binding(card_id)),
                ground.vault.seal(token, bound_to=token_binding(card_id)) if token else None,
                "active",
            )
        )
    return rows


def _token(tokens: Tokens, user_id: str, scopes: list[str]) -> str:
    return tokens.issue(
        sub=user_id,
        client_id=MOBILE,
        scope=scopes,
        tier="identified",
        channel="mobile",
        ttl_s=TOKEN_TTL_S,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make users with a card of every scheme and an access token, for load tests.",
        epilog="The file that is written is what loadtests/generator.py and loadtests/open_loop.py "
        "pay as; it holds tokens, and only its owner can read it.",
    )
    add = parser.add_argument
    add("sandbox", type=Path, help="sandbox.json of the running sandbox, beside its keys.json")
    add("users", type=int, help="how many; each gets three cards and a token of twelve hours")
    add("out", type=Path, help="the file to write")
    return parser.parse_args()


def main() -> None:
    """Seed, and write who there is to a file that only we can read."""
    order, began_s = _arguments(), time.monotonic()
    # What is not committed is undone by the server: there is nothing to say about the rest.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sandbox = json.loads(order.sandbox.read_text())
    with Counter("users", sys.stderr) as counter:
        told = asyncio.run(seed(sandbox, order.sandbox.parent, order.users, counter.advance))
    descriptor = os.open(order.out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(told))
    cards = sum(map(len, told["cards"].values()))
    print(
        f"{len(told['tokens']):,} users with {cards:,} cards and a token each in "
        f"{time.monotonic() - began_s:.1f} s; who they are is in {order.out}"
    )


if __name__ == "__main__":
    main()
