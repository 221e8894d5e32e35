"""The default callback verifier: known vectors, hostile headers and bodies."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.spi import CallbackRefused, Outcome
from connectors.spi.callbacks import CallbackVerifier
from connectors.spi.contract import CALLBACK_SECRET, sign
from connectors.uzcard import status

NOW_MS = 1_700_000_000_000
NOW = NOW_MS // 1000


@pytest.fixture(scope="module")
def verifier() -> CallbackVerifier:
    return CallbackVerifier("uzcard", CALLBACK_SECRET, status.of_code)


def body(**changes: Any) -> bytes:
    data = {"reference": "att_1", "state": "approved", "amount": 150_000, "currency": "UZS"}
    return json.dumps({"type": "operation.updated", "data": {**data, **changes}}).encode()


def headers(content: bytes, **changes: str) -> dict[str, str]:
    made = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(NOW),
        "webhook-signature": sign("evt_1", NOW, content),
    }
    return {**made, **{name.replace("_", "-"): value for name, value in changes.items()}}


def code(verifier: CallbackVerifier, given: dict[str, str], content: bytes) -> str:
    with pytest.raises(CallbackRefused) as refused:
        verifier.verify(given, content, now_ms=NOW_MS)
    return refused.value.code


@pytest.mark.parametrize(
    ("key", "event_id", "timestamp", "content", "signature"),
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
def test_known_vectors_pass_the_signature(
    key: str, event_id: str, timestamp: int, content: bytes, signature: str
) -> None:
    """A known signature is believed, so that only the body's form is refused."""
    verifier = CallbackVerifier("uzcard", key, status.of_code)
    given = {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }
    for believed, expected in (
        (content, "callback-invalid"),
        (content + b" ", "callback-signature-invalid"),
    ):
        with pytest.raises(CallbackRefused) as refused:
            verifier.verify(given, believed, now_ms=timestamp * 1000 + 299_000)
        assert refused.value.code == expected


@pytest.mark.parametrize(
    ("state", "processor_code", "outcome", "is_reversed"),
    [
        ("approved", None, Outcome.APPROVED, False),
        ("declined", "-240", Outcome.INSUFFICIENT_FUNDS, False),
        ("declined", "51", Outcome.INSUFFICIENT_FUNDS, False),
        ("declined", "-301", Outcome.DO_NOT_HONOR, False),
        ("declined", "unheard of", Outcome.DO_NOT_HONOR, False),
        ("declined", None, Outcome.DO_NOT_HONOR, False),
        ("reversed", None, Outcome.ALREADY_REVERSED, True),
    ],
)
def test_states_become_outcomes(
    verifier: CallbackVerifier,
    state: str,
    processor_code: str | None,
    outcome: Outcome,
    is_reversed: bool,
) -> None:
    """What is declined stays declined, whatever its code says."""
    content = body(state=state, **({} if processor_code is None else {"code": processor_code}))
    event = verifier.verify(headers(content), content, now_ms=NOW_MS)
    assert (event.result.outcome, event.reversed) == (outcome, is_reversed)
    assert event.result.processor_code == processor_code


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "v1",
        "v1,",
        "v1,not base64",
        "v1,AAAA",
        "v1,é",
        "v2," + sign("evt_1", NOW, body())[3:],
        "v1a," + sign("evt_1", NOW, body())[3:],
        sign("evt_1", NOW, body())[:-4],
        sign("evt_1", NOW, body()) + ",x",
        " ".join(["v1,AAAA"] * 1_000),
    ],
)
def test_hostile_signatures_are_refused(verifier: CallbackVerifier, signature: str) -> None:
    """Nothing but a whole v1 signature of these very bytes is believed."""
    content = body()
    given = headers(content, webhook_signature=signature)
    assert code(verifier, given, content) == "callback-signature-invalid"


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "now",
        "-1",
        "+1",
        "1.5",
        "1e9",
        "9" * 31,
        "\u0661\u0667",
        f" {NOW}",
        str(NOW + 301),
        str(NOW - 301),
    ],
)
def test_hostile_timestamps_are_refused(verifier: CallbackVerifier, timestamp: str) -> None:
    """Whole Unix seconds within 300 of now, in plain digits, or nothing."""
    content = body()
    given = headers(content, webhook_timestamp=timestamp)
    assert code(verifier, given, content) == "callback-timestamp-invalid"


@pytest.mark.parametrize("event_id", ["", "a.b", "x" * 10_000, "a b", "a\nb", "é", "\udcff"])
def test_hostile_names_are_refused(verifier: CallbackVerifier, event_id: str) -> None:
    """An event's name is short printable ASCII without a dot."""
    content = body()
    given = headers(content, webhook_id=event_id)
    assert code(verifier, given, content) == "callback-invalid"


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_headers_are_refused(verifier: CallbackVerifier, missing: str) -> None:
    """Each of the three must be there."""
    content = body()
    given = headers(content)
    del given[missing]
    assert code(verifier, given, content).startswith("callback-")


def test_a_body_that_is_no_text_was_never_signed(verifier: CallbackVerifier) -> None:
    """Undecodable bytes are refused, not raised over."""
    content = b"\xff" + body()
    assert code(verifier, headers(content), content) == "callback-signature-invalid"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"type":"operation.updated"}',
        b'{"type":"other","data":{}}',
        b"[" * 100_000,
        body(amount=0),
        body(amount=-1),
        body(amount=True),
        body(amount=1.0),
        body(amount="150000"),
        body(amount=10**15 + 1),
        body(currency="SOUM"),
        body(currency=None),
        body(reference=None),
        body(reference=""),
        body(reference="x" * 65),
        body(reference="a\nb"),
        body(state="perhaps"),
        body(state=None),
        body(rrn=5),
        body(code="x" * 33),
        body(amount=float("nan")),
    ],
)
def test_signed_bodies_of_another_form_are_refused(
    verifier: CallbackVerifier, content: bytes
) -> None:
    """A true signature does not make a true form."""
    assert code(verifier, headers(content), content) == "callback-invalid"


def test_the_first_of_several_signatures_need_not_be_ours(verifier: CallbackVerifier) -> None:
    """While a secret is changed the sender signs twice; we hold two secrets, too."""
    content = body()
    signature = "v1,AAAA " + sign("evt_1", NOW, content)
    given = headers(content, webhook_signature=signature)
    assert verifier.verify(given, content, now_ms=NOW_MS).event_id == "evt_1"
    other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    both = CallbackVerifier("uzcard", f"{other} {CALLBACK_SECRET}", status.of_code)
    assert both.verify(headers(content), content, now_ms=NOW_MS).event_id == "evt_1"
    only = CallbackVerifier("uzcard", other, status.of_code)
    assert code(only, headers(content), content) == "callback-signature-invalid"


def test_without_a_secret_nothing_is_believed() -> None:
    """A connector without a callback secret refuses every callback."""
    content = body()
    none = CallbackVerifier("uzcard", None, status.of_code)
    assert code(none, headers(content), content) == "callback-signature-invalid"


@given(
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]),
        st.text(st.characters(codec=None), max_size=60),
    ),
    st.binary(max_size=60),
)
def test_nothing_but_a_refusal_comes_of_any_input(given: dict[str, str], content: bytes) -> None:
    """No header and no body makes anything else than a refusal."""
    verifier = CallbackVerifier("uzcard", CALLBACK_SECRET, status.of_code)
    assert code(verifier, given, content).startswith("callback-")
