"""The vault: what must not be readable in the database, and the keys that make it so.

`vault` seals and opens with data keys; `keyring` keeps those, wrapped, in the database; `providers`
hold the key-encryption key that wraps them, which is never in the database.
"""

from gateway.kernel.vault.vault import Vault

__all__ = ["Vault"]
