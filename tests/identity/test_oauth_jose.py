"""Whatever somebody sends as a key, a proof or an assertion: it is read, or refused in one way."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.identity import jose
from gateway.identity.jose import JoseFault
from tests.identity.signers import Signer, base64url, compact

MEMBERS = [
    "kty",
    "crv",
    "x",
    "y",
    "n",
    "e",
    "d",
    "k",
    "alg",
    "use",
    "key_ops",
    "kid",
    "typ",
    "jwk",
    "crit",
]
NAMES = st.sampled_from(MEMBERS)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["OKP", "EC", "RSA", "Ed25519", "P-256", "EdDSA", "ES256", "PS256", "sig"])
    | st.binary(max_size=80).map(base64url)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES | st.text(max_size=4), VALUES, max_size=8)
SIGNERS = {alg: Signer(alg) for alg in jose.ALGORITHMS}
TYPES = ("", "jwt", "dpop+jwt")


@settings(max_examples=400, deadline=None)
@given(VALUES | OBJECTS)
def test_any_json_is_a_key_or_is_refused(jwk: Any) -> None:
    """Nothing but `JoseFault` leaves the reader, and a key that it returns verifies something."""
    with contextlib.suppress(JoseFault):
        key = jose.read_key(jwk)
        assert key.algorithm in jose.ALGORITHMS
        assert len(key.thumbprint) == 43


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(jose.ALGORITHMS), OBJECTS)
def test_a_key_with_any_further_members_is_read_or_refused(alg: str, more: dict[str, Any]) -> None:
    """The thumbprint goes by the key alone, whatever stands beside it (RFC 7638, 3.2)."""
    signer = SIGNERS[alg]
    with contextlib.suppress(JoseFault):
        assert jose.read_key(more | signer.jwk).thumbprint == signer.jkt


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=200).map(lambda one: one.decode("latin-1")))
def test_any_text_is_no_jws(text: str) -> None:
    """What is not three parts of canonical base64url with two objects in it is refused."""
    try:
        jose.read_jws(text, types=TYPES)
    except JoseFault:
        return
    raise AssertionError(text)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(jose.ALGORITHMS), OBJECTS, OBJECTS, st.booleans())
def test_any_objects_signed_are_read_and_verified_or_refused(
    alg: str, header: dict[str, Any], claims: dict[str, Any], is_named: bool
) -> None:
    """By its own key a token verifies, by another of its kind never; and what is read is what was
    signed.
    """
    signer = SIGNERS[alg]
    told = header | ({"alg": alg, "typ": "JWT"} if is_named else {})
    text = compact(signer.private, alg, json.dumps(told), json.dumps(claims))
    try:
        token = jose.read_jws(text, types=TYPES)
    except JoseFault:
        return
    assert (token.header, token.claims) == (told, claims)
    for other, another in SIGNERS.items():
        key = jose.read_key(another.jwk)
        try:
            jose.verify(token, key)
        except JoseFault:
            # The library looks at the types of further members that RFC 7515 names.
            assert other != alg or told["alg"] != alg or told.keys() - {"alg", "typ"}
        else:
            assert other == alg == told["alg"]
