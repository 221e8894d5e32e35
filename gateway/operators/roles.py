"""Roles and what they permit, read once from config/roles.toml."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from gateway.kernel.scopes import ADMIN, with_implied
from gateway.settings import SettingsError

EVERYTHING = "*"


class _Role(msgspec.Struct, forbid_unknown_fields=True):
    scopes: list[str]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roles: dict[str, _Role]


@dataclass(frozen=True, slots=True)
class Roles:
    """What each role permits: sorted scopes by name."""

    scopes: Mapping[str, tuple[str, ...]]

    def permitted(self, roles: Iterable[str]) -> list[str]:
        """Return the scopes of several roles together; one that is not there any more has none."""
        return with_implied(scope for role in roles for scope in self.scopes.get(role, ()))


def read_roles(text: bytes) -> Roles:
    """Read roles.

    Args:
        text: JSON of config/roles.toml.

    Raises:
        SettingsError: names the role, and what in it is wrong.
    """
    try:
        file = msgspec.json.decode(text, type=_File)
    except msgspec.ValidationError as error:
        raise SettingsError(f"roles.toml: {error}") from error
    scopes = {}
    for name, role in file.roles.items():
        unknown = sorted(set(role.scopes) - {EVERYTHING, *ADMIN})
        if unknown:
            raise SettingsError(f"roles.toml: {name}: no route asks for {', '.join(unknown)}")
        scopes[name] = ADMIN if EVERYTHING in role.scopes else tuple(sorted(set(role.scopes)))
    return Roles(scopes)
