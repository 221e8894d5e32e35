"""Which tests are run where, and in which order, when several processes run them.

A process is given a file at a time, or all files of a folder that share a house. What takes longest
begins, so that the end is made of what is short and the processes end together.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# Their files share a house, which is ended when its process goes on to another folder.
TOGETHER = ("tests/proposals", "tests/rulebook", "tests/webhooks")
# By how long they take, the longest first; what is not here takes less than all of these.
LONG = (
    # Those of faults one after another: they share a house while no other folder's come between.
    # What is told in one must hold after every later one, so that those that tell most come last.
    "tests/faults/test_rolling.py",
    "tests/faults/test_tls.py",
    "tests/faults/test_hosts.py",
    "tests/faults/test_swizzle.py",
    "tests/faults/test_mistakes.py",
    "tests/faults/test_redis.py",
    "tests/faults/test_answers.py",
    "tests/faults/test_database.py",
    "tests/faults/test_neighbours.py",
    "tests/faults/test_network.py",
    "tests/faults/test_machine.py",
    "tests/faults/test_matrix.py",
    "tests/http/test_openapi.py",
    "tests/rulebook",
    "tests/sandbox/test_embedded.py",
    "tests/drills/test_drills.py",
    "tests/bench/test_peers.py",
    "tests/rules/test_second_opinion.py",
    "tests/webhooks",
    "tests/reconciliation/test_house.py",
    "tests/http/test_bad_input_catalogue.py",
    "tests/http/test_openapi_operators.py",
    "tests/payments/test_unknown.py",
    "tests/payments/test_crash.py",
    "tests/proposals",
    "tests/vault/test_rotation.py",
    "tests/vault/test_hsm.py",
    "tests/bench/test_pgbench.py",
    "tests/identity/test_quotas.py",
    "tests/identity/test_sessions.py",
    "tests/reconciliation/test_imports.py",
    "tests/core/test_instructions.py",
    "tests/identity/test_oauth_house.py",
    "tests/identity/test_login.py",
    "tests/identity/test_rfc9449.py",
    "tests/vault/test_canary.py",
    "tests/identity/test_promise.py",
    "tests/identity/test_rfc6749.py",
)


class Schedule(LoadScopeScheduling):
    """Gives out what `unit` says is one, in the order of the tests that were collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        # Its own order is by number of tests, which begins with what is many and short.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)


def unit(nodeid: str) -> str:
    """Return what a test is run together with: its file or its folder."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with those of `LONG` first; otherwise they stay where they were."""
    places = {name: place for place, name in enumerate(LONG)}
    return sorted(items, key=lambda item: places.get(unit(item.nodeid), len(places)))
