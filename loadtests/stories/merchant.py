"""A merchant's server: it pays out, looks after what was paid to it, and gives money back."""

import random
import secrets
from http import HTTPStatus
from typing import Any

from locust import between, task

from stories.base import AMOUNTS, MADE, PAYMENTS, SANDBOX, Story

PART_OF_REFUND = 10


class Merchant(Story):
    """Pays out to customers' cards, follows payments, refunds parts of some, reads its list."""

    wait_time = between(0.2, 0.8)
    weight = 2

    def on_start(self) -> None:
        """Log in as a server does."""
        self.log_in_as_server()
        self.merchant: str = SANDBOX["merchant"]["id"]

    @task(4)
    def pay_out(self) -> None:
        """Send money to a customer's card, and look at the payment."""
        cards = random.choice(SANDBOX["users"])["cards"]
        payment = self.pay_somebody(
            {
                "operation": "payout",
                "amount": random.choice(AMOUNTS),
                "currency": "UZS",
                "destination": {"card": random.choice(list(cards.values()))},
                "metadata": {"story": "merchant"},
            }
        )
        if payment is not None:
            self.look(payment)

    @task(6)
    def look_at_one(self) -> None:
        """Ask how a payment stands."""
        for payment in PAYMENTS.some(1):
            self.look(payment)

    def look(self, payment: dict[str, Any]) -> None:
        """Look at one payment; customers' transfers among each other are none of ours."""
        path, is_ours = f"/v1/payments/{payment['id']}", payment["operation"] != "transfer"
        wanted = HTTPStatus.OK if is_ours else HTTPStatus.NOT_FOUND
        shown = self.ask("GET", path, wanted, name="/v1/payments/{id} merchant")
        if shown and is_ours:
            self.check(shown["amount"] == payment["amount"], "another amount")

    @task(2)
    def give_back(self) -> None:
        """Refund a small part of a purchase, and see it in the list of its refunds."""
        purchases = [
            one
            for one in PAYMENTS.some(5)
            if one["operation"] == "purchase" and one["status"] == "succeeded"
        ]
        if not purchases:
            return
        payment = purchases[0]
        path = f"/v1/payments/{payment['id']}/refunds"
        part = payment["amount"] // (PART_OF_REFUND * 100)
        refund = self.ask(
            "POST",
            path,
            *MADE,
            # Others may have given all of it back meanwhile.
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.CONFLICT,
            name="/v1/payments/{id}/refunds",
            headers={"Idempotency-Key": f"locust-{secrets.token_hex(12)}"},
            json={"amount": part, "reason": "goods returned"},
        )
        listed = self.ask("GET", path, name="/v1/payments/{id}/refunds list")
        if refund and listed and "code" not in refund:
            ids = [one["id"] for one in listed["data"]]
            self.check(refund["id"] in ids, "a refund that is not listed")

    @task(1)
    def log_in_again(self) -> None:
        """Get a new token long before the old one ends."""
        self.log_in_as_server()

    @task(2)
    def history(self) -> None:
        """Read the newest payouts, two pages at most."""
        self.scroll("/v1/payments?limit=20", name="/v1/payments?limit= merchant")
