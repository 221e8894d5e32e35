"""Signatures are the standard's: its own vectors, and its reference library."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from gateway.webhooks.signing import headers, new_secret, sign

BODY = '{"type":"payment.succeeded","data":{"note":"ҳалол"}}'.encode()


@pytest.mark.parametrize(
    ("key", "message_id", "timestamp_s", "body", "signature"),
    [
        (
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1649367553,
            b'{"email":"test@example.com","username":"test_user"}',
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ],
)
def test_the_published_vectors(
    key: str, message_id: str, timestamp_s: int, body: bytes, signature: str
) -> None:
    assert signature == sign(
        f"whsec_{key}", message_id=message_id, timestamp_s=timestamp_s, body=body
    )


def test_another_secret_is_refused() -> None:
    """What the reference accepts below, it does not accept of anybody."""
    signed = headers([new_secret()], message_id="evt_1", timestamp_s=int(time.time()), body=BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, signed)


def test_two_secrets_sign_beside_one_another() -> None:
    """A receiver that knows either accepts it, and one that knows a third does not."""
    old, new, other = new_secret(), new_secret(), new_secret()
    signed = headers([new, old], message_id="evt_1", timestamp_s=int(time.time()), body=BODY)
    assert len(signed["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(BODY, signed)


def test_a_secret_is_as_long_as_the_standard_asks() -> None:
    """24 to 64 random bytes behind the prefix, never twice."""
    first, second = new_secret(), new_secret()
    assert first != second
    assert first.startswith("whsec_")
    assert 24 <= len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) <= 64
