"""No event is sent into our own network, whatever is written and whatever a name resolves to."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import aiohappyeyeballs
import pytest

from gateway.webhooks.addresses import Policy, is_public, why_not
from gateway.webhooks.client import NO_CONNECTION, NOT_PERMITTED, TIMED_OUT, Client
from tests.webhooks.receivers import Receiver

BANK = Policy(ports=frozenset({443, 8443}))
SANDBOX = Policy(ports=frozenset({443, 8443}), allow_loopback=True)
PUBLIC = "203.0.114.7"

# Refused in the sandbox as at the bank.
NEVER = [
    "",
    "shop.example.uz/hooks",
    "//shop.example.uz/hooks",
    "ftp://shop.example.uz/",
    "file:///etc/passwd",
    "gopher://shop.example.uz/",
    "javascript:alert(1)",
    "http://shop.example.uz/hooks",
    "http://169.254.169.254/latest/meta-data/",
    "https://user@shop.example.uz/",
    "https://user:pass@shop.example.uz/",
    "https://shop.example.uz@127.0.0.1/",
    "https://127.0.0.1@shop.example.uz/",
    "https://shop.example.uz:22/",
    "https://shop.example.uz:80/",
    "https://shop.example.uz:8080/",
    "https://shop.example.uz:0/",
    "https://shop.example.uz:65536/",
    "https://shop.example.uz:+443/",
    "https://shop.example.uz:/",
    "https://shop.example.uz/#fragment",
    "https://shop.example.uz/a b",
    "https://shop.example.uz/\n",
    "https://shop.example.uz/\r\nX-Header: 1",
    "https://shop.example.uz\\@127.0.0.1/",
    "https://shop.example.uz/\\..",
    "https:/shop.example.uz/",
    "https:///shop.example.uz/",
    " https://shop.example.uz/",
    "https://shop.example.uz /",
    "https://shop_1.example.uz/",
    "https://-shop.example.uz/",
    "https://shop..example.uz/",
    "https://.example.uz/",
    "https://do'kon.uz/",
    "https://дўкон.uz/",
    "https://shop.example。uz/",
    "https://①②⑦.⓪.⓪.①/",
    "https://%31%32%37.0.0.1/",
    "https://shop%2eexample.uz/",
    "https://localhost./",
    "https://shop.example.uz./",
    "https://shop.localhost/",
    "https://printer.local/",
    "https://vault.internal/",
    "https://router.lan/",
    "https://intranet/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0x7f.0.0.0x1/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://127.0.0.01/",
    "https://1.2.3.4.5/",
    "https://256.1.1.1/",
    "https://shop.example.0x1/",
    "https://shop.example.1/",
    "https://0.0.0.0/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://169.254.169.254/",
    "https://100.64.0.1/",
    "https://100.127.255.255/",
    "https://192.0.0.8/",
    "https://192.0.2.1/",
    "https://192.88.99.1/",
    "https://198.18.0.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:1::1]/",
    "https://[2001:db8::1]/",
    "https://[fc00::1]/",
    "https://[fd12:3456:789a::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[::1%25lo]/",
    "https://[127.0.0.1]:22/",
    "https://shop.example.uz/" + "a" * 2_048,
    "https://" + "a" * 64 + ".uz/",
    "https://" + ".".join(["abcdefgh"] * 40) + ".uz/",
]
# This machine, written as it is.
OWN = [
    "http://127.0.0.1:8090/hooks",
    "http://127.0.0.2/",
    "http://localhost:8090/hooks",
    "http://LOCALHOST/",
    "http://[::1]:8090/",
    "https://127.0.0.1/",
    "https://[::1]/",
    "https://localhost/",
]
FINE = [
    "https://shop.example.uz",
    "https://shop.example.uz/",
    "https://shop.example.uz/hooks?shop=1&x=%20",
    "https://shop.example.uz:443/hooks",
    "https://shop.example.uz:8443/hooks",
    "https://SHOP.example.uz/hooks",
    "https://xn--80akhbyknj4f.xn--p1ai/",
    "https://1.shop.example.uz/",
    "https://shop.example.uz?hook",
    "https://8.8.8.8/",
    "https://[2606:4700::1111]/",
]


@pytest.mark.parametrize("url", NEVER)
@pytest.mark.parametrize("policy", [BANK, SANDBOX], ids=["bank", "sandbox"])
def test_what_is_never_permitted(policy: Policy, url: str) -> None:
    assert why_not(url, policy) is not None


@pytest.mark.parametrize("url", OWN)
def test_this_machine_is_for_a_sandbox_alone(url: str) -> None:
    assert why_not(url, BANK) is not None
    assert why_not(url, SANDBOX) is None


@pytest.mark.parametrize("url", FINE)
@pytest.mark.parametrize("policy", [BANK, SANDBOX], ids=["bank", "sandbox"])
def test_what_is_permitted(policy: Policy, url: str) -> None:
    assert why_not(url, policy) is None


@pytest.mark.parametrize("url", [one for one in NEVER if len(one) > 12])
def test_a_refusal_repeats_nothing(url: str) -> None:
    """What is wrong is said without what was written."""
    host = url.split("/")[2] if url.count("/") > 1 else url
    assert host in ("", "intranet") or host not in str(why_not(url, BANK))


# What names resolve to ------------------------------------------------------------------------


class Names:
    """A resolver that answers as arranged, one answer a look-up, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (kinds[ip_address(one).version], socket.SOCK_STREAM, 6, "", (one, port))
            for one in answer
        ]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address a connection was asked for; none of them is really made."""
    addresses: list[str] = []

    async def refuse(addr_infos: list[Any], **_: Any) -> socket.socket:
        addresses.extend(one[4][0] for one in addr_infos)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", refuse)
    return addresses


async def tried(names: Names, url: str, *, policy: Policy = BANK, times: int = 1) -> list[Any]:
    """Send as often and return the outcomes."""
    client = Client(policy, timeout_s=2.0, lookup=names)
    try:
        return [await client.send(url, b"{}", {}) for _ in range(times)]
    finally:
        await client.close()


async def test_a_connection_goes_to_the_address_that_was_checked(connected: list[str]) -> None:
    """One look-up, and exactly what it answered is connected to."""
    names = Names([PUBLIC])
    (outcome,) = await tried(names, "https://shop.example.uz/")
    assert (outcome.http_status, outcome.error) == (None, NO_CONNECTION)
    assert names.asked == ["shop.example.uz"]
    assert set(connected) == {PUBLIC}


@pytest.mark.fault(rows=[59], what="the second answer leads inside")
async def test_a_name_that_turns_to_loopback_is_refused(connected: list[str]) -> None:
    """DNS rebinding: public at the first look-up, 127.0.0.1 at the second."""
    names = Names([PUBLIC], ["127.0.0.1"])
    first, second = await tried(names, "https://shop.example.uz/", times=2)
    assert first.error == NO_CONNECTION
    assert second.error == NOT_PERMITTED
    assert set(connected) == {PUBLIC}


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["100.64.1.1"],
        ["0.0.0.0"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["fd00::1"],
        ["fe80::1%lo"],
        ["64:ff9b::a00:1"],
        [PUBLIC, "127.0.0.1"],
        ["2606:4700::1111", "fc00::1"],
    ],
    ids=str,
)
@pytest.mark.parametrize("policy", [BANK, SANDBOX], ids=["bank", "sandbox"])
async def test_a_name_that_leads_inside_is_refused(
    connected: list[str], policy: Policy, answer: list[str]
) -> None:
    """One inside address among the answers forbids them all."""
    (outcome,) = await tried(Names(answer), "https://shop.example.uz/", policy=policy)
    assert outcome.error == NOT_PERMITTED
    assert connected == []


async def test_localhost_must_be_this_machine(connected: list[str]) -> None:
    """In a sandbox too: a hosts file that points it elsewhere opens nothing."""
    (outcome,) = await tried(Names(["10.0.0.1"]), "http://localhost:8090/", policy=SANDBOX)
    assert outcome.error == NOT_PERMITTED
    assert connected == []


async def test_an_address_is_checked_again_when_it_is_sent_to(receiver: Receiver) -> None:
    """What a sandbox permitted, a bank that is given its database does not."""
    (refused,) = await tried(Names([]), receiver.url, policy=BANK)
    (taken,) = await tried(Names([]), receiver.url, policy=SANDBOX)
    assert refused.error == NOT_PERMITTED
    assert taken.http_status == 204
    assert len(receiver.got) == 1


async def test_a_look_up_that_hangs_is_a_try_that_fails() -> None:
    """The time of a try counts from its look-up."""

    class Hanging(Names):
        async def __call__(self, *_: Any) -> list[tuple[Any, ...]]:
            await asyncio.Event().wait()
            raise AssertionError("never")

    client = Client(BANK, timeout_s=0.1, lookup=Hanging([]))
    outcome = await client.send("https://shop.example.uz/", b"{}", {})
    await client.close()
    assert outcome.error == TIMED_OUT


def test_the_internet_is_public() -> None:
    """The table above is not passed by refusing everything."""
    for one in ("1.1.1.1", "9.9.9.9", "91.212.89.1", "2a00:1450:4010::1", PUBLIC):
        assert is_public(ip_address(one)), one
