"""What must be true of a payment, worked out apart from the product.

Commissions are computed here from the configured plans with fractions, the names of messages from
the protocol's own rules, and the processor's ledger is the judge of what was charged. Nothing here
imports the product.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.house import House, Reply, new_key

CONFIG = Path(__file__).resolve().parents[2] / "config"
SCHEMES = ("uzcard", "humo", "visa")
_amounts = itertools.count(1)

# What a processor took and kept: the card is charged.
CHARGED = frozenset({"approved", "captured", "refunded"})


def fresh_amount(base: int = 1_000_000) -> int:
    """Return an amount no other test asks for, odd in the last digits so that rounding matters."""
    return base + next(_amounts) * 1009


# Commissions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Charge:
    """A commission and who carries it; minor units."""

    plan: str
    total: int
    vat: int
    payer: str

    def debit(self, amount: int) -> int:
        """Return what the source pays."""
        return amount + self.total if self.payer == "sender" else amount

    def credit(self, amount: int) -> int:
        """Return what the destination receives."""
        return amount - self.total if self.payer == "receiver" else amount


def charge(operation: str, source_scheme: str | None, amount: int) -> Charge:
    """Return the commission of a payment by `config/commissions.toml`."""
    plans = tomllib.loads((CONFIG / "commissions.toml").read_text())["commission_plans"]
    values = {"operation": operation, "source_scheme": source_scheme}
    fitting = [
        plan
        for plan in plans
        if all(not wanted or values.get(key) in wanted for key, wanted in plan["match"].items())
    ]
    plan = max(fitting, key=lambda one: int(one["priority"]))
    total = vat_total = 0
    for component in plan.get("components", []):
        amount_minor = _component(component, amount)
        vat = _rounded(
            Fraction(amount_minor) * Fraction(component.get("vat_percent", "0")) / 100,
            component.get("rounding", "half_up"),
        )
        total += amount_minor + vat
        vat_total += vat
    return Charge(plan["id"], total, vat_total, plan["payer"])


def _component(component: dict[str, Any], amount: int) -> int:
    if component["kind"] == "fixed":
        return int(component["amount"])
    assert component["kind"] == "percent", "the sandbox's plans have no tiers"
    exact = Fraction(amount) * Fraction(component["percent"]) / 100
    rounded = _rounded(exact, component.get("rounding", "half_up"))
    return min(max(rounded, int(component.get("min", 0))), int(component.get("max", 10**18)))


def _rounded(exact: Fraction, rule: str) -> int:
    whole, rest = divmod(exact.numerator, exact.denominator)
    if rule == "up":
        return whole + (rest > 0)
    assert rule == "half_up", "the sandbox's plans round so or up"
    return whole + (2 * rest >= exact.denominator)


# Cards --------------------------------------------------------------------------------------------

_PREFIXES = {"visa": "424201", "humo": "986001", "uzcard": "860001"}


def pan(scheme: str, user: int) -> str:
    """Return the number of a seeded user's card."""
    digits = f"{_PREFIXES[scheme]}{user + 1:09}"
    total = 0
    for position, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if position % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return digits + str(-total % 10)


# The processors' ledgers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """An attempt as the gateway keeps it."""

    id: str
    connector: str
    kind: str
    state: str
    rrn_made: str
    hold_id: str | None


def visa_rrn(sequence: int, created_at_ms: int) -> str:
    """Return F37 as the protocol makes it: YDDDHH in UTC, then F11."""
    moment = datetime.fromtimestamp(created_at_ms / 1000, tz=UTC)
    day = moment.timetuple().tm_yday
    return f"{moment.year % 10}{day:03d}{moment.hour:02d}{1 + sequence % 999_999:06d}"


async def attempts_of(house: House, *payment_ids: str) -> dict[str, list[Sent]]:
    """Return the attempts of payments, in the order of their legs."""
    rows = await house.rows(
        """
        SELECT id, payment_id, connector, kind, state, sequence, created_at_ms, processor_references
        FROM attempts WHERE payment_id = ANY($1::text[]) ORDER BY id
        """,
        list(payment_ids),
    )
    found: dict[str, list[Sent]] = {one: [] for one in payment_ids}
    for row in rows:
        references = json.loads(row["processor_references"] or "{}")
        found[row["payment_id"]].append(
            Sent(
                row["id"],
                row["connector"],
                row["kind"],
                row["state"],
                visa_rrn(row["sequence"], row["created_at_ms"]),
                references.get("hold_id"),
            )
        )
    return found


async def entries_of(house: House, attempt: Sent, amount: int) -> list[dict[str, Any]]:
    """Return what the processor holds of an attempt.

    Args:
        amount: by which a UZCARD hold is found that has no name known to us.
    """
    if attempt.connector == "visa":
        return await house.ledger("visa", attempt.rrn_made)
    if attempt.connector == "uzcard" and attempt.kind == "hold":
        if attempt.hold_id is not None:
            return await house.ledger("uzcard", attempt.hold_id)
        entries = await house.ledger("uzcard")
        return [one for one in entries if one["kind"] == "hold" and one["amount"] == amount]
    return await house.ledger(attempt.connector, attempt.id)


async def entries(house: House, payment: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the processors hold of a payment, over all its attempts."""
    sent = (await attempts_of(house, payment["id"]))[payment["id"]]
    found = []
    for attempt in sent:
        found += await entries_of(house, attempt, payment["total_debit"])
    return found


# The gateway's books ------------------------------------------------------------------------------


async def postings(house: House, entry_id: str) -> Counter[str]:
    """Return an entry's postings by account; they must sum to zero in one currency."""
    rows = await house.rows(
        "SELECT account, amount_minor, currency FROM postings WHERE entry_id = $1", entry_id
    )
    by_account: Counter[str] = Counter()
    for row in rows:
        by_account[row["account"]] += row["amount_minor"]
    assert sum(by_account.values()) == 0, f"{entry_id}: {dict(by_account)} does not sum to zero"
    assert {row["currency"] for row in rows} <= {"UZS"}, f"{entry_id}: another currency"
    return Counter({account: amount for account, amount in by_account.items() if amount != 0})


def expected_postings(source: str, destination: str, asked: Charge, amount: int) -> Counter[str]:
    """Return the postings of a payment or capture: debit positive, credit negative."""
    lines = Counter(
        {
            "commission:income": -(asked.total - asked.vat),
            "vat:payable": -asked.vat,
            "commission:borne": asked.total if asked.payer == "bank" else 0,
        }
    )
    lines[source] += asked.debit(amount)
    lines[destination] -= asked.credit(amount)
    return Counter({account: value for account, value in lines.items() if value != 0})


async def events(house: House, payment_id: str) -> list[str]:
    """Return the types of a payment's events, in order."""
    rows = await house.rows(
        "SELECT type FROM outbox WHERE payment_id = $1 ORDER BY sequence", payment_id
    )
    return [row["type"] for row in rows]


async def conflicts(house: House, payment_id: str) -> list[str]:
    """Return what is kept of a payment for an operator."""
    rows = await house.rows("SELECT detail FROM conflicts WHERE payment_id = $1", payment_id)
    return [row["detail"] for row in rows]


async def payments_count(house: House) -> int:
    """Return how many payments were ever opened."""
    return int((await house.rows("SELECT count(*) FROM payments"))[0][0])


# Calls --------------------------------------------------------------------------------------------


async def post(
    house: House, user: int, path: str, body: Any = None, *, key: str | None = None
) -> Reply:
    """POST as a seeded user, under a key of its own unless one is given."""
    token = house.user(user)["access_token"]
    return await house.call("POST", path, body, token=token, key=key or new_key())


async def hold(house: House, user: int, scheme: str, amount: int) -> dict[str, Any]:
    """Hold an amount on a card; it must succeed."""
    reply = await house.pay(user, house.purchase(user, scheme, amount, capture="manual"))
    assert reply.status == 201, reply.raw
    assert reply.body["status"] == "requires_capture", reply.raw
    payment: dict[str, Any] = reply.body
    return payment


async def paid(house: House, user: int, scheme: str, amount: int) -> dict[str, Any]:
    """Purchase at the seeded merchant; it must succeed."""
    reply = await house.pay(user, house.purchase(user, scheme, amount))
    assert reply.status == 201, reply.raw
    assert reply.body["status"] == "succeeded", reply.raw
    payment: dict[str, Any] = reply.body
    return payment


async def read(house: House, user: int, payment_id: str) -> dict[str, Any]:
    """Return a payment as the API shows it now."""
    token = house.user(user)["access_token"]
    reply = await house.call("GET", f"/v1/payments/{payment_id}", token=token)
    assert reply.status == 200, reply.raw
    payment: dict[str, Any] = reply.body
    return payment


async def headroom(
    house: House, user: int, scheme: str, policy: str, operation: str = "purchase"
) -> dict[str, Any]:
    """Return one policy's headroom for a card."""
    card = house.user(user)["cards"][scheme]
    token = house.user(user)["access_token"]
    reply = await house.call("GET", f"/v1/limits?card={card}&operation={operation}", token=token)
    assert reply.status == 200, reply.raw
    (found,) = [one for one in reply.body["limits"] if one["policy"] == policy]
    return dict(found)
