"""Faults of ours that a caller may meet.

    Exception
     +-- Unavailable      something we need is away; nothing is known to have been done -> 503

Refusals are values (`gateway.core.Refusal`) or `kernel.http.problems.Problem`; a bug is an
AssertionError and is never caught to go on.
"""


class Unavailable(Exception):
    """Something the gateway needs is away. Retryable with the same key."""
