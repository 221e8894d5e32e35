"""Cards of schemes that no processor has, one a seeded user, for what the immediate connector pays.

    python loadtests/immediate/seed_cards.py var/sandbox.json seeded.json direct hot capped

The users are those of `loadtests/seed.py`; `seeded.json` is written anew with the cards beside
theirs, by the same index.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gateway import settings as settings_module
from gateway.app.ground import Ground, open_ground
from gateway.cards.directory import pan_binding
from gateway.kernel import secrets as keys_module
from gateway.kernel.ids import new_id
from gateway.sandbox.seed import with_check_digit

# VISA's shape, apart from every card that is seeded elsewhere.
PREFIX = 424_278
EXPIRY = "3012"
COLUMNS = (
    "id", "owner", "scheme", "bin", "last4", "expiry", "lookup", "pan_sealed", "token_sealed",
    "status",
)  # fmt: skip


async def seed(
    sandbox: dict[str, Any], data_dir: Path, told: dict[str, Any], schemes: Sequence[str]
) -> None:
    """Add a card of each scheme to every user that was told of; `told` names them afterwards."""
    environment = os.environ | {
        "OQIM_DATABASE_URL": sandbox["database_url"],
        "OQIM_REDIS_URL": sandbox["redis_url"],
        "OQIM_DATA_DIR": str(data_dir),
    }
    settings = settings_module.load(environment, is_sandbox=True)
    keys = keys_module.load(data_dir / "keys.json")
    owners = [_subject(token) for token in told["tokens"]]
    async with AsyncExitStack() as stack:
        ground = await open_ground(settings, keys, stack)
        for place, scheme in enumerate(schemes):
            rows = list(_cards(ground, owners, scheme, PREFIX + place))
            async with ground.pool.acquire() as connection:
                await connection.copy_records_to_table("cards", records=rows, columns=COLUMNS)
            told["cards"][scheme] = [row[0] for row in rows]
        await ground.pool.execute("ANALYZE cards")


def _cards(
    ground: Ground, owners: Sequence[str], scheme: str, prefix: int
) -> Iterator[tuple[Any, ...]]:
    """Yield one row of `COLUMNS` a user."""
    for number, owner in enumerate(owners):
        card_id = new_id("card_", ground.clock())
        pan = with_check_digit(f"{prefix}{number:09}")
        sealed = ground.vault.seal(pan, bound_to=pan_binding(card_id))
        lookup = ground.core.lookup_of(pan)
        yield card_id, owner, scheme, pan[:6], pan[-4:], EXPIRY, lookup, sealed, None, "active"


def _subject(token: str) -> str:
    """Return whom a token is about; it is our own, and not verified here."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["sub"])


def main() -> None:
    """Seed, and write who there is in the place of what was read."""
    sandbox_file, seeded = Path(sys.argv[1]), Path(sys.argv[2])
    told = json.loads(seeded.read_text())
    asyncio.run(seed(json.loads(sandbox_file.read_text()), sandbox_file.parent, told, sys.argv[3:]))
    # The file is its owner's alone already.
    seeded.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
