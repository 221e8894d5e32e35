"""The parameters of each SVGate method, as JSON shapes. A request that does not fit is refused.

Numbers that public clients send now as text and now as a number are taken both ways.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

Ext = Annotated[str, Meta(min_length=1, max_length=75)]
Token = Annotated[str, Meta(max_length=32)]
Id = str | int
Minutes = int


class Envelope(Struct):
    """A JSON-RPC 2.0 request."""

    method: str
    jsonrpc: str = ""
    id: str | int | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")


class OtpCard(Struct):
    """The card to be linked. `repr` shows nothing of it."""

    pan: str
    expiry: str

    def __repr__(self) -> str:
        return "<OtpCard>"


class CardsNewOtp(Struct):
    card: OtpCard
    serviceName: Annotated[str, Meta(max_length=20)] = ""
    requestorPhone: str = ""
    sms: dict[str, Any] | None = None


class OtpAnswer(Struct):
    id: Id
    code: str


class CardsNewVerify(Struct):
    otp: OtpAnswer


class Ids(Struct):
    ids: Annotated[list[Token], Meta(max_length=100)]


class P2pInfo(Struct):
    hpan: str

    def __repr__(self) -> str:
        return "<P2pInfo>"


class PayTran(Struct):
    cardId: Token
    amount: int
    ext: Ext
    merchantId: Id
    terminalId: Id
    commission: int = 0
    currency: Id = "860"
    purpose: str = ""
    receiverId: str = ""
    merchantInfo: dict[str, Any] | None = None


class PayPurpose(Struct):
    tran: PayTran


class ExtId(Struct):
    extId: str


class SvId(Struct):
    svId: str


class TranId(Struct):
    tranId: str


class PartialTran(Struct):
    tranId: str
    reverseAmount: int
    ext: Ext


class ReversePartial(Struct):
    tran: PartialTran


class HoldOrder(Struct):
    cardId: Token
    merchantId: Id
    terminalId: Id
    amount: int
    time: Minutes


class HoldCreate(Struct):
    hold: HoldOrder


class ChargeOrder(Struct):
    holdId: Id
    ext: Ext
    merchantId: Id
    terminalId: Id
    amount: int
    port: Id = ""
    stan: Id = ""
    date12: Id = ""


class HoldCharge(Struct):
    hold: ChargeOrder


class DismissOrder(Struct):
    holdId: Id
    merchantId: Id = ""
    terminalId: Id = ""
    amount: int | None = None


class HoldDismiss(Struct):
    hold: DismissOrder


class HoldGetId(Struct):
    id: Id


class HoldGetCard(Struct):
    cardId: Token


class P2pOrder(Struct):
    sender: Token
    recipient: Token
    amount: int
    ext: Ext
    merchantId: Id
    terminalId: Id
    feeAmount: int = 0


class P2pUniversal(Struct):
    p2p: P2pOrder


class CreditOrder(Struct):
    recipient: Token
    amount: int
    ext: Ext
    merchantId: Id
    terminalId: Id
    sender: dict[str, Any] | None = None


class P2pCredit(Struct):
    credit: CreditOrder


class ReportRange(Struct):
    """Business days, both included, `YYYYMMDD`."""

    from_: str = msgspec.field(name="from")
    to: str = ""


class ReportOrder(Struct):
    range: ReportRange
    pageNumber: Annotated[int, Meta(ge=0)] = 0
    pageSize: Annotated[int, Meta(ge=1, le=1_000)] = 100


class ReportAsk(Struct):
    report: ReportOrder
