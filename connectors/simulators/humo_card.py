"""HUMO's JSON card information: `/v2/iiacs/card` and `/v3/iiacs/card`."""

import msgspec

from connectors.simulators.front import Reply
from connectors.simulators.humo_book import STATUS_CODES, HumoEntry
from connectors.simulators.ledger import Ledger

CARD_PATHS = frozenset({"/v2/iiacs/card", "/v3/iiacs/card"})
CONTENT_TYPE = "application/json"


class CardParams(msgspec.Struct):
    """What the card is asked by. `repr` shows nothing of it."""

    primaryAccountNumber: str
    mb_flag: int = 0

    def __repr__(self) -> str:
        return "<CardParams>"


class CardRequest(msgspec.Struct):
    """The service's envelope."""

    params: CardParams
    id: str = ""


_DECODER = msgspec.json.Decoder(CardRequest)


def card_information(ledger: Ledger[HumoEntry], body: bytes, decline: str | None) -> Reply:
    """Answer what is known of a card; amounts in tiyin, `mb` is its text-message banking.

    Notes: `mb.phone` is left out while no phone is known.
    """
    try:
        request = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _answer({"error": {"code": -1, "message": "Bad request"}}, 400)
    pan = request.params.primaryAccountNumber
    account = ledger.account(pan)
    if decline is not None or account is None:
        code = int(decline) if decline is not None and decline.lstrip("-").isdecimal() else 111
        return _answer({"error": {"code": code, "message": "Card is not found"}}, 200)
    action = STATUS_CODES.get(account.status, account.status)
    mb = {"state": "on", "message": ""}
    if account.phone:
        mb["phone"] = account.phone.removeprefix("+")
    result = {
        "listSize": 1,
        "card": {
            "institutionId": "01",
            "primaryAccountNumber": pan,
            "expiry": account.expiry,
            "cardSequenceNumber": 1,
            "cardholderId": account.token[:12],
            "nameOnCard": "SANDBOX CARDHOLDER",
            "cardUserId": account.token[:12],
            "bankC": pan[4:6],
            "pinTryCount": 0,
            "statuses": {"item": [{"type": "card", "actionCode": action, "actionDescription": ""}]},
        },
        "balance": {
            "currency": "860",
            "initialAmount": 0,
            "bonusAmount": 0,
            "creditLimit": 0,
            "lockedBackofficeAmount": 0,
            "lockedAmount": 0,
            "availableAmount": account.balance,
        },
        "mb": mb,
    }
    return _answer({"result": result}, 200)


def _answer(document: dict[str, object], status: int) -> Reply:
    return Reply(msgspec.json.encode(document), status, CONTENT_TYPE)
