"""What the embedded services keep between two starts: ports, passwords, where the cluster lies.

One file in the data directory, readable by its owner alone. The passwords guard the loopback ports
against other users of the same machine.
"""

from __future__ import annotations

import secrets

import msgspec

from gateway.sandbox.datadir import DataDirectory, write_private
from gateway.sandbox.errors import ServiceUnavailable


class ServiceState(msgspec.Struct, kw_only=True, repr_omit_defaults=True):
    """One service's port (the last one used, kept while it is free) and password."""

    port: int | None = None
    password: str

    def __repr__(self) -> str:
        return f"ServiceState(port={self.port})"


class PostgresState(ServiceState, kw_only=True):
    """PostgreSQL's; `home` is where its cluster is when that is not in the data directory."""

    home: str | None = None


class State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    postgres: PostgresState
    valkey: ServiceState


def load(directory: DataDirectory) -> State:
    """Return what the directory keeps; new passwords when it is new.

    Raises:
        ServiceUnavailable: the file is there and is not ours.
    """
    try:
        return msgspec.json.decode(directory.services_file.read_bytes(), type=State)
    except FileNotFoundError:
        return State(
            postgres=PostgresState(password=secrets.token_urlsafe(24)),
            valkey=ServiceState(password=secrets.token_urlsafe(24)),
        )
    except msgspec.MsgspecError as error:
        raise ServiceUnavailable(
            f"{directory.services_file} is damaged. It holds the passwords of the sandbox's own "
            f"database: remove {directory.path} and start anew, or put the file back."
        ) from error


def save(directory: DataDirectory, state: State) -> None:
    """Write what the directory keeps."""
    write_private(directory.services_file, msgspec.json.encode(state).decode())
