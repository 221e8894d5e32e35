"""Verifies callbacks signed by Standard Webhooks, on their raw bytes, and reads the common body.

Owns the default of `Connector.verify_callback`. Nothing of a callback is believed, parsed or logged
before its signature holds. The library makes the signature; its own `verify` is not used, because
it reads the clock, splits and decodes what a stranger sent without guarding, and takes fractional
times.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from connectors.spi.outcome import Outcome
from connectors.spi.types import CallbackEvent, CallbackRefused, Result

TOLERANCE_MS = 300_000
ID_SIZE_MAX = 256
SIGNATURES_MAX = 32
SECRET_SIZE_MIN, SECRET_SIZE_MAX = 24, 64
AMOUNT_MAX = 10**15

SIGNATURE_INVALID = "callback-signature-invalid"
TIMESTAMP_INVALID = "callback-timestamp-invalid"
INVALID = "callback-invalid"


class CallbackVerifier:
    """Believes or refuses the callbacks of one connector.

    Args:
        name: the connector's name, for errors of configuration.
        secret: one or, while it is being changed, several secrets separated by spaces, each
            base64 of 24 to 64 bytes with or without `whsec_`. None: nothing is believed.
        decline: what a processor's code means, for `state` declined.

    Raises:
        ValueError: the secret is not one; names `callback_secret`.
    """

    def __init__(
        self, name: str, secret: str | None, decline: Callable[[str], Outcome | None]
    ) -> None:
        self._decline = decline
        self._webhooks = [_webhook(name, part) for part in (secret or "").split()]

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> CallbackEvent:
        """Return what a callback says.

        Args:
            headers: names in lower case.
            body: as received.
            now_ms: Unix milliseconds.

        Raises:
            CallbackRefused: `callback-invalid`, `callback-timestamp-invalid` or
                `callback-signature-invalid`.
        """
        event_id = headers.get("webhook-id", "")
        is_name = event_id.isascii() and event_id.isprintable() and " " not in event_id
        if not 1 <= len(event_id) <= ID_SIZE_MAX or not is_name or "." in event_id:
            raise CallbackRefused(INVALID, "webhook-id is missing or malformed")
        timestamp = _timestamp(headers.get("webhook-timestamp", ""), now_ms)
        self._check_signature(event_id, timestamp, headers.get("webhook-signature", ""), body)
        return self._event(event_id, body)

    def _check_signature(
        self, event_id: str, timestamp: datetime, passed: str, body: bytes
    ) -> None:
        refused = CallbackRefused(SIGNATURE_INVALID, "no signature of ours is on this callback")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise refused from None  # signed text is UTF-8, so that these bytes never were
        expected = [_decoded(webhook.sign(event_id, timestamp, text)) for webhook in self._webhooks]
        parts = passed.split(" ")
        if len(parts) > SIGNATURES_MAX:
            raise refused
        is_ours = False
        for part in parts:
            given = _decoded(part)
            for one in expected:
                if given is not None and one is not None:
                    # No early end: the time taken tells nothing of which secret fits.
                    is_ours |= hmac.compare_digest(one, given)
        if not is_ours:
            raise refused

    def _event(self, event_id: str, body: bytes) -> CallbackEvent:
        try:
            message = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise CallbackRefused(INVALID, "the body is not JSON") from None
        data = message.get("data") if isinstance(message, dict) else None
        if not isinstance(data, dict) or message.get("type") != "operation.updated":
            raise CallbackRefused(INVALID, "the body is not an operation.updated event")
        reference = _text(data, "reference", 64)
        currency = _text(data, "currency", 3)
        amount = data.get("amount")
        if reference is None or currency is None or len(currency) != 3:
            raise CallbackRefused(INVALID, "reference and currency are required")
        if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
            raise CallbackRefused(INVALID, "amount must be an integer of minor units")
        code = _text(data, "code", 32)
        outcome, is_reversed = self._state(data.get("state"), code)
        return CallbackEvent(
            event_id=event_id,
            reference=reference,
            amount_minor=amount,
            currency=currency,
            reversed=is_reversed,
            result=Result(
                outcome=outcome,
                processor_code=code,
                rrn=_text(data, "rrn", 32),
                approval_code=_text(data, "approval_code", 16),
            ),
        )

    def _state(self, state: Any, code: str | None) -> tuple[Outcome, bool]:
        if state == "approved":
            return Outcome.APPROVED, False
        if state == "reversed":
            return Outcome.ALREADY_REVERSED, True
        if state == "declined":
            outcome = self._decline(code) if code is not None else None
            if outcome is None or outcome.money_may_have_moved:
                # The event says declined: a code that says otherwise or nothing does not undo that.
                outcome = Outcome.DO_NOT_HONOR
            return outcome, False
        raise CallbackRefused(INVALID, "state is not one of approved, declined, reversed")


def _webhook(name: str, secret: str) -> Webhook:
    wrong = ValueError(
        f"{name}.secrets.callback_secret: must be base64 of {SECRET_SIZE_MIN} to"
        f" {SECRET_SIZE_MAX} bytes, with or without whsec_"
    )
    bare = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if not SECRET_SIZE_MIN <= len(key) <= SECRET_SIZE_MAX:
        raise wrong
    return Webhook(key)


def _timestamp(header: str, now_ms: int) -> datetime:
    """Unix seconds as plain digits: signs, fractions, exponents and other scripts are refused."""
    if not (header.isascii() and header.isdigit() and len(header) <= 12):
        raise CallbackRefused(TIMESTAMP_INVALID, "webhook-timestamp is not Unix seconds")
    seconds = int(header)
    if abs(now_ms - seconds * 1000) > TOLERANCE_MS:
        raise CallbackRefused(TIMESTAMP_INVALID, "webhook-timestamp is too far from now")
    return datetime.fromtimestamp(seconds, tz=UTC)


def _decoded(signature: str) -> bytes | None:
    """The bytes of one `v1,<base64>`; None for anything else."""
    version, comma, encoded = signature.partition(",")
    if version != "v1" or not comma or not encoded.isascii():
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None


def _text(data: Mapping[str, Any], key: str, size_max: int) -> str | None:
    """A printable ASCII member, or None when absent."""
    value = data.get(key)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= size_max
        or not value.isascii()
        or not value.isprintable()
    ):
        raise CallbackRefused(INVALID, f"{key} is malformed")
    return value


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")
