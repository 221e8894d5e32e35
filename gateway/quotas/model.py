"""What a client may ask for, and how it is told of it."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

import msgspec

from gateway.quotas.bucket import Bucket
from gateway.quotas.gcra import SECOND_US, Pace

RATE_PER_S_MAX = 100_000
BURST_MAX = 1_000_000
CONCURRENCY_MAX = 100_000
NETWORKS_MAX = 64

Network = IPv4Network | IPv6Network
RatePerS = Annotated[int, msgspec.Meta(ge=1, le=RATE_PER_S_MAX)]
Burst = Annotated[int, msgspec.Meta(ge=1, le=BURST_MAX)]
Concurrency = Annotated[int, msgspec.Meta(ge=0, le=CONCURRENCY_MAX)]
Networks = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=NETWORKS_MAX)
]


class LimitsBody(msgspec.Struct, forbid_unknown_fields=True):
    """A client's limits, whole. Null: as its channel; no networks: from anywhere."""

    rate_per_s: RatePerS | None = None
    burst: Burst | None = None
    concurrency_max: Concurrency | None = None
    networks: Networks = msgspec.field(default_factory=list)


class LimitsView(msgspec.Struct):
    """A client's own limits, null where it has its channel's; `revision` is also the ETag."""

    client_id: str
    channel: str
    rate_per_s: int | None
    burst: int | None
    concurrency_max: int | None
    networks: list[str]
    revision: int


@dataclass(frozen=True, slots=True)
class Limit:
    """What one client is held to.

    Args:
        pace: its rate and burst; None: as much as comes.
        concurrency_max: requests at once; 0: as many as come.
        is_per_customer: each customer of the client has a bucket.
        networks: where it may ask from; empty: anywhere.
        policy: the `RateLimit-Policy` header.
    """

    pace: Pace | None
    concurrency_max: int
    is_per_customer: bool
    networks: tuple[Network, ...]
    policy: str


def policy_of(pace: Pace, *, is_per_customer: bool) -> str:
    """Return the `RateLimit-Policy` header: the burst, and in how long it is there again.

    draft-ietf-httpapi-ratelimit-headers-10, section 3.
    """
    quota = pace.tolerance_us // pace.emission_us
    window_s = -(-pace.tolerance_us // SECOND_US)
    return f'"{_name(is_per_customer)}";q={quota};w={window_s}'


def left_of(bucket: Bucket, now_us: int, *, is_per_customer: bool) -> str:
    """Return the `RateLimit` header: what may come at once now, and when it is all there again.

    draft-ietf-httpapi-ratelimit-headers-10, section 4.
    """
    debt_us = max(0, bucket.tat_us - now_us)
    left = max(0, bucket.pace.tolerance_us - debt_us) // bucket.pace.emission_us
    return f'"{_name(is_per_customer)}";r={left};t={-(-debt_us // SECOND_US)}'


def _name(is_per_customer: bool) -> str:
    return "customer" if is_per_customer else "client"


def read_networks(texts: list[str]) -> tuple[Network, ...]:
    """Return networks, each an address and a prefix without bits of a host, or an address.

    Raises:
        ValueError: it names the place of the first that is none, counted from 0.
    """
    found = []
    for place, text in enumerate(texts):
        try:
            found.append(ip_network(text))
        except ValueError:
            raise ValueError(str(place)) from None
    return tuple(found)


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address is in one of some networks; one that cannot be read is in none."""
    try:
        # A zone is this machine's word for one of its links.
        at = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if at.version == 6 and at.ipv4_mapped is not None:
        at = at.ipv4_mapped
    return any(at in network for network in networks)
