"""A partner's morning: what happened over night is compared, payment by payment."""

from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from gevent.pywsgi import WSGIServer
from locust import constant_pacing, task
from standardwebhooks import Webhook, WebhookVerificationError

from stories.base import PAYMENTS, Story

BATCH = 20
HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Receiver:
    """The partner's own server: takes webhooks, verifies each, keeps the last ids."""

    def __init__(self) -> None:
        self.secret = ""
        self.received: deque[str] = deque(maxlen=1_000)
        self.unsigned = 0
        self._server = WSGIServer(("127.0.0.1", 0), self.answer, log=None)
        self._server.start()

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self._server.server_port}/webhooks"

    def answer(self, environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        """Take one delivery (PEP 3333)."""
        body = environ["wsgi.input"].read()
        headers = {name: environ[f"HTTP_{name.upper().replace('-', '_')}"] for name in HEADERS}
        try:
            Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError:
            self.unsigned += 1
            start("401 Unauthorized", [])
            return []
        self.received.append(headers["webhook-id"])
        start("204 No Content", [])
        return []

    def stop(self) -> None:
        """Listen no more."""
        self._server.stop()


class Partner(Story):
    """Asks for the status of many payments at once, and reads what its endpoint was sent."""

    wait_time = constant_pacing(2.0)
    weight = 1

    def on_start(self) -> None:
        """Log in as a server does, and have events sent to a server of our own."""
        self.endpoint = ""
        self.receiver = Receiver()
        self.log_in_as_server()
        made = self.ask(
            "POST",
            "/v1/webhook-endpoints",
            HTTPStatus.CREATED,
            # There are as many as there may be: others are told meanwhile.
            HTTPStatus.CONFLICT,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            json={"url": self.receiver.url, "description": "locust"},
        )
        if made and "secret" in made:
            self.endpoint, self.receiver.secret = made["id"], made["secret"]

    def on_stop(self) -> None:
        """Take the endpoint away again."""
        if self.endpoint:
            path = f"/v1/webhook-endpoints/{self.endpoint}"
            self.ask("DELETE", path, HTTPStatus.NO_CONTENT, name="/v1/webhook-endpoints/{id}")
        self.receiver.stop()

    @task(3)
    def compare(self) -> None:
        """Ask for a batch of payments, one after another, as a nightly job does."""
        for payment in PAYMENTS.some(BATCH):
            if payment["operation"] == "transfer":
                continue
            path = f"/v1/payments/{payment['id']}"
            shown = self.ask("GET", path, name="/v1/payments/{id} batch")
            if shown:
                self.check(shown["total_debit"] == payment["total_debit"], "another total")

    @task(2)
    def read_deliveries(self) -> None:
        """Read what was delivered, and what was not; nothing unsigned may have come."""
        self.check(not self.receiver.unsigned, "a webhook with a wrong signature")
        if not self.endpoint:
            return
        one = f"/v1/webhook-endpoints/{self.endpoint}/deliveries"
        name = "/v1/webhook-endpoints/{id}/deliveries"
        self.scroll(f"{one}?limit=20", name=f"{name}?limit=")
        self.scroll(f"{one}?limit=20&status=failed", name=f"{name}?status=failed", pages=1)

    @task(1)
    def log_in_again(self) -> None:
        """Get a new token long before the old one ends."""
        self.log_in_as_server()

    @task(1)
    def look_at_endpoints(self) -> None:
        """List the endpoints."""
        self.ask("GET", "/v1/webhook-endpoints?limit=10", name="/v1/webhook-endpoints?limit=")
