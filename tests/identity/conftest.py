"""The fixtures of a worker's identity and cards."""

from tests.identity.fixtures import clock, place, services, worker

__all__ = ["clock", "place", "services", "worker"]
