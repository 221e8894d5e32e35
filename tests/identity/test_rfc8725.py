"""JWT best practice (RFC 8725): one kind of token is no other, and weak keys are no keys.

What is wrong with a single access token is in the table of hostile tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.identity import jose
from gateway.identity.jose import JoseFault
from tests.identity.signers import ASSERTION_TYPE, ISSUER, TOKEN_URL, Signer, base64url
from tests.identity.worker import Hand, Worker

PATH = "/v1/sessions"
URL = ISSUER + PATH


async def test_no_kind_of_token_is_taken_for_another(worker: Worker, clock: Hand) -> None:
    """Sections 2.7, 2.8, 3.11 and 3.12: each of the three has a type and claims of its own."""
    clock.advance(60)
    now_s = clock.now_ms / 1_000
    signer = Signer("EdDSA")
    await worker.clients.put(
        client_id="shop",
        channel="api",
        subject="mer_1",
        secret=None,
        scopes=["sessions:read"],
        jwks=signer.jwks(),
        dpop="optional",
    )
    access = worker.tokens.issue(
        sub="mer_1", client_id="shop", scope=["sessions:read"], channel="api", jkt=signer.jkt
    )

    def kinds() -> dict[str, str]:
        return {
            "access token": access,
            "proof": signer.proof("GET", URL, at_s=now_s, token=access),
            "assertion": signer.assertion("shop", at_s=now_s)["client_assertion"],
        }

    for kind, text in kinds().items():
        headers = {"Authorization": f"DPoP {access}", "DPoP": text}
        status = (await worker.call("GET", PATH, headers=headers)).status
        assert (kind, status) == (kind, 200 if kind == "proof" else 401)
        headers = {"Authorization": f"DPoP {text}", "DPoP": kinds()["proof"]}
        status = (await worker.call("GET", PATH, headers=headers)).status
        assert (kind, status) == (kind, 200 if kind == "access token" else 401)
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": text,
        }
        status = (await worker.call("POST", "/oauth/token", form=form)).status
        assert (kind, status) == (kind, 200 if kind == "assertion" else 401)


async def test_a_proof_that_says_all_that_an_assertion_says_is_none(
    worker: Worker, clock: Hand
) -> None:
    """Section 3.11: the type decides, whatever claims are in it, and the other way round."""
    clock.advance(60)
    now_s = int(clock.now_ms / 1_000)
    signer = Signer("EdDSA")
    await worker.clients.put(
        client_id="shop",
        channel="api",
        subject="mer_1",
        secret=None,
        scopes=["sessions:read"],
        jwks=signer.jwks(),
        dpop="required",
    )
    everything: dict[str, Any] = {
        "iss": "shop",
        "sub": "shop",
        "aud": ISSUER,
        "exp": now_s + 60,
        "iat": now_s,
        "htm": "POST",
        "htu": TOKEN_URL,
    }

    def made(typ: str, jti: str) -> str:
        header = {"typ": typ, "alg": "EdDSA", "jwk": signer.jwk}
        return signer.sign(header, everything | {"jti": jti})

    async def ask(assertion: str, proof: str) -> int:
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
        }
        reply = await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})
        return reply.status

    assert await ask(made("dpop+jwt", "a"), made("dpop+jwt", "b")) == 401
    assert await ask(made("JWT", "c"), made("JWT", "d")) == 400
    assert await ask(made("JWT", "e"), made("dpop+jwt", "f")) == 200


SMALL_ORDER = (
    "00" * 32,
    "01" + "00" * 31,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ec" + "ff" * 30 + "7f",
    "ec" + "ff" * 31,
    "ee" + "ff" * 30 + "7f",
)
EC, RSA = Signer("ES256").jwk, Signer("PS256").jwk


def _rsa(bits: int, exponent: int = 65_537) -> dict[str, str]:
    return Signer("PS256", private=rsa.generate_private_key(exponent, bits)).jwk


KEYS: list[tuple[str, Any]] = [
    *(
        (
            f"small order {text[:4]}",
            {"kty": "OKP", "crv": "Ed25519", "x": base64url(bytes.fromhex(text))},
        )
        for text in SMALL_ORDER
    ),
    ("Ed448", {"kty": "OKP", "crv": "Ed448", "x": "A" * 76}),
    ("X25519", {"kty": "OKP", "crv": "X25519", "x": Signer("EdDSA").jwk["x"]}),
    ("a short x", {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
    ("no x", {"kty": "OKP", "crv": "Ed25519"}),
    ("padded x", {"kty": "OKP", "crv": "Ed25519", "x": Signer("EdDSA").jwk["x"] + "="}),
    ("P-384", Signer("ES384").jwk),
    ("P-384 named P-256", {**Signer("ES384").jwk, "crv": "P-256"}),
    ("off the curve", {**EC, "y": EC["x"]}),
    ("infinity", {**EC, "x": base64url(bytes(32)), "y": base64url(bytes(32))}),
    ("a coordinate over the prime", {**EC, "x": base64url(b"\xff" * 32)}),
    ("a compressed point", {"kty": "EC", "crv": "P-256", "x": EC["x"]}),
    ("RSA of 1024 bits", _rsa(1_024)),
    ("RSA with an exponent of 3", _rsa(2_048, 3)),
    ("RSA of nothing", {**RSA, "n": ""}),
    ("RSA with an even exponent", {**RSA, "e": "AQAA"}),
    ("RSA of 16384 bits", {**RSA, "n": base64url(b"\xff" * 2_048)}),
    ("a secret", {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}),
    ("a private key", {**EC, "d": EC["x"]}),
    ("a private RSA key", {**RSA, "p": "AQAB"}),
    ("for encryption", {**EC, "use": "enc"}),
    ("for signing alone", {**EC, "key_ops": ["sign"]}),
    ("of another algorithm", {**EC, "alg": "EdDSA"}),
    ("RS256", {**RSA, "alg": "RS256"}),
    ("a kid that is no text", {**EC, "kid": 7}),
    ("an empty kid", {**EC, "kid": ""}),
    ("no kty", {name: one for name, one in EC.items() if name != "kty"}),
    ("kty of a list", {**EC, "kty": ["EC"]}),
    ("crv of a list", {**EC, "crv": ["P-256"]}),
    ("x of a number", {**EC, "x": 7}),
    ("a text", "key"),
    ("nothing", None),
    ("a list", [EC]),
]


@pytest.mark.parametrize(("what", "jwk"), KEYS, ids=[one[0] for one in KEYS])
def test_a_key_that_is_weak_or_not_public_is_no_key(what: str, jwk: Any) -> None:
    """Sections 3.4 and 3.5: every input is checked, and a key is as strong as its kind."""
    with pytest.raises(JoseFault):
        jose.read_key(jwk)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "PS256"])
def test_a_good_key_is_read_with_its_thumbprint(alg: str) -> None:
    """RFC 7638, 3: over the members that must be there, whatever else is."""
    signer = Signer(alg)
    for more in (
        {},
        {"kid": "k"},
        {"use": "sig"},
        {"alg": alg},
        {"key_ops": ["verify"]},
        {"x5t": "x"},
    ):
        key = jose.read_key({**signer.jwk, **more})
        assert (key.algorithm, key.thumbprint) == (alg, signer.jkt)


def test_the_thumbprint_of_the_standard() -> None:
    """RFC 7638, 3.1, and RFC 8037, A.3: what the documents compute."""
    ed25519 = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    assert jose.read_key(ed25519).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_proof_of_the_standard_is_read() -> None:
    """RFC 9449, 4.1: the example's signature holds, and its key is the one of its `cnf` (6.1)."""
    text = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik"
        "VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR"
        "nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE"
        "QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIj"
        "oiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwia"
        "WF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg"
        "4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
    )
    proof = jose.read_jws(text, types=("dpop+jwt",))
    key = jose.read_key(proof.header["jwk"])
    jose.verify(proof, key)
    assert proof.claims["htu"] == "https://server.example.com/token"
    assert key.thumbprint == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
