"""What every story stands on: the sandbox, one call that is checked, and payments to talk about."""

import json
import os
import random
import secrets
from collections import deque
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser
from locust.contrib.fasthttp import ResponseContextManager
from locust.exception import StopUser

SANDBOX: dict[str, Any] = json.loads(
    Path(os.environ.get("OQIM_SANDBOX_FILE", "var/sandbox.json")).read_text()
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MADE = (HTTPStatus.CREATED, HTTPStatus.ACCEPTED)
AMOUNTS = (1_250_000, 4_900_000, 12_000_000, 35_000_000)
# A payment may be `processing` when the processor has not answered yet; a card may be declined only
# by a processor that was told to.
STATUSES_EXPECTED = ("succeeded", "processing")
# 503 says that nothing was done, and when to come again: a client does, a few times, and the
# statistics count it under a name of its own.
BUSY = "(503, asked again)"
AGAIN_MAX = 3
PAUSE_S_MAX = 2.0


class Payments:
    """Payments that were made, for others to call back, look or ask about.

    Everything runs in one thread of green threads, so nothing here is locked.
    """

    def __init__(self, size_max: int = 10_000) -> None:
        self._waiting: deque[dict[str, Any]] = deque(maxlen=size_max)
        self._known: deque[dict[str, Any]] = deque(maxlen=size_max)

    def put(self, payment: dict[str, Any]) -> None:
        """Remember a payment; a processor calls back about one that it carried whole."""
        self._known.append(payment)
        if len(payment["attempts"]) == 1:
            self._waiting.append(payment)

    def oldest(self) -> dict[str, Any] | None:
        """Return the oldest payment not called back about, if there is one; it is then."""
        return self._waiting.popleft() if self._waiting else None

    def newest(self) -> dict[str, Any] | None:
        """Return the newest of those."""
        return self._waiting.pop() if self._waiting else None

    def some(self, count: int) -> list[dict[str, Any]]:
        """Return up to so many of all that are known, any of them."""
        return random.sample(self._known, min(count, len(self._known)))


PAYMENTS = Payments()


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

        What is turned away with a 503 is asked again when it says, a few times.

        Args:
            expected: statuses of the story; 200 by default.
            name: under which the statistics count it; the path by default.
        """
        wanted = expected or (HTTPStatus.OK,)
        sent_headers = dict(headers or {})
        if self.token:
            sent_headers.setdefault("Authorization", f"Bearer {self.token}")
        for again_max in range(AGAIN_MAX, -1, -1):
            answering: AbstractContextManager[ResponseContextManager] = self.client.request(
                method, path, name=name, headers=sent_headers, catch_response=True, **sent
            )
            with answering as answer:
                body = answer.json() if answer.content else {}
                if answer.status_code in wanted:
                    answer.success()  # type: ignore[no-untyped-call]  # locust leaves it untyped
                    return body
                if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE or not again_max:
                    answer.failure(  # type: ignore[no-untyped-call]  # locust leaves it untyped
                        f"{answer.status_code} {body.get('code', 'no answer')}"
                    )
                    return None
                answer.request_meta["name"] = BUSY
                answer.success()  # type: ignore[no-untyped-call]  # locust leaves it untyped
                pause_s = min(float(answer.headers.get("Retry-After", "1")), PAUSE_S_MAX)
            # Green threads: others go on meanwhile.
            gevent.sleep(pause_s)
        return None

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

    def pay_somebody(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Pay, sometimes twice with one key as an app does that lost the answer."""
        key = {"Idempotency-Key": f"locust-{secrets.token_hex(12)}"}
        payment: dict[str, Any] | None = self.ask(
            "POST", "/v1/payments", *MADE, headers=key, json=body
        )
        if payment is None:
            return None
        if random.random() < 0.05:
            again = self.ask(
                "POST", "/v1/payments", *MADE, name="/v1/payments again", headers=key, json=body
            )
            self.check(again is not None and again["id"] == payment["id"], "paid twice")
        self.check(payment["status"] in STATUSES_EXPECTED, f"payment {payment['status']}")
        PAYMENTS.put(payment)
        return payment

    def log_in_as_server(self) -> None:
        """Get the merchant's token by its client's secret; without one there is no story."""
        merchant = SANDBOX["merchant"]
        form = {
            "grant_type": "client_credentials",
            "client_id": merchant["client_id"],
            "client_secret": merchant["client_secret"],
        }
        self.token = ""
        name = "/oauth/token client_credentials"
        tokens = self.ask("POST", "/oauth/token", name=name, headers=FORM, data=form)
        if tokens is None:
            raise StopUser
        self.token = tokens["access_token"]

    def scroll(self, path: str, *, name: str, pages: int = 2) -> list[dict[str, Any]]:
        """Read a list, some pages at most; returns what was on them."""
        found: list[dict[str, Any]] = []
        following = ""
        for _ in range(pages):
            page = self.ask("GET", path + following, name=name + ("&cursor=" if following else ""))
            if page is None:
                break
            found += page["data"]
            if not page["next_cursor"]:
                break
            following = f"&cursor={page['next_cursor']}"
        return found
