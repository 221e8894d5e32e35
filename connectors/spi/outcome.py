"""The common taxonomy: what every processor's result is translated to, as one table.

The three flags of an entry decide what may be done next, never the text of a processor's message.
"""

from enum import Enum


class Outcome(Enum):
    """One processor result. The value is the API's `decline.code` (lower snake case)."""

    #                     code                     moved  retry  customer
    APPROVED = ("approved", True, True, False)
    APPROVED_PARTIAL = ("approved_partial", True, False, False)
    PENDING = ("pending", True, False, False)
    DUPLICATE = ("duplicate", True, False, False)
    INSUFFICIENT_FUNDS = ("insufficient_funds", False, False, True)
    LIMIT_AMOUNT = ("limit_amount", False, False, True)
    LIMIT_COUNT = ("limit_count", False, False, True)
    INVALID_CARD = ("invalid_card", False, False, True)
    EXPIRED_CARD = ("expired_card", False, False, True)
    CARD_BLOCKED = ("card_blocked", False, False, True)
    PICKUP = ("pickup", False, False, False)
    NOT_PERMITTED_CARD = ("not_permitted_card", False, False, True)
    NOT_PERMITTED_TERMINAL = ("not_permitted_terminal", False, False, False)
    OTP_WRONG = ("otp_wrong", False, False, True)
    OTP_EXPIRED = ("otp_expired", False, False, True)
    PIN_WRONG = ("pin_wrong", False, False, True)
    PIN_TRIES = ("pin_tries", False, False, True)
    OWNER_MISMATCH = ("owner_mismatch", False, False, True)
    FRAUD_SUSPECT = ("fraud_suspect", False, False, False)
    INVALID_AMOUNT = ("invalid_amount", False, False, True)
    INVALID_MERCHANT = ("invalid_merchant", False, False, False)
    FORMAT_ERROR = ("format_error", False, False, False)
    ORIGINAL_NOT_FOUND = ("original_not_found", False, False, False)
    ALREADY_REVERSED = ("already_reversed", False, False, False)
    ISSUER_UNAVAILABLE = ("issuer_unavailable", False, True, False)
    SWITCH_UNAVAILABLE = ("switch_unavailable", False, True, False)
    SECURITY = ("security", False, False, False)
    DO_NOT_HONOR = ("do_not_honor", False, False, True)
    AUTH_CLIENT = ("auth_client", False, True, False)
    SYSTEM_ERROR = ("system_error", False, True, False)

    def __init__(
        self,
        code: str,
        money_may_have_moved: bool,
        retry_same_key_ok: bool,
        customer_can_fix: bool,
    ) -> None:
        self.code = code
        self.money_may_have_moved = money_may_have_moved
        self.retry_same_key_ok = retry_same_key_ok
        self.customer_can_fix = customer_can_fix

    @property
    def is_approved(self) -> bool:
        """Whether the processor did what was asked, in full."""
        return self is Outcome.APPROVED

    @property
    def is_unknown(self) -> bool:
        """Whether nobody can say yet: only an inquiry, a reversal or a callback settles it.

        A partial approval counts: it was not what was asked, and must be reversed.
        """
        return self in (Outcome.PENDING, Outcome.DUPLICATE, Outcome.APPROVED_PARTIAL)
