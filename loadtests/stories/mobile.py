"""A mobile customer's day."""

import itertools
import random
from http import HTTPStatus
from typing import Any

from locust import between, task
from locust.exception import StopUser

from stories.base import AMOUNTS, FORM, SANDBOX, Story

GRANT_OTP = "urn:oqim:params:oauth:grant-type:otp"
# The one that the sandbox's users have: on another, a customer's cards would have to be added anew.
DEVICE = "sandbox"
_places = itertools.count()


class MobileCustomer(Story):
    """Logs in, looks, quotes, pays, looks again; with the pauses of a person."""

    wait_time = between(0.5, 2.0)
    weight = 4

    def on_start(self) -> None:
        """Log in by a one-time code, or go on with a seeded session when codes are rationed."""
        self.me = SANDBOX["users"][next(_places) % len(SANDBOX["users"])]
        self.refresh_token = ""
        self.last_payment: str | None = None
        phone = self.me["phone"]
        challenge = self.ask(
            "POST",
            "/v1/auth/challenges",
            HTTPStatus.CREATED,
            # A second run within half a minute asks too soon: the seeded session serves as well.
            HTTPStatus.TOO_MANY_REQUESTS,
            json={"phone": phone},
        )
        if challenge is None:
            raise StopUser
        if "challenge_id" not in challenge:
            self.token = self.me["access_token"]
            return
        messages = self.ask(
            "GET",
            f"/sandbox/v1/messages?to={phone.replace('+', '%2B')}",
            name="/sandbox/v1/messages?to=",
        )
        if not messages:
            raise StopUser
        code = next(one["code"] for one in messages["data"] if one["sender"] == "oqim")
        self.take_tokens(
            {
                "grant_type": GRANT_OTP,
                "challenge_id": challenge["challenge_id"],
                "code": code,
                "device_id": DEVICE,
                "device_name": "Locust",
            }
        )

    def take_tokens(self, form: dict[str, str]) -> None:
        """Exchange a grant for tokens; without them there is no story."""
        # The token endpoint knows its caller by the grant alone.
        self.token = ""
        name = f"/oauth/token {form['grant_type'].rpartition(':')[2]}"
        tokens = self.ask("POST", "/oauth/token", name=name, headers=FORM, data=form)
        if tokens is None:
            raise StopUser
        self.token, self.refresh_token = tokens["access_token"], tokens["refresh_token"]

    @task(8)
    def pay(self) -> None:
        """List cards, quote, pay what was quoted, and look at the payment."""
        cards = self.ask("GET", "/v1/cards")
        if not cards:
            return
        active = [one["id"] for one in cards["data"] if one["status"] == "active"]
        body = {
            "operation": "purchase",
            "amount": random.choice(AMOUNTS),
            "currency": "UZS",
            "source": {"card": random.choice(active)},
            "destination": {"merchant": SANDBOX["merchant"]["id"]},
        }
        quote = self.ask("POST", "/v1/payments/quote", json=body)
        if not quote:
            return
        self.send(body | {"quote_id": quote["quote_id"], "metadata": {"story": "mobile"}}, quote)

    def send(self, body: dict[str, Any], quote: dict[str, Any]) -> None:
        """Pay what was quoted, and look at it."""
        payment = self.pay_somebody(body)
        if payment is None:
            return
        self.check(payment["total_debit"] == quote["total_debit"], "charged another price")
        self.last_payment = payment["id"]
        self.look()

    @task(3)
    def look(self) -> None:
        """Look at the last payment."""
        if self.last_payment is not None:
            payment = self.ask("GET", f"/v1/payments/{self.last_payment}", name="/v1/payments/{id}")
            if payment:
                self.check(payment["id"] == self.last_payment, "another's payment")

    @task(3)
    def history(self) -> None:
        """Scroll through the history, two pages at most."""
        self.scroll("/v1/payments?limit=10", name="/v1/payments?limit=")

    @task(2)
    def limits(self) -> None:
        """Look at what may still be spent with a card."""
        card = random.choice(list(self.me["cards"].values()))
        self.ask("GET", f"/v1/limits?card={card}&operation=purchase", name="/v1/limits?card=")

    @task(1)
    def refresh(self) -> None:
        """Change the refresh token for new tokens, as an app does when it wakes."""
        if self.refresh_token:
            self.take_tokens(
                {
                    "grant_type": "refresh_token",
                    "refresh_token": self.refresh_token,
                    "device_id": DEVICE,
                }
            )
