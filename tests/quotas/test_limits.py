"""Which limits a client has, and whether an address is in its networks."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.kernel.http.problems import Problem
from gateway.quotas.gcra import pace_of
from gateway.quotas.limits import Limits
from gateway.quotas.model import is_within, read_networks
from gateway.settings import load

SETTINGS = load({}).quotas


class Rows:
    """A connection that knows what was changed, in order."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def change(self, client_id: str, channel: str = "api", **limits: Any) -> None:
        row: dict[str, Any] = {
            "client_id": client_id,
            "channel": channel,
            "rate_per_s": None,
            "burst": None,
            "concurrency_max": None,
            "networks": [],
            "seq": len(self.rows) + 1,
        }
        self.rows.append(row | limits)

    async def fetch(self, statement: str, after: int) -> list[dict[str, Any]]:
        return self.rows[after:]


@pytest.fixture
def rows() -> Rows:
    return Rows()


async def test_a_client_has_its_channels_limits_or_its_own(rows: Rows) -> None:
    limits = Limits(SETTINGS, are_defaults_on=True)
    shop = limits.of("shop", "api")
    assert shop is not None
    assert shop.pace == pace_of(SETTINGS.api.rate_per_s, SETTINGS.api.burst)
    assert not shop.is_per_customer
    app = limits.of("mobile", "mobile")
    assert app is not None
    assert app.is_per_customer
    rows.change("shop", rate_per_s=7)
    await limits.read(rows)
    own = limits.of("shop", "api")
    assert own is not None
    assert own.pace == pace_of(7, SETTINGS.api.burst), "what is not given is the channel's"
    assert own.concurrency_max == SETTINGS.api.concurrency_max
    rows.change("shop")
    await limits.read(rows)
    assert limits.of("shop", "api") == shop


async def test_without_defaults_only_what_is_given_holds(rows: Rows) -> None:
    """A sandbox, in which nobody pays for limits that nobody has."""
    limits = Limits(SETTINGS, are_defaults_on=False)
    assert not limits.are_there_any
    assert limits.of("shop", "api") is None
    rows.change("shop", concurrency_max=3)
    await limits.read(rows)
    own = limits.of("shop", "api")
    assert own is not None
    assert (own.pace, own.concurrency_max, own.networks) == (None, 3, ())
    assert limits.of("other", "api") is None
    rows.change("shop", burst=9)
    await limits.read(rows)
    own = limits.of("shop", "api")
    assert own is not None
    assert own.pace == pace_of(SETTINGS.api.rate_per_s, 9)
    assert own.concurrency_max == 0
    rows.change("shop")
    await limits.read(rows)
    assert not limits.are_there_any


async def test_each_change_is_read_once_and_the_last_holds(rows: Rows) -> None:
    limits = Limits(SETTINGS, are_defaults_on=False)
    for rate in (1, 2, 3):
        rows.change("shop", rate_per_s=rate)
    await limits.read(rows)
    await limits.read(rows)
    own = limits.of("shop", "api")
    assert own is not None
    assert own.pace is not None
    assert own.pace.emission_us == 333_334


async def test_who_asks_from_elsewhere_is_refused(rows: Rows) -> None:
    limits = Limits(SETTINGS, are_defaults_on=False)
    rows.change("shop", networks=["203.0.113.0/24"])
    await limits.read(rows)
    limits.check_network("shop", "api", "203.0.113.9")
    limits.check_network("other", "api", "198.51.100.1")
    for address in ("198.51.100.1", "", "/run/gateway.sock"):
        with pytest.raises(Problem, match="client-network-not-allowed"):
            limits.check_network("shop", "api", address)


@pytest.mark.parametrize(
    ("address", "network", "is_in"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "::/0", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db9::1", "2001:db8::/32", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("2001:db8::1", "0.0.0.0/0", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("010.1.2.3", "10.0.0.0/8", False),
        ("10.1.2", "10.0.0.0/8", False),
        ("", "0.0.0.0/0", False),
    ],
)
def test_an_address_is_in_a_network_of_its_own_kind(
    address: str, network: str, is_in: bool
) -> None:
    assert is_within(address, read_networks([network])) is is_in
