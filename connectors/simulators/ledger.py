"""What a processor holds to have happened: one entry a money operation, and the cards it moved.

An entry is written to the journal before its reply leaves. A card's balance is always its last set
balance plus the effects of its entries, so that the journal rebuilds both.
"""

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from connectors.simulators.clock import SimClock, rfc3339
from connectors.simulators.journal import Journal, JournalError
from connectors.simulators.pans import is_accepted, masked, pan_of, token_of

BALANCE_DEFAULT = 10**13
SHOWN_KINDS = frozenset({"purchase", "hold", "debit", "credit"})


class Account(msgspec.Struct, gc=False):
    """One card and its money, in minor units. `repr` shows the last four digits alone."""

    pan: str
    token: str
    masked: str
    balance: int = BALANCE_DEFAULT
    expiry: str = ""
    phone: str = ""
    status: str = "active"

    def __repr__(self) -> str:
        return f"<Account ..{self.masked[-4:]}>"


class CardSetting(msgspec.Struct, omit_defaults=True):
    """What `POST /_sim/cards` set, as the journal keeps it."""

    token: str
    balance: int
    expiry: str = ""
    phone: str = ""
    status: str = "active"


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One operation of a scheme; each scheme adds its own fields.

    Attributes:
        ref: the client's key where the protocol carries one, else what names the operation.
        kind: `purchase | hold | debit | credit`; other kinds are inner and never shown.
        amount: minor units debited (fee included) or credited.
        state: `pending | approved | captured | declined | released | reversed | refunded`.
        account: token of the card moved.
        code: the processor's code when declined.
        expires_ms: when an unfinished operation lets go of its money; 0 is never.
        parent: number of the entry that a refund gives back, for inner kinds.
        number: position in the ledger, -1 before it was saved.
        moved: what this entry has done to its card's balance so far.
        is_expired: it was released by its time and not by a message.
        done_ms: when its money was taken or given; 0 is never.
        undone_ms: when all of it was undone; 0 is never.
    """

    ref: str
    kind: str
    amount: int
    state: str
    account: str
    pan_last4: str
    rrn: str = ""
    currency: str = "UZS"
    captured_amount: int = 0
    refunded_amount: int = 0
    created_ms: int = 0
    capture_ref: str = ""
    code: str = ""
    expires_ms: int = 0
    parent: int = -1
    number: int = -1
    moved: int = 0
    is_expired: bool = False
    done_ms: int = 0
    undone_ms: int = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} {self.kind} {self.state}>"


E = TypeVar("E", bound=Entry)


def effect(entry: Entry) -> int:
    """Return what `entry`, in its present state, does to its card's balance."""
    state = entry.state
    if state in ("declined", "released", "reversed"):
        return 0
    if entry.kind == "credit":
        return 0 if state == "pending" else entry.amount - entry.refunded_amount
    if entry.kind not in SHOWN_KINDS:
        return 0
    taken = entry.amount if state in ("pending", "approved") else entry.captured_amount
    return entry.refunded_amount - taken


class Ledger(Generic[E]):
    """Entries and accounts of one scheme, in memory, with their journal.

    Args:
        entry_type: the scheme's own entry.
        bins: which cards the scheme knows.
        path: the journal's file.

    Raises:
        JournalError: the journal is held elsewhere or damaged.
    """

    def __init__(
        self, entry_type: type[E], bins: tuple[str, ...], path: Path, clock: SimClock
    ) -> None:
        self.entries: list[E] = []
        self.clock = clock
        self._bins = bins
        self._accounts: dict[str, Account] = {}
        self._by_token: dict[str, Account] = {}
        self._refs: dict[str, list[int]] = {}
        self._expiring: list[tuple[int, int]] = []
        self._entry_type = entry_type
        self._encoder = msgspec.json.Encoder()
        self._journal = Journal(path)

    # -- cards ---------------------------------------------------------------------------------

    def account(self, pan: str) -> Account | None:
        """Return the card's account, made on first sight; None when it is no card of ours."""
        account = self._accounts.get(pan)
        if account is None and is_accepted(pan, self._bins):
            account = Account(pan=pan, token=token_of(pan), masked=masked(pan))
            self._accounts[pan] = self._by_token[account.token] = account
        return account

    def account_by_token(self, token: str) -> Account | None:
        """Return the account that a token names; None when no such token was given out."""
        account = self._by_token.get(token)
        if account is None:
            pan = pan_of(token)
            account = None if pan is None else self.account(pan)
        return account

    def set_card(self, account: Account) -> None:
        """Keep the card's settings, changed in place by the caller, in the journal."""
        setting = CardSetting(
            token=account.token,
            balance=account.balance,
            expiry=account.expiry,
            phone=account.phone,
            status=account.status,
        )
        self._journal.append(self._encoder.encode({"card": setting}))

    # -- entries -------------------------------------------------------------------------------

    def save(self, *entries: E) -> None:
        """Record entries, new or changed, and move their money: all of them or none.

        Notes: an entry whose `number` is already taken replaces what stood there.
        """
        for entry in entries:
            if entry.number < 0:
                entry.number = len(self.entries)
                self.entries.append(entry)
                self._refs.setdefault(entry.ref, []).append(entry.number)
            else:
                self.entries[entry.number] = entry
            if entry.captured_amount and not entry.done_ms:
                entry.done_ms = self.clock.now_ms()
            if entry.state == "reversed" and not entry.undone_ms:
                entry.undone_ms = self.clock.now_ms()
            moved = effect(entry)
            if moved != entry.moved:
                self._by_token[entry.account].balance += moved - entry.moved
                entry.moved = moved
            if entry.expires_ms and entry.state in ("pending", "approved"):
                heapq.heappush(self._expiring, (entry.expires_ms, entry.number))
        self._journal.append(self._encoder.encode({"entries": entries}))

    def sweep(self) -> None:
        """Release what is past its time. Cheap when nothing is."""
        expiring = self._expiring
        if not expiring:
            return
        now = self.clock.now_ms()
        while expiring and expiring[0][0] <= now:
            expires_ms, number = heapq.heappop(expiring)
            entry = self.entries[number]
            if entry.expires_ms == expires_ms and entry.state in ("pending", "approved"):
                entry.state = "released"
                entry.is_expired = True
                self.save(entry)

    def reset(self) -> None:
        """Forget every entry and account."""
        self.entries.clear()
        self._accounts.clear()
        self._by_token.clear()
        self._refs.clear()
        self._expiring.clear()
        self._journal.clear()

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    # -- reading back --------------------------------------------------------------------------

    def view(self, *, ref: str | None, limit: int | None, offset: int) -> list[dict[str, Any]]:
        """List the shown entries, oldest first. Args: ref narrows to one client's key."""
        self.sweep()
        found: Iterable[E] = self.entries
        if ref is not None:
            found = [self.entries[number] for number in self._refs.get(ref, ())]
        shown = [entry for entry in found if entry.kind in SHOWN_KINDS]
        end = None if limit is None else offset + limit
        return [_shown(entry) for entry in shown[offset:end]]

    def load(self, on_entry: Callable[[E], None]) -> None:
        """Rebuild from the journal, then hand each entry to `on_entry`, in order."""
        cards = msgspec.json.Decoder(CardSetting)
        entries = msgspec.json.Decoder(list[self._entry_type])  # type: ignore[name-defined] # a runtime type
        outer = msgspec.json.Decoder(dict[str, msgspec.Raw])
        for line_number, line in self._journal.lines():
            try:
                document = outer.decode(line)
                if "card" in document:
                    self._load_card(cards.decode(document["card"]))
                else:
                    for entry in entries.decode(document["entries"]):
                        self._load_entry(entry)
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError) as error:
                if self._journal.cut_at_line(line_number):
                    break
                raise JournalError(
                    f"{self._journal.path} line {line_number} is damaged and is not the last"
                ) from error
        for entry in self.entries:
            if entry.expires_ms and entry.state in ("pending", "approved"):
                self._expiring.append((entry.expires_ms, entry.number))
            on_entry(entry)
        heapq.heapify(self._expiring)

    def _load_card(self, setting: CardSetting) -> None:
        account = self.account_by_token(setting.token)
        if account is None:
            raise KeyError("card")
        account.balance = setting.balance
        account.expiry = setting.expiry
        account.phone = setting.phone
        account.status = setting.status

    def _load_entry(self, entry: E) -> None:
        moved_before = 0
        if entry.number == len(self.entries):
            self.entries.append(entry)
            self._refs.setdefault(entry.ref, []).append(entry.number)
        else:
            moved_before = self.entries[entry.number].moved
            self.entries[entry.number] = entry
        if entry.account:
            account = self.account_by_token(entry.account)
            if account is None:
                raise KeyError("account")
            account.balance += entry.moved - moved_before


def _shown(entry: Entry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "ref": entry.ref,
        "kind": entry.kind,
        "amount": entry.amount,
        "state": entry.state,
        "captured_amount": entry.captured_amount,
        "refunded_amount": entry.refunded_amount,
        "rrn": entry.rrn,
        "currency": entry.currency,
        "pan_last4": entry.pan_last4,
        "created_at": rfc3339(entry.created_ms),
    }
    if entry.capture_ref:
        shown["capture_ref"] = entry.capture_ref
    if entry.code:
        shown["code"] = entry.code
    return shown
