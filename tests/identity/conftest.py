"""The fixtures of a worker's identity and cards, and of tokens that a house never made."""

from tests.http.test_bad_callers import forger
from tests.identity.fixtures import clock, place, worker

__all__ = ["clock", "forger", "place", "worker"]
