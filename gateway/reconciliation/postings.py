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


def is_even(lines: list[Line]) -> bool:
    """Whether lines sum to zero in each currency."""
    sums: dict[str, int] = {}
    for one in lines:
        sums[one.currency] = sums.get(one.currency, 0) + one.amount_minor
    return not any(sums.values())


def settlement(connector: str, currency: str, net_minor: int, fee_minor: int) -> list[Line]:
    """Return the lines that move what a processor owes us to its settlement."""
    lines = [
        Line(f"settlement:{connector}", net_minor - fee_minor, currency),
        Line(f"processor-fee:{connector}", fee_minor, currency),
        Line(f"processor:{connector}", -net_minor, currency),
    ]
    return [one for one in lines if one.amount_minor != 0]


def checked(postings: list[PostingBody], chart: Chart) -> list[Line]:
    """Return an operator's postings as lines of an entry.

    Raises:
        Problem: schema-violation: an account is not in the chart, a line moves nothing, or they
            do not sum to zero in each currency.
    """
    errors = []
    lines = [Line(one.account, one.amount, one.currency) for one in postings]
    for place, one in enumerate(postings):
        if chart.of(one.account) is None:
            errors.append((f"/postings/{place}/account", "Must be in the chart of accounts."))
        if one.amount == 0:
            errors.append((f"/postings/{place}/amount", "Must not be zero."))
    if not postings:
        errors.append(("/postings", "Must say what is posted."))
    if not is_even(lines):
        errors.append(("/postings", "Must sum to zero in each currency."))
    if errors:
        detail = "The postings are no journal entry."
        raise Problem("schema-violation", detail, errors=tuple(errors))
    return lines
