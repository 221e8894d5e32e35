"""The audit log: what operators did and what was decided, in chains that cannot be changed unseen.

`log` writes what operators do, in the transaction that does it; `chain` numbers and hashes the
decisions of payments, a batch a record, in their own commit; `roots` signs how far every chain has
come. The chains are checked offline, by `oqim audit verify`.
"""

from gateway.kernel.audit.log import record, routes

__all__ = ["record", "routes"]
