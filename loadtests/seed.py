"""Many users, each with a card of every scheme and an access token, put straight into the database.

Only for load tests: no processor is asked. VISA's and HUMO's simulators know every card of their
numbers, and UZCARD's names a card by a token that it can always read back.

    python loadtests/seed.py var/sandbox.json 20000 seeded.json
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
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


async def seed(sandbox: dict[str, Any], data_dir: Path, count: int) -> dict[str, Any]:
    """Make users in a sandbox that has none of them; returns who they are, for the generator.

    Args:
        sandbox: its `sandbox.json`.
        data_dir: where its keys are.
        count: how many users; each has three cards.
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
        for first in range(0, count, PART):
            numbers = range(first, min(first + PART, count))
            users = [(new_id("usr_", ground.clock()), number) for number in numbers]
            cards = [card for user in users for card in _cards(ground, *user)]
            people = [
                (user_id, f"+{PHONES_FROM + number}", "identified") for user_id, number in users
            ]
            async with ground.pool.acquire() as connection, connection.transaction():
                await connection.copy_records_to_table("users", records=people, columns=USERS)
                await connection.copy_records_to_table("cards", records=cards, columns=CARDS)
            told["tokens"].extend(
                _token(identity.tokens, user_id, settings.identity.mobile_scopes)
                for user_id, _ in users
            )
            for card in cards:
                told["cards"][card[2]].append(card[0])
        await ground.pool.execute("ANALYZE users, cards")
    return told


def _cards(ground: Ground, owner: str, number: int) -> Iterator[tuple[Any, ...]]:
    """Yield one row of `CARDS` a scheme."""
    for scheme, prefix in PREFIXES.items():
        card_id = new_id("card_", ground.clock())
        pan = with_check_digit(f"{prefix}{number:09}")
        token = token_of(pan) if scheme == "uzcard" else None
        yield (
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


def _token(tokens: Tokens, user_id: str, scopes: list[str]) -> str:
    return tokens.issue(
        sub=user_id,
        client_id=MOBILE,
        scope=scopes,
        tier="identified",
        channel="mobile",
        ttl_s=TOKEN_TTL_S,
    )


def main() -> None:
    """Seed, and write who there is to a file that only we can read."""
    sandbox_file, count, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    told = asyncio.run(seed(json.loads(sandbox_file.read_text()), sandbox_file.parent, count))
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main()
