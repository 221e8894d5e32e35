"""What operators' routes read and answer."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

Login = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9._-]+$")]
Role = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
PASSWORD_LENGTH_MIN = 12


class LoginBody(msgspec.Struct, forbid_unknown_fields=True):
    """Who logs in. `code` is of the authenticator app: six digits."""

    login: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    code: Annotated[str, msgspec.Meta(min_length=6, max_length=6)]

    def __repr__(self) -> str:
        return f"LoginBody({self.login!r})"


class StepUpBody(msgspec.Struct, forbid_unknown_fields=True):
    code: Annotated[str, msgspec.Meta(min_length=6, max_length=6)]


class TokenView(msgspec.Struct):
    """An operator's access token, and how long it and the session may go on."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    session_id: str
    session_expires_at: str
    scope: str


class OperatorView(msgspec.Struct):
    """One operator."""

    id: str
    name: str
    login: str | None
    roles: list[str]
    scopes: list[str]
    is_disabled: bool
    is_locked: bool
    created_at: str


class OperatorPage(msgspec.Struct):
    data: list[OperatorView]
    next_cursor: str | None


class ChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The roles an operator is to have, all of them; `is_disabled` ends every session."""

    roles: Annotated[list[Role], msgspec.Meta(max_length=16)]
    note: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    is_disabled: bool = False


class ChangeView(msgspec.Struct):
    """A change of roles, proposed by one operator and decided by another."""

    id: str
    operator: str
    roles: list[str]
    is_disabled: bool
    note: str
    status: Literal["proposed", "active", "rejected"]
    proposed_by: str
    proposed_at: str
    decided_by: str | None
    decided_at: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """An operator as stored, with what logging in is checked against."""

    id: str
    password_hash: str | None
    totp_sealed: bytes | None
    roles: list[str]
