"""Reads one connector's settings. Every error names the key and never shows the value."""

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


class SettingsReader:
    """Takes typed values out of a mapping, then refuses whatever is left.

    Args:
        name: the connector's name, put before the key in errors.
        values: the connector's section of the configuration.
    """

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name = name
        self._left = dict(values)

    def wrong(self, key: str, what: str) -> ValueError:
        """The error to raise for a key."""
        return ValueError(f"{self._name}.{key}: {what}")

    def _take(self, key: str, default: Any) -> Any:
        value = self._left.pop(key, default)
        if value is None:
            raise self.wrong(key, "is required")
        return value

    def text(self, key: str, default: str | None = None, *, pattern: str = r".+") -> str:
        """A string that matches `pattern` in full."""
        value = self._take(key, default)
        if not isinstance(value, str) or re.fullmatch(pattern, value, re.ASCII) is None:
            raise self.wrong(key, f"must be a string that matches {pattern}")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"must be an integer from {least} to {most}")
        return value

    def choice(self, key: str, default: str, among: tuple[str, ...]) -> str:
        """One of the words of `among`."""
        value = self._take(key, default)
        if value not in among:
            raise self.wrong(key, f"must be one of {', '.join(among)}")
        return str(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def url(self, key: str) -> str:
        """An http(s) URL without credentials, query or fragment; no slash at its end."""
        value = self._take(key, None)
        problem = self.wrong(key, "must be an http(s) URL without credentials, query or fragment")
        if not isinstance(value, str):
            raise problem
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise problem from None
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or port == 0
            or parts.username is not None
            or parts.query
            or parts.fragment
        ):
            raise problem
        return value.rstrip("/")

    def strings(self, key: str) -> dict[str, str]:
        """A table of strings; empty when absent."""
        value = self._take(key, {})
        if not isinstance(value, Mapping) or not all(
            isinstance(item, str) for pair in value.items() for item in pair
        ):
            raise self.wrong(key, "must be a table of strings")
        return dict(value)

    def tls(self) -> ssl.SSLContext | None:
        """A client context from `tls_ca_file`, `tls_cert_file` and `tls_key_file`; None without.

        Names and chains are always verified, TLS 1.2 is the least.
        """
        files = {}
        for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
            files[key] = self.text(key) if key in self._left else None
        if not any(files.values()):
            return None
        try:
            context = ssl.create_default_context(cafile=files["tls_ca_file"])
        except OSError:
            raise self.wrong("tls_ca_file", "cannot be read") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if files["tls_cert_file"] is not None:
            try:
                context.load_cert_chain(files["tls_cert_file"], files["tls_key_file"])
            except OSError:
                raise self.wrong("tls_cert_file", "or its key cannot be read") from None
        return context

    def finish(self) -> None:
        """Refuse keys that nobody read: a misspelt key is an error, not a default."""
        for key in self._left:
            raise self.wrong(key, "is not a setting of this connector")


def secret(name: str, secrets: Mapping[str, str], key: str) -> str:
    """A secret that must be there. Raises ValueError that names it."""
    value = secrets.get(key)
    if not value:
        raise ValueError(f"{name}.secrets.{key}: is required")
    return value
