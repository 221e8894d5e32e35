"""The day's central-bank rate: one currency's minor units in another's, exactly.

A rate says how many UZS the `nominal` units of a currency are worth from its date on; UZS is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

BASE = "UZS"
MINOR_UNITS_MAX = 2**63 - 1
AGE_MAX = timedelta(days=14)

# ISO 4217, where it is not a hundred.
_MINOR_UNITS_IN_ONE = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 1),
    **dict.fromkeys(("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 1),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 1000),
    **dict.fromkeys(("CLF", "UYW"), 10_000),
}


class NoRate(Exception):
    """No rate of that day, nor of the days before it that would still do."""


class OutOfRange(Exception):
    """An amount of more minor units than an amount may have."""


def minor_units(rates: Iterable[Mapping[str, Any]], currency: str, to: str, day: date) -> Fraction:
    """Return how many minor units of `to` one minor unit of `currency` is on a day in Tashkent.

    Raises:
        NoRate: one of the two has none.
    """
    if currency == to:
        return Fraction(1)
    known = list(rates)
    return _unit_worth(known, currency, day) / _unit_worth(known, to, day)


def _unit_worth(rates: Iterable[Mapping[str, Any]], currency: str, day: date) -> Fraction:
    """Return what one minor unit is worth in UZS."""
    return _worth(rates, currency, day) / _MINOR_UNITS_IN_ONE.get(currency, 100)


def _worth(rates: Iterable[Mapping[str, Any]], currency: str, day: date) -> Fraction:
    if currency == BASE:
        return Fraction(1)
    usable: dict[date, Fraction] = {
        date.fromisoformat(rate["date"]): Fraction(rate["rate"]) / rate["nominal"]
        for rate in rates
        if rate["currency"] == currency
        and timedelta(0) <= day - date.fromisoformat(rate["date"]) <= AGE_MAX
    }
    if not usable:
        raise NoRate(currency)
    return usable[max(usable)]
