"""The processors' callbacks: in order, twice, out of order and late."""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from locust import constant_pacing, task
from standardwebhooks import Webhook

from stories.base import PAYMENTS, SANDBOX, Story

# Older than this a callback is refused as a replay of somebody else's.
LATE = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Told:
    """A processor's callback about an attempt, as it can be sent once more."""

    connector: str
    headers: dict[str, str]
    body: str


class Processor(Story):
    """Calls back about payments just made, signed, and sometimes once more than needed."""

    wait_time = constant_pacing(0.25)
    weight = 1

    def on_start(self) -> None:
        self.told: Told | None = None

    @task(6)
    def call_back(self) -> None:
        """Tell that an attempt was approved; the caller knew it already or learns it now."""
        self.tell_of(PAYMENTS.oldest(), "/v1/callbacks/{connector}")

    @task(2)
    def call_back_out_of_order(self) -> None:
        """Tell of the newest attempt before those that were made earlier."""
        self.tell_of(PAYMENTS.newest(), "/v1/callbacks/{connector} out of order")

    @task(1)
    def call_back_late(self) -> None:
        """Tell what was to be told two minutes ago, as a queue does that stood still."""
        self.tell_of(PAYMENTS.oldest(), "/v1/callbacks/{connector} late", age=LATE)

    @task(2)
    def call_back_again(self) -> None:
        """Send the last callback once more, byte for byte."""
        if self.told is not None:
            self.tell(self.told, "/v1/callbacks/{connector} again")

    def tell_of(
        self, payment: dict[str, Any] | None, name: str, age: timedelta = timedelta()
    ) -> None:
        """Tell that a payment's only attempt was approved."""
        if payment is None:
            return
        attempt = payment["attempts"][0]
        data = {
            "reference": attempt["id"],
            "state": "approved",
            "amount": payment["total_debit"],
            "currency": payment["currency"],
        }
        self.told = signed(attempt["connector"], {"type": "operation.updated", "data": data}, age)
        self.tell(self.told, name)

    def tell(self, told: Told, name: str) -> None:
        """Send a callback."""
        path = f"/v1/callbacks/{told.connector}"
        self.ask("POST", path, name=name, headers=told.headers, data=told.body)


def signed(connector: str, message: dict[str, Any], age: timedelta) -> Told:
    """Return a callback under a new id, signed with the connector's secret (Standard Webhooks)."""
    body = json.dumps(message)
    event_id = f"msg_{secrets.token_hex(12)}"
    at = datetime.now(tz=UTC) - age
    signature = Webhook(SANDBOX["callbacks"][connector]).sign(event_id, at, body)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }
    return Told(connector, headers, body)
