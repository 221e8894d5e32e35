"""Everything that is sealed, and what it is bound to: a new data key goes through this one list.

A sealed column that is not here would keep an old key alive; a test compares it with the database.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.cards.directory import pan_binding, token_binding
from gateway.identity.keys import key_binding
from gateway.identity.sessions import successor_binding
from gateway.operators.sessions import binding as operator_binding
from gateway.payments.instructions import destination_binding
from gateway.payments.step_up import request_binding
from gateway.webhooks.delivery import binding as endpoint_binding


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """One column.

    Args:
        key: the row's key column, `text` or `bytea` as `key_type` says.
        binding: what a row's value is sealed to, from its key.
    """

    table: str
    column: str
    key: str
    binding: Callable[[Any], str]
    key_type: str = "text"

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"


COLUMNS = (
    SealedColumn("cards", "pan_sealed", "id", pan_binding),
    SealedColumn("cards", "token_sealed", "id", token_binding),
    SealedColumn("payments", "destination_pan", "id", destination_binding),
    SealedColumn("step_ups", "request_sealed", "payment_id", request_binding),
    SealedColumn("webhook_endpoints", "secret_sealed", "id", endpoint_binding),
    SealedColumn("webhook_endpoints", "previous_sealed", "id", endpoint_binding),
    SealedColumn("operators", "totp_sealed", "id", operator_binding),
    SealedColumn("signing_keys", "private_key", "kid", key_binding),
    SealedColumn("refresh_tokens", "successor", "token_hash", successor_binding, "bytea"),
)
