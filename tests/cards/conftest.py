"""The fixtures of a worker's identity and cards."""

from tests.identity.fixtures import clock, place, worker

__all__ = ["clock", "place", "worker"]
