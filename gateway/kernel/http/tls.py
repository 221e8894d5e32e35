"""TLS of the gateway itself, for where no balancer ends it.

TLS 1.2 with forward secrecy and authenticated ciphers alone, and 1.3. A certificate that is renewed
is taken at the next SIGHUP: connections that are open keep theirs.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

# Of TLS 1.2; 1.3 has none that are weak.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(Exception):
    """A certificate, key or authority that cannot be used; the text names the file."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files.

    Args:
        certificate: with its chain.
        key: of the certificate, without a passphrase, readable by its owner alone.
        client_ca: whoever connects must show a certificate of these; None: nobody need.
    """

    certificate: Path
    key: Path
    client_ca: Path | None


def open_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a server. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, files)
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{files.client_ca}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def reload(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Take a renewed certificate for connections to come; a bad one changes nothing.

    Raises:
        TlsError: it cannot be used.
    """
    # A certificate is taken before its key is read: a pair that does not fit must not get so far.
    open_context(files)
    _load(context, files)


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        if files.key.stat().st_mode & 0o077:
            raise TlsError(f"{files.key} can be read by others than its owner; chmod 600")
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(f"{files.certificate}, {files.key}: {error}") from None


def _no_passphrase() -> str:
    # Otherwise the library asks for one on the terminal, and waits.
    raise ssl.SSLError("the key has a passphrase")
