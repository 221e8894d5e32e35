"""One-time codes of authenticator apps: TOTP (RFC 6238), six digits, thirty seconds, SHA-1.

SHA-1 because every app knows it; as a MAC it is sound. A clock may be one step off either way.
"""

import hmac

import pyotp

STEP_S = 30
_STEPS_OFF = (0, -1, 1)


def new_secret() -> str:
    """Return a secret of 160 random bits, in base32."""
    return pyotp.random_base32(32)


def provisioning_uri(secret: str, login: str) -> str:
    """Return what an app reads from a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=login, issuer_name="Oqim")


def step_of(secret: str, code: str, *, now_ms: int) -> int | None:
    """Return the time step a code is of, or None when it is of none near now."""
    totp = pyotp.TOTP(secret)
    step = now_ms // 1000 // STEP_S
    for off in _STEPS_OFF:
        if hmac.compare_digest(totp.generate_otp(step + off).encode(), code.encode()):
            return step + off
    return None
