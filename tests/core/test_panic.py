"""A fault of the core's is an exception like any other: whoever waits is told."""

import pytest

from gateway.core import rfc3339


@pytest.mark.fault(rows=[63], what="a panic under the binding")
def test_a_panic_is_an_ordinary_exception() -> None:
    """No moment of a clock; the core's arithmetic is checked."""
    with pytest.raises(RuntimeError, match="the core has a fault"):
        rfc3339(2**63 - 1)
