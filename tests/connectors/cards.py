"""Synthetic Luhn-valid cards and free ports."""

import socket

from connectors.spi import CardData, Pan


def pan(prefix: str) -> str:
    """A 16-digit number that begins with `prefix` and passes the Luhn check."""
    body = prefix.ljust(15, "0")
    total = 0
    for index, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if index % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return body + str(-total % 10)


def card(scheme: str, prefix: str) -> CardData:
    """A card that expires late."""
    return CardData(scheme, Pan(pan(prefix)), expiry="3012")


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
