"""Bounds of an ISO 8583 link; every one of them is a setting of the same name."""

import ssl
from dataclasses import dataclass, field

from connectors.transport.breaker import BreakerPolicy
from connectors.transport.http import read_breaker_policy
from connectors.transport.settings import SettingsReader


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPolicy:
    """Where to connect, and how long to wait for what.

    Args:
        host, port: the endpoint.
        source_station, destination_station: 6 digits each, for the header.
        connect_timeout_ms: for name, TCP and TLS together.
        timeout_ms: for the answer to one message.
        echo_interval_ms: silence after which an echo is asked for.
        reconnect_min_ms, reconnect_max_ms: bounds of the pause between attempts.
        sign_off_timeout_ms: how long closing waits for the sign-off's answer.
        in_flight_max: requests awaiting an answer.
        settling_max: more of them, when they settle.
        advices_max: unasked messages being stored at once; more are left to be repeated.
        message_size_max: bytes of header and message together.
        tls: verified client context; None on a private line.
    """

    host: str
    port: int
    source_station: str
    destination_station: str = "000000"
    connect_timeout_ms: int = 3_000
    timeout_ms: int = 10_000
    echo_interval_ms: int = 10_000
    reconnect_min_ms: int = 100
    reconnect_max_ms: int = 10_000
    sign_off_timeout_ms: int = 1_000
    in_flight_max: int = 20_000
    settling_max: int = 32
    advices_max: int = 256
    message_size_max: int = 2_048
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    tls: ssl.SSLContext | None = None


def read_link_policy(reader: SettingsReader) -> LinkPolicy:
    """Take the policy's settings out of a connector's section. Raises ValueError naming the key."""
    minute = 60_000

    defaults = LinkPolicy(host="", port=1, source_station="")

    def bound(key: str, most: int) -> int:
        return reader.integer(key, getattr(defaults, key), least=1, most=most)

    return LinkPolicy(
        host=reader.text("host", pattern=r"[A-Za-z0-9.:_-]{1,253}"),
        port=reader.integer("port", least=1, most=65_535),
        source_station=reader.text("source_station", pattern=r"\d{6}"),
        destination_station=reader.text(
            "destination_station", defaults.destination_station, pattern=r"\d{6}"
        ),
        connect_timeout_ms=bound("connect_timeout_ms", minute),
        timeout_ms=bound("timeout_ms", 5 * minute),
        echo_interval_ms=bound("echo_interval_ms", 60 * minute),
        reconnect_min_ms=bound("reconnect_min_ms", minute),
        reconnect_max_ms=bound("reconnect_max_ms", 10 * minute),
        sign_off_timeout_ms=bound("sign_off_timeout_ms", minute),
        in_flight_max=bound("in_flight_max", 1_000_000),
        settling_max=bound("settling_max", 1_024),
        advices_max=bound("advices_max", 1 << 16),
        message_size_max=reader.integer(
            "message_size_max", defaults.message_size_max, least=64, most=65_535
        ),
        breaker=read_breaker_policy(reader),
        tls=reader.tls(),
    )
