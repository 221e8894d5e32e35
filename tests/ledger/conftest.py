"""A database of its own, for what changes its tables."""

from tests.identity.fixtures import services

__all__ = ["services"]
