"""User stories under load: a mobile customer's day and the processors' callbacks.

Start a sandbox (`make run`), then:

    .venv/bin/locust -f loadtests/locustfile.py --headless -u 20 -r 5 -t 30s

It reads `sandbox.json` of `OQIM_SANDBOX_FILE`, by default `var/sandbox.json`. Whatever a story does
not expect is a failure, and the exit code says so. Its own ceiling is a few thousand requests a
second: peaks are measured by `oqim bench`.
"""

import itertools
import json
import os
import random
import secrets
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, constant_pacing, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.exception import StopUser
from standardwebhooks import Webhook

SANDBOX: dict[str, Any] = json.loads(
    Path(os.environ.get("OQIM_SANDBOX_FILE", "var/sandbox.json")).read_text()
)
GRANT_OTP = "urn:oqim:params:oauth:grant-type:otp"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
AMOUNTS = (1_250_000, 4_900_000, 12_000_000, 35_000_000)
# A payment may be `processing` when the processor has not answered yet; a card may be declined only
# by a processor that was told to.
STATUSES_EXPECTED = ("succeeded", "processing")


@dataclass(frozen=True, slots=True)
class Told:
    """A processor's callback about an attempt, as it can be sent once more."""

    connector: str
    headers: dict[str, str]
    body: str


class Attempts:
    """Attempts that the customers' payments made, for the processors to call back about.

    Everything runs in one thread of green threads, so nothing here is locked.
    """

    def __init__(self, size_max: int = 10_000) -> None:
        self._waiting: deque[dict[str, Any]] = deque(maxlen=size_max)

    def put(self, payment: dict[str, Any]) -> None:
        """Remember every leg of a payment that one processor carried whole."""
        if len(payment["attempts"]) == 1:
            self._waiting.append(payment)

    def take(self) -> dict[str, Any] | None:
        """Return the oldest payment not called back about, if there is one."""
        return self._waiting.popleft() if self._waiting else None


ATTEMPTS = Attempts()
_places = itertools.count()


class Story(FastHttpUser):
    """What every story needs: a call that fails unless the status is one that was expected."""

    abstract = True
    host = SANDBOX["base_url"]
    token = ""

    def ask(
        self,
        method: str,
        path: str,
        *expected: int,
        name: str | None = None,
        headers: dict[str, str] | None = None,
        **sent: Any,
    ) -> Any:
        """Make one request and return its JSON, or None when the status was not expected.

        Args:
            expected: statuses of the story; 200 by default.
            name: under which the statistics count it; the path by default.
        """
        wanted = expected or (HTTPStatus.OK,)
        sent_headers = dict(headers or {})
        if self.token:
            sent_headers.setdefault("Authorization", f"Bearer {self.token}")
        answering: AbstractContextManager[ResponseContextManager] = self.client.request(
            method, path, name=name, headers=sent_headers, catch_response=True, **sent
        )
        with answering as answer:
            if answer.status_code in wanted:
                answer.success()  # type: ignore[no-untyped-call]  # locust leaves it untyped
                return answer.json()
            said = answer.json().get("code") if answer.content else "no answer"
            answer.failure(  # type: ignore[no-untyped-call]  # locust leaves it untyped
                f"{answer.status_code} {said}"
            )
            return None


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
                "device_id": f"locust-{self.me['id']}",
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
        """Pay, sometimes twice with one key as an app does that lost the answer."""
        key = {"Idempotency-Key": f"locust-{secrets.token_hex(12)}"}
        made = (HTTPStatus.CREATED, HTTPStatus.ACCEPTED)
        payment = self.ask("POST", "/v1/payments", *made, headers=key, json=body)
        if payment is None:
            return
        if random.random() < 0.05:
            again = self.ask(
                "POST", "/v1/payments", *made, name="/v1/payments again", headers=key, json=body
            )
            self.check(again is not None and again["id"] == payment["id"], "paid twice")
        self.check(payment["total_debit"] == quote["total_debit"], "charged another price")
        self.check(payment["status"] in STATUSES_EXPECTED, f"payment {payment['status']}")
        self.last_payment = payment["id"]
        self.look()
        ATTEMPTS.put(payment)

    def check(self, is_so: bool, complaint: str) -> None:
        """Count a broken promise as a failed request of its own."""
        if not is_so:
            self.environment.events.request.fire(
                request_type="CHECK",
                name=complaint,
                response_time=0,
                response_length=0,
                exception=AssertionError(complaint),
                context={},
            )

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
        page = self.ask("GET", "/v1/payments?limit=10", name="/v1/payments?limit=")
        if page and page["next_cursor"]:
            self.ask(
                "GET",
                f"/v1/payments?limit=10&cursor={page['next_cursor']}",
                name="/v1/payments?limit=&cursor=",
            )

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
                    "device_id": f"locust-{self.me['id']}",
                }
            )


class Processor(Story):
    """Calls back about payments just made, signed, and sometimes once more than needed."""

    wait_time = constant_pacing(0.25)
    weight = 1

    def on_start(self) -> None:
        self.told: Told | None = None

    @task(4)
    def call_back(self) -> None:
        """Tell that an attempt was approved; the caller knew it already or learns it now."""
        payment = ATTEMPTS.take()
        if payment is None:
            return
        attempt = payment["attempts"][0]
        self.told = signed(
            attempt["connector"],
            {
                "type": "operation.updated",
                "data": {
                    "reference": attempt["id"],
                    "state": "approved",
                    "amount": payment["total_debit"],
                    "currency": payment["currency"],
                },
            },
        )
        self.tell(self.told, "/v1/callbacks/{connector}")

    @task(1)
    def call_back_again(self) -> None:
        """Send the last callback once more, byte for byte."""
        if self.told is not None:
            self.tell(self.told, "/v1/callbacks/{connector} again")

    def tell(self, told: Told, name: str) -> None:
        """Send a callback."""
        path = f"/v1/callbacks/{told.connector}"
        self.ask("POST", path, name=name, headers=told.headers, data=told.body)


def signed(connector: str, message: dict[str, Any]) -> Told:
    """Return a callback under a new id, signed with the connector's secret (Standard Webhooks)."""
    body = json.dumps(message)
    event_id = f"msg_{secrets.token_hex(12)}"
    now = datetime.now(tz=UTC)
    signature = Webhook(SANDBOX["callbacks"][connector]).sign(event_id, now, body)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    return Told(connector, headers, body)
