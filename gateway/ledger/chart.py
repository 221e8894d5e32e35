"""The chart of accounts: what may be posted to, and what kind of account it is."""

from typing import Literal

import msgspec

Kind = Literal["asset", "liability", "income", "expense"]


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the chart. A name that ends in `:*` stands for all that begin so."""

    name: str
    kind: Kind
    title: str


class Chart:
    """Finds the line of an account."""

    def __init__(self, accounts: list[Account]) -> None:
        self._by_name = {one.name: one for one in accounts}

    def of(self, account: str) -> Account | None:
        """Return the line of an account, or None: nothing may be posted to it."""
        exact = self._by_name.get(account)
        return exact or self._by_name.get(f"{account.split(':', 1)[0]}:*")


def read_chart(text: bytes) -> Chart:
    """Read JSON of `{"accounts": [...]}`. Raises msgspec.ValidationError."""
    return Chart(
        msgspec.json.decode(text, type=dict[Literal["accounts"], list[Account]])["accounts"]
    )
