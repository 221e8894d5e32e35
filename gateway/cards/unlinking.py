"""Takes a customer's cards away when somebody logs in from a device never seen before.

Whoever has the phone number may not be whoever has the cards: they are added again, each with its
own code, on the device that is to use them. Never touches what the cards have paid already.
"""

from typing import Any

from gateway.cards import store
from gateway.cards.store import moment
from gateway.kernel import audit


async def unlink_all(connection: Any, owner: str, session_id: str, at_ms: int) -> None:
    """Delete every card of a customer in the open transaction of the login, and say so.

    Args:
        session_id: the login's, for the audit log.
        at_ms: Unix milliseconds.
    """
    rows = await connection.fetch(store.DELETE_ALL, owner, moment(at_ms))
    if not rows:
        return
    await audit.record(
        connection,
        at_ms=at_ms,
        actor=owner,
        action="cards.unlink",
        object=owner,
        detail={"cards": sorted(row["id"] for row in rows), "session": session_id},
    )
