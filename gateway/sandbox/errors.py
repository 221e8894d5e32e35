"""The sandbox's faults: each message is written for the person who started it, and says what to do
next.

SandboxError
├── DirectoryInUse      another sandbox holds the data directory
├── PortInUse           something else listens where the gateway should
├── ServiceUnavailable  PostgreSQL or Valkey cannot be prepared on this machine
├── ChildNotReady       a child died, or was not ready in time, at its first start
└── ChildGaveUp         a child that had been ready keeps dying

The command line prints `str(error)` and exits with `exit_code`; a traceback would hide the advice.
"""

from __future__ import annotations


class SandboxError(Exception):
    """A fault of the sandbox that its user can act on."""

    exit_code = 1


class DirectoryInUse(SandboxError):
    """Another sandbox holds the data directory."""


class PortInUse(SandboxError):
    """A port that must be ours has another listener."""


class ServiceUnavailable(SandboxError):
    """PostgreSQL or Valkey cannot be prepared or started on this machine."""


class ChildNotReady(SandboxError):
    """A child died, or did not become ready in time, when it was first started."""


class ChildGaveUp(SandboxError):
    """A child died so often, so soon after its start, that it is no longer restarted."""
