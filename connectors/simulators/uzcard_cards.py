"""SVGate's methods about cards: linking with a one-time code, card data, balances."""

from dataclasses import dataclass
from random import Random
from typing import Any

from connectors.simulators import uzcard_params as params
from connectors.simulators.clock import rfc3339
from connectors.simulators.ledger import Account
from connectors.simulators.uzcard_book import Book
from connectors.simulators.uzcard_codes import card_status, refusal_of_status
from connectors.simulators.uzcard_money import Refused

CODE_LIFE_MS = 180_000
CODE_TRIES_MAX = 3
LOCK_MS = 15 * 60_000
MESSAGES_KEPT_MAX = 10_000


@dataclass(slots=True)
class Challenge:
    """A one-time code that was sent, in memory alone. `repr` shows neither card nor code."""

    account: Account
    code: str
    expires_ms: int
    tries: int = 0
    is_used: bool = False

    def __repr__(self) -> str:
        return "<Challenge>"


class Cards:
    """The card methods over one book, and the text messages they would have sent."""

    def __init__(self, book: Book, seed: int) -> None:
        self._book = book
        self._random = Random(seed)
        self._challenges: dict[int, Challenge] = {}
        self._locked_until: dict[str, int] = {}
        self._messages: list[dict[str, str]] = []

    def clear(self) -> None:
        """Forget codes, locks and messages."""
        self._challenges.clear()
        self._locked_until.clear()
        self._messages.clear()

    def messages(self, to: str | None) -> list[dict[str, str]]:
        """List the messages sent, oldest first. Args: to narrows to one phone, `+998...`."""
        return [message for message in self._messages if to is None or message["to"] == to]

    def new_otp(self, request: params.CardsNewOtp, decline: int, shift: int) -> dict[str, Any]:
        """`cards.new.otp`: send a 6-digit code to the card's phone, or to the requestor's."""
        card = request.card
        account = self._book.ledger.account(card.pan)
        if account is None:
            raise Refused(-200)
        _refuse_if(decline)
        self._refuse_if_locked(account)
        _refuse_if(refusal_of_status(account.status))
        if not (len(card.expiry) == 4 and card.expiry.isascii() and card.expiry.isdigit()):
            raise Refused(-103)
        if account.expiry and account.expiry != card.expiry:
            raise Refused(-202)
        if self._book.clock.is_past_expiry(card.expiry):
            raise Refused(-201)
        phone = request.requestorPhone.removeprefix("+")
        phone = f"+{phone}" if phone else ""
        if phone and account.phone and phone != account.phone:
            raise Refused(-277)
        phone = phone or account.phone
        return {
            "id": self._send(account, phone),
            "phoneMask": f"{phone[:6]}*****{phone[-2:]}" if phone else "",
            "token": account.token,
            "verified": False,
        }

    def new_verify(self, request: params.CardsNewVerify, decline: int, shift: int) -> Any:
        """`cards.new.verify`: three wrong codes lock the card for a quarter of an hour."""
        number = str(request.otp.id)
        challenge = self._challenges.get(int(number)) if number.isdecimal() else None
        if challenge is None:
            raise Refused(-270)
        _refuse_if(decline)
        self._refuse_if_locked(challenge.account)
        now = self._book.clock.now_ms()
        if challenge.is_used or challenge.expires_ms <= now:
            raise Refused(-270)
        if request.otp.code != challenge.code:
            challenge.tries += 1
            if challenge.tries >= CODE_TRIES_MAX:
                challenge.is_used = True
                self._locked_until[challenge.account.token] = now + LOCK_MS
            raise Refused(-269)
        challenge.is_used = True
        shown = self._card(challenge.account)
        del shown["expiry"]
        return shown

    def get(self, request: params.Ids, decline: int, shift: int) -> list[dict[str, Any]]:
        """`cards.get`: the card objects of tokens, in the order asked."""
        _refuse_if(decline)
        return [self._card(self._account(token)) for token in request.ids]

    def balances(self, request: params.Ids, decline: int, shift: int) -> dict[str, Any]:
        """`balance.get`: balances in tiyin, and their sum."""
        _refuse_if(decline)
        accounts = [self._account(token) for token in request.ids]
        return {
            "cards": [
                {"id": account.token, "pan": account.masked, "balance": account.balance}
                for account in accounts
            ],
            "totalBalance": sum(account.balance for account in accounts),
        }

    def p2p_info(self, request: params.P2pInfo, decline: int, shift: int) -> dict[str, Any]:
        """`p2p.info`: what a sender may know of a card, with its token."""
        account = self._book.ledger.account(request.hpan)
        if account is None:
            raise Refused(-200)
        _refuse_if(decline)
        return {
            "CREF_NO": account.token[:12],
            "EMBOS_NAME": "SANDBOX CARDHOLDER",
            "CARDTYPE": "HUMO" if account.pan.startswith("9860") else "UZCARD",
            "CARDSTATUS": card_status(account.status),
            "CARDID": account.token,
            "PINCNT": 0,
        }

    def _account(self, token: str) -> Account:
        account = self._book.ledger.account_by_token(token)
        if account is None:
            raise Refused(-257)
        return account

    def _card(self, account: Account) -> dict[str, Any]:
        return {
            "id": account.token,
            "username": "oqim",
            "pan": account.masked,
            "expiry": account.expiry,
            "status": card_status(account.status),
            "phone": account.phone.removeprefix("+"),
            "fullName": "SANDBOX CARDHOLDER",
            "balance": account.balance,
            "sms": bool(account.phone),
            "pincnt": 0,
            "aacct": account.token[:20],
            "par": "",
            "cardtype": "UZCARD",
            "holdAmount": 0,
            "cashbackAmount": 0,
        }

    def _send(self, account: Account, phone: str) -> int:
        number = self._book.next_number()
        code = f"{self._random.randrange(1_000_000):06d}"
        now = self._book.clock.now_ms()
        self._challenges[number] = Challenge(account, code, now + CODE_LIFE_MS)
        self._messages.append({"to": phone, "code": code, "at": rfc3339(now)})
        if len(self._messages) > MESSAGES_KEPT_MAX:
            del self._messages[0]
            del self._challenges[next(iter(self._challenges))]
        return number

    def _refuse_if_locked(self, account: Account) -> None:
        until = self._locked_until.get(account.token, 0)
        if until > self._book.clock.now_ms():
            raise Refused(-261, rfc3339(until))


def _refuse_if(code: int) -> None:
    if code:
        raise Refused(code)
