"""Journal entries of reconciliation: a day's settlement, and what two operators post. Pure.

settlement:<connector>      + what the processor owes us, less its fee
processor-fee:<connector>   + its fee
processor:<connector>       - what it owed us
"""

from dataclasses import dataclass

from gateway.kernel.http.problems import Problem
from gateway.ledger.chart import Chart
from gateway.reconciliation.model import PostingBody


@dataclass(frozen=True, slots=True)
class Line:
    """One posting. Debit positive, credit negative; minor units."""

    account: str
    amount_minor: int
    currency: str


def settlement(connector: str, currency: str, net_minor: int, fee_minor: int) -> list[Line]:
    """Return the lines that move what a processor owes us to its settlement."""
    lines = [
        Line(f"settlement:{connector}", net_minor - fee_minor, currency),
        Line(f"processor-fee:{connector}", fee_minor, currency),
        Line(f"processor:{connector}", -net_minor, currency),
    ]
    if sum(one.amount_minor for one in lines) != 0:
        raise AssertionError(f"{connector}: the settlement does not sum to zero")
    return [one for one in lines if one.amount_minor != 0]


def checked(postings: list[PostingBody], chart: Chart) -> list[Line]:
    """Return an operator's postings as lines of an entry.

    Raises:
        Problem: schema-violation: an account is not in the chart, a line moves nothing, or they
            do not sum to zero in each currency.
    """
    errors = []
    sums: dict[str, int] = {}
    for place, one in enumerate(postings):
        if chart.of(one.account) is None:
            errors.append((f"/postings/{place}/account", "Must be in the chart of accounts."))
        if one.amount == 0:
            errors.append((f"/postings/{place}/amount", "Must not be zero."))
        sums[one.currency] = sums.get(one.currency, 0) + one.amount
    if not postings:
        errors.append(("/postings", "Must say what is posted."))
    if any(sums.values()):
        errors.append(("/postings", "Must sum to zero in each currency."))
    if errors:
        detail = "The postings are no journal entry."
        raise Problem("schema-violation", detail, errors=tuple(errors))
    return [Line(one.account, one.amount, one.currency) for one in postings]
