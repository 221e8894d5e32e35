"""Where events may be sent: which URLs are taken, and to which addresses a connection may go.

Pure: no name is looked up here. It holds what keeps a merchant from having us call into our own
network (OWASP API7, server-side request forgery).

A URL is read by one strict pattern, so that two parsers cannot differ about its host. A name is
not looked up when it is given: what it resolves to then says nothing of later, and the answer
would tell a stranger which names we know. It is looked up once for every try, and every address
found is checked before any is connected to.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

URL_LENGTH_MAX = 2_048
_HOST_LENGTH_MAX = 253

# RFC 3986 without user information, fragments and percent-encoded hosts; ASCII alone.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<rest>[/?][A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?\Z"
)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
# What the WHATWG URL standard calls a host that "ends in a number": 127.1, 0x7f.1, 2130706433.
# Resolvers read them as addresses.
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")
# Names that never leave a machine or a site (RFC 6761, 6762, 7686, 8375, ICANN's .internal).
_LOCAL = frozenset({"localhost", "local", "internal", "onion", "arpa", "lan", "home", "corp"})

# Global by the registry, and yet ways back in or out of use: 6to4 relays, protocol assignments.
_REFUSED_4 = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
# All that is given out for the Internet lies here (RFC 4291, IANA); what is not in it maps to IPv4
# (::ffff:0:0/96, 64:ff9b::/96), is private, or is nothing.
_UNICAST_6 = IPv6Network("2000::/3")
# Protocol assignments with Teredo and ORCHID, and 6to4, which carries an IPv4 address.
_REFUSED_6 = tuple(map(IPv6Network, ("2001::/23", "2002::/16")))

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Policy:
    """What is permitted.

    Args:
        ports: that https may use.
        allow_loopback: whether this machine's own addresses may be named as they are, on any
            port and without TLS: for receivers beside a sandbox, and for nothing else.
    """

    ports: frozenset[int]
    allow_loopback: bool = False


def is_public(address: Address) -> bool:
    """Return whether an address is one of the Internet's, for one host."""
    if isinstance(address, IPv4Address):
        is_refused = any(address in network for network in _REFUSED_4)
    else:
        # A scope names an interface of ours.
        is_refused = address.scope_id is not None or address not in _UNICAST_6
        is_refused = is_refused or any(address in network for network in _REFUSED_6)
    return address.is_global and not address.is_multicast and not is_refused


def why_not(url: str, policy: Policy) -> str | None:
    """Return why events are not sent to a URL, or None when they may be.

    The text says what to change and repeats nothing of the URL.
    """
    found = _URL.match(url) if len(url) <= URL_LENGTH_MAX else None
    if found is None:
        return "Send an absolute https URL in ASCII, without user information and fragment."
    host = found["host"].lower()
    port = int(found["port"]) if found["port"] else None
    if policy.allow_loopback and is_own(host):
        return None if port is None or port <= 65_535 else "There is no such port."
    if found["scheme"] != "https":
        return "Events are sent over https alone."
    if port is not None and port not in policy.ports:
        return f"Use one of the ports {', '.join(map(str, sorted(policy.ports)))}."
    address = literal(host)
    if address is not None:
        return None if is_public(address) else "This address is not a public one."
    labels = host.split(".")
    if len(host) > _HOST_LENGTH_MAX or not all(map(_LABEL.match, labels)):
        return "The host is not a name of the Internet."
    if _NUMBER.match(labels[-1]):
        return "Write an IPv4 address as four decimal numbers."
    if len(labels) < 2 or labels[-1] in _LOCAL:
        return "The host is not a name of the Internet."
    return None


def literal(host: str) -> Address | None:
    """Return the address that a host is, in its canonical notation; None when it is a name."""
    try:
        return IPv6Address(host[1:-1]) if host.startswith("[") else IPv4Address(host)
    except ValueError:
        return None


def is_own(host: str) -> bool:
    """Return whether a host names this machine, by its usual name or by a loopback address."""
    address = literal(host)
    return host == "localhost" if address is None else address.is_loopback


def may_connect(host: str, address: Address, policy: Policy) -> bool:
    """Return whether a connection to `host` may go to an address it resolved to."""
    if policy.allow_loopback and is_own(host):
        return address.is_loopback
    return is_public(address)
