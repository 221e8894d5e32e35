"""What this server says of itself (RFC 8414), from what the code beside it does."""

from collections.abc import Sequence

from gateway.identity import jose, proofs
from gateway.identity.model import GRANT_CLIENT, GRANT_OTP, GRANT_REFRESH, ServerMetadata

TOKEN_PATH = "/oauth/token"
_SECRET = ["client_secret_basic", "client_secret_post"]
_CONFIDENTIAL = [*_SECRET, "private_key_jwt"]


def token_endpoint(base_url: str) -> str:
    """Return the address of the token endpoint, which assertions may name as their audience."""
    return f"{base_url}{TOKEN_PATH}"


def metadata(*, issuer: str, base_url: str, scopes: Sequence[str]) -> ServerMetadata:
    """Return where things are and what is supported.

    Args:
        base_url: where clients reach this server, without a slash at the end.
        scopes: of customers' apps.
    """
    algorithms = list(jose.ALGORITHMS)
    return ServerMetadata(
        issuer=issuer,
        token_endpoint=token_endpoint(base_url),
        jwks_uri=f"{base_url}/.well-known/jwks.json",
        revocation_endpoint=f"{base_url}/oauth/revoke",
        introspection_endpoint=f"{base_url}/oauth/introspect",
        scopes_supported=list(scopes),
        # Nobody is sent to another page here to log in; the member must be there all the same.
        response_types_supported=[],
        grant_types_supported=[GRANT_OTP, GRANT_REFRESH, GRANT_CLIENT],
        token_endpoint_auth_methods_supported=["none", *_CONFIDENTIAL],
        token_endpoint_auth_signing_alg_values_supported=algorithms,
        revocation_endpoint_auth_methods_supported=["none", *_CONFIDENTIAL],
        revocation_endpoint_auth_signing_alg_values_supported=algorithms,
        introspection_endpoint_auth_methods_supported=_CONFIDENTIAL,
        introspection_endpoint_auth_signing_alg_values_supported=algorithms,
        dpop_signing_alg_values_supported=list(proofs.ALGORITHMS),
        service_documentation=f"{base_url}/docs",
    )
