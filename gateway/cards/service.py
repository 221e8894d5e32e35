"""The use cases of cards: add, verify, show, delete.

The issuer is asked before anything is written, and no transaction is open while it thinks. A
number is open only between the request, or the vault, and the connector.
"""

import re
from collections.abc import Awaitable, Callable, Mapping

import asyncpg
from msgspec import UNSET

from connectors.spi import CardCheck, CardData, CardLink, Connector, Outcome, Pan
from gateway.cards import store
from gateway.cards.directory import Directory, pan_binding, token_binding
from gateway.cards.model import ACTIVE, AddCard, Card, Waiting, Wanted
from gateway.cards.store import millis, moment
from gateway.cards.tries import Tries
from gateway.core import Core, is_pan, rfc3339, year_month
from gateway.identity.challenges import locked
from gateway.identity.codes import Codes, is_same
from gateway.identity.messenger import Messenger
from gateway.identity.phones import normalise
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.kernel.vault import Vault
from gateway.settings import Cards, Identity

_EXPIRY = re.compile(r"([0-9]{2})-(0[1-9]|1[0-2])\Z")
_DAY_MS = 86_400_000

PhoneOf = Callable[[str], Awaitable[str]]
"""Returns a customer's phone (E.164); raises LookupError for who is no customer."""


class CardService:
    """Everything a customer may do with cards.

    Args:
        connectors: the processors that are switched on, by scheme.
        identity: how long codes live and how many wrong ones lock.
        tries: bounds the numbers that a customer tries.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        clock: Clock,
        vault: Vault,
        directory: Directory,
        connectors: Mapping[str, Connector],
        codes: Codes,
        messenger: Messenger,
        phone_of: PhoneOf,
        settings: Cards,
        identity: Identity,
        tries: Tries,
    ) -> None:
        self._pool = pool
        self._core = core
        self._clock = clock
        self._vault = vault
        self._directory = directory
        self._connectors = connectors
        self._codes = codes
        self._messenger = messenger
        self._phone_of = phone_of
        self._settings = settings
        self._identity = identity
        self._tries = tries

    # Adding.

    async def add(self, owner: str, body: AddCard) -> Card:
        """Add a card that waits for a code; again, while it waits, sends another code.

        Raises:
            Problem: `invalid-cvv`, `invalid-pan`, `unsupported-scheme`, `invalid-expiry`,
                `insufficient-scope`, `card-already-added`, `otp-locked`, `card-limit-reached`,
                `rate-limited`, `processor-unavailable`, `card-refused`.
        """
        now_ms = self._clock()
        wanted = self._wanted(body, now_ms)
        phone = await self._phone(owner)
        known = await self._pool.fetchrow(store.FIND, owner, wanted.lookup)
        if known is None:
            self._check_count(await self._pool.fetchval(store.COUNT, owner))
            card_id = new_id("card_", now_ms)
        else:
            await self._check_known(known, now_ms)
            card_id = known["id"]
        await self._tries.begin(owner, wanted.lookup)
        check = await self._ask_issuer(owner, wanted, phone, card_id)
        code = self._codes.new() if check.challenge is None else None
        row = await self._write(owner, card_id, wanted, check.challenge, code)
        if code is not None:
            text = f"Oqim: {code} adds the card *{wanted.pan.last4}. Tell it to nobody."
            await self._messenger.send(to=phone, text=text, code=code)
        return _shown(row)

    def _wanted(self, body: AddCard, now_ms: int) -> Wanted:
        if body.cvv is not UNSET:
            raise _bad("invalid-cvv", "/cvv", "Leave the security code out; it is never needed.")
        if not is_pan(body.pan):
            raise _bad("invalid-pan", "/pan", "Give the 12 to 19 digits of the card, no spaces.")
        scheme = self._core.scheme_of(body.pan)
        if scheme is None or scheme not in self._connectors:
            raise _bad("unsupported-scheme", "/pan", "No scheme that is supported has this card.")
        found = _EXPIRY.match(body.expiry)
        if found is None:
            raise _bad("invalid-expiry", "/expiry", "Give the expiry as YY-MM.")
        if (2000 + int(found[1]), int(found[2])) < year_month(now_ms):
            raise _bad("invalid-expiry", "/expiry", "The card has expired.")
        expiry = found[1] + found[2]
        return Wanted(Pan(body.pan), scheme, expiry, self._core.lookup_of(body.pan))

    async def _phone(self, owner: str) -> str:
        try:
            return await self._phone_of(owner)
        except LookupError:
            raise Problem("insufficient-scope", "Only customers have cards.") from None

    def _check_count(self, count: int) -> None:
        if count >= self._settings.per_user_max:
            detail = f"There may be {self._settings.per_user_max} cards; remove one first."
            raise Problem("card-limit-reached", detail)

    async def _check_known(self, row: asyncpg.Record, now_ms: int) -> None:
        """Refuse a card that need not, or may not now, be sent another code."""
        if row["status"] == ACTIVE:
            raise Problem("card-already-added", "This card is among the customer's cards.")
        self._check_lock(row, now_ms)
        if row["locked_until"] is None and row["code_sends"] >= self._settings.code_sends_max:
            until_ms = self._lock_end(now_ms)
            await self._pool.execute(store.LOCK_SENDS, row["id"], moment(until_ms))
            raise locked(until_ms - now_ms)

    def _check_lock(self, row: asyncpg.Record, now_ms: int) -> None:
        wait_ms = millis(row["locked_until"]) - now_ms
        if wait_ms > 0:
            raise locked(wait_ms)

    def _lock_end(self, now_ms: int) -> int:
        return now_ms + self._identity.code_lock_s * 1_000

    async def _ask_issuer(self, owner: str, wanted: Wanted, phone: str, card_id: str) -> CardCheck:
        card = CardData(scheme=wanted.scheme, pan=wanted.pan, expiry=wanted.expiry)
        connector = self._connectors[wanted.scheme]
        check = await connector.check_card(card, phone=phone, reference=card_id)
        outcome = check.outcome
        is_another = check.phone is not None and normalise(check.phone) != phone
        if outcome.is_approved and is_another:
            outcome = Outcome.OWNER_MISMATCH
        if not (outcome.is_approved or _is_unavailable(outcome)):
            await self._tries.refuse(owner)
        _raise_unless_approved(outcome)
        return check

    async def _write(
        self, owner: str, card_id: str, wanted: Wanted, challenge: str | None, code: str | None
    ) -> asyncpg.Record:
        now_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(store.LOCK_OWNER, owner)
            # The same card may have been added while the issuer was asked.
            known = await connection.fetchrow(store.FIND, owner, wanted.lookup)
            if known is not None:
                if known["status"] == ACTIVE:
                    await self._check_known(known, now_ms)
                waiting = self._waiting(known["id"], challenge, code, now_ms)
                return await store.ask_again(
                    connection, card_id=known["id"], wanted=wanted, waiting=waiting
                )
            self._check_count(await connection.fetchval(store.COUNT, owner))
            return await store.add(
                connection,
                card_id=card_id,
                owner=owner,
                wanted=wanted,
                pan_sealed=self._vault.seal(wanted.pan.reveal(), bound_to=pan_binding(card_id)),
                waiting=self._waiting(card_id, challenge, code, now_ms),
                now_ms=now_ms,
            )

    def _waiting(
        self, card_id: str, challenge: str | None, code: str | None, now_ms: int
    ) -> Waiting:
        if code is None:
            return Waiting(challenge, None, None)
        code_hash = self._codes.hash(code, bound_to=card_id)
        return Waiting(None, code_hash, now_ms + self._identity.code_ttl_s * 1_000)

    # Verifying.

    async def verify(self, owner: str, card_id: str, code: str) -> Card:
        """Make a card active by the code that was sent.

        Raises:
            Problem: `not-found`, `invalid-state`, `otp-locked`, `otp-expired`, `otp-invalid`,
                `processor-unavailable`, `card-refused`.
        """
        now_ms = self._clock()
        row = await self._row(owner, card_id)
        self._verify_check(row, now_ms)
        lock_until = moment(self._lock_end(now_ms))
        tries_max = self._identity.code_tries_max
        taken = await self._pool.fetchrow(
            store.TAKE_TRY, card_id, tries_max, lock_until, moment(now_ms)
        )
        if taken is None:
            # Another request verified, locked or deleted it meanwhile.
            self._verify_check(await self._row(owner, card_id), now_ms)
            raise locked(self._identity.code_lock_s * 1_000)
        if taken["challenge"] is None:
            sent = taken["code_hash"] or b""
            if not is_same(sent, self._codes.hash(code, bound_to=card_id)):
                raise _wrong_code()
        link = await self._link(taken, code.strip())
        if _is_unavailable(link.outcome):
            await self._pool.execute(store.GIVE_TRY_BACK, card_id, tries_max, lock_until)
        _raise_unless_approved(link.outcome)
        return await self._activate(owner, card_id, link)

    def _verify_check(self, row: asyncpg.Record, now_ms: int) -> None:
        if row["status"] == ACTIVE:
            raise Problem("invalid-state", "The card is active already.")
        self._check_lock(row, now_ms)
        expires_at = row["code_expires_at"]
        if expires_at is not None and millis(expires_at) <= now_ms:
            raise Problem("otp-expired", "Add the card again to be sent another code.")

    async def _link(self, row: asyncpg.Record, code: str) -> CardLink:
        pan = Pan(self._vault.open(row["pan_sealed"], bound_to=pan_binding(row["id"])))
        card = CardData(scheme=row["scheme"], pan=pan, expiry=row["expiry"])
        connector = self._connectors.get(row["scheme"])
        if connector is None:
            raise Problem("processor-unavailable", "The card's processor is switched off.")
        return await connector.link_card(card, challenge=row["challenge"], code=code)

    async def _activate(self, owner: str, card_id: str, link: CardLink) -> Card:
        token = None
        if link.token is not None:
            token = self._vault.seal(link.token, bound_to=token_binding(card_id))
        row = await self._pool.fetchrow(store.ACTIVATE, card_id, token)
        if row is None:
            self._verify_check(await self._row(owner, card_id), self._clock())
            raise Problem("invalid-state", "The card was changed meanwhile; read it again.")
        self._directory.forget_card(card_id)
        return _shown(row)

    # Showing and deleting.

    async def get(self, owner: str, card_id: str) -> Card:
        """Return a card. Raises Problem `not-found`, also for another owner's."""
        return _shown(await self._row(owner, card_id))

    async def page(self, owner: str, *, before: str | None, limit: int) -> list[Card]:
        """Return up to `limit` of an owner's cards older than `before`, the newest first."""
        return [_shown(row) for row in await self._pool.fetch(store.LIST, owner, before, limit)]

    async def delete(self, owner: str, card_id: str) -> None:
        """Take a card from its owner. Its number stays sealed while payments may need it."""
        deleted = await self._pool.fetchval(store.DELETE, card_id, owner, moment(self._clock()))
        if deleted is None:
            raise _not_found()
        self._directory.forget_card(card_id)
        await self.purge()

    async def purge(self) -> int:
        """Overwrite the numbers of cards deleted long enough ago; returns how many."""
        kept_ms = self._settings.deleted_number_kept_days * _DAY_MS
        rows = await self._pool.fetch(store.PURGE, moment(self._clock() - kept_ms))
        for row in rows:
            self._directory.forget_card(row["id"])
        return len(rows)

    async def _row(self, owner: str, card_id: str) -> asyncpg.Record:
        row = await self._pool.fetchrow(store.GET, card_id, owner)
        if row is None:
            raise _not_found()
        return row


def _shown(row: asyncpg.Record) -> Card:
    return Card(
        row["id"],
        row["scheme"],
        row["bin"],
        row["last4"],
        f"{row['expiry'][:2]}-{row['expiry'][2:]}",
        row["status"],
        rfc3339(millis(row["created_at"])),
    )


def _is_unavailable(outcome: Outcome) -> bool:
    """Whether the processor said nothing about the card itself."""
    return not outcome.is_approved and (outcome.is_unknown or outcome.retry_same_key_ok)


def _raise_unless_approved(outcome: Outcome) -> None:
    if outcome.is_approved:
        return
    if outcome is Outcome.OTP_WRONG:
        raise _wrong_code()
    if outcome is Outcome.OTP_EXPIRED:
        raise Problem("otp-expired", "Add the card again to be sent another code.")
    if _is_unavailable(outcome):
        detail = "The card's processor did not answer; try again in a moment."
        raise Problem("processor-unavailable", detail)
    raise _refused(outcome)


def _refused(outcome: Outcome) -> Problem:
    return Problem("card-refused", f"The issuer does not let this card be added: {outcome.code}.")


def _wrong_code() -> Problem:
    return Problem("otp-invalid", "Enter the code that was sent last.")


def _not_found() -> Problem:
    return Problem("not-found", "There is no such card.")


def _bad(slug: str, pointer: str, detail: str) -> Problem:
    return Problem(slug, detail, errors=((pointer, detail),))
