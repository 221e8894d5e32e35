"""A house's vault, opened as its keeper could."""

from __future__ import annotations

from gateway.kernel.vault import Vault
from gateway.kernel.vault.keyring import binding
from gateway.kernel.vault.providers import from_files
from tests.house import House


async def opened_vault(house: House) -> Vault:
    """Return the vault of a sandbox, by the shares in its data folder."""
    provider = from_files(sorted(house.data_dir.glob("kek-*.share")))
    rows = await house.rows("SELECT id, wrapped FROM data_keys WHERE wrapped IS NOT NULL")
    return Vault(
        {row["id"]: provider.unwrap(row["wrapped"], bound_to=binding(row["id"])) for row in rows}
    )
