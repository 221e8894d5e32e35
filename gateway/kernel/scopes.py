"""The scopes of operators: one for each thing that can be done to each thing.

Every route under `/admin/v1` asks for one of them and every one is asked for (a test holds it);
which roles have which is in config/roles.toml.
"""

from collections.abc import Iterable

AUDIT_READ = "admin:audit:read"
CLIENTS_READ = "admin:clients:read"
CLIENTS_WRITE = "admin:clients:write"
LEDGER_READ = "admin:ledger:read"
OPERATORS_READ = "admin:operators:read"
OPERATORS_PROPOSE = "admin:operators:propose"
OPERATORS_APPROVE = "admin:operators:approve"
PAYMENTS_READ = "admin:payments:read"
PROPOSALS_READ = "admin:proposals:read"
PROPOSALS_PROPOSE = "admin:proposals:propose"
PROPOSALS_APPROVE = "admin:proposals:approve"
RECONCILIATION_READ = "admin:reconciliation:read"
RECONCILIATION_WRITE = "admin:reconciliation:write"
RECONCILIATION_PROPOSE = "admin:reconciliation:propose"
RECONCILIATION_APPROVE = "admin:reconciliation:approve"
REFUNDS_PROPOSE = "admin:refunds:propose"
REFUNDS_APPROVE = "admin:refunds:approve"
REVIEWS_READ = "admin:reviews:read"
REVIEWS_PROPOSE = "admin:reviews:propose"
REVIEWS_APPROVE = "admin:reviews:approve"
REVOCATIONS_READ = "admin:revocations:read"
REVOCATIONS_WRITE = "admin:revocations:write"
RULES_READ = "admin:rules:read"
RULES_PROPOSE = "admin:rules:propose"
RULES_APPROVE = "admin:rules:approve"
SESSIONS_READ = "admin:sessions:read"
SESSIONS_WRITE = "admin:sessions:write"

ADMIN = tuple(
    sorted(value for value in list(globals().values()) if str(value).startswith("admin:"))
)
"""All of them."""

ASKED_INSIDE = frozenset({PAYMENTS_READ, REFUNDS_APPROVE, RULES_APPROVE})
"""Asked for by no route: one that serves several kinds of things looks for them itself."""

# A payment is read at the same address by its customer and by an operator.
CUSTOMERS_READ = "payments:read"


def with_implied(scopes: Iterable[str]) -> list[str]:
    """Return scopes with those that they need beside them.

    Whoever may propose or approve anything may use the routes of all proposals; those look for the
    scope of each kind themselves.
    """
    found = set(scopes)
    if PAYMENTS_READ in found:
        found.add(CUSTOMERS_READ)
    if any(one.startswith("admin:") and one.endswith(":approve") for one in found):
        found |= {PROPOSALS_APPROVE, PROPOSALS_PROPOSE}
    if any(one.startswith("admin:") and one.endswith(":propose") for one in found):
        found |= {PROPOSALS_READ, PROPOSALS_PROPOSE}
    if RULES_READ in found:
        found.add(PROPOSALS_READ)
    return sorted(found)
