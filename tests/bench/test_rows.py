"""Rows: each has its name, its blocks and what measures it."""

from typing import Any

import pytest

from gateway.bench import fixed_rate, results, scale_laws
from gateway.bench.rows import (
    LAWS,
    LOAD_ROWS,
    MICRO_ROWS,
    NAMES,
    OPEN_ROWS,
    SCALE_LAWS,
    Scale,
    groups,
    select,
)
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import SilentProgress


def test_rows_are_named_by_what_they_begin_with() -> None:
    assert select([]) == NAMES
    assert select(["visa-64"]) == ("visa-64",)
    assert select(["usual", "visa"]) == ("visa-64", "visa-256", "usual-256", "usual-tuned-256")
    assert select(["law-h"]) == ("law-hot", "law-hosts")
    with pytest.raises(SandboxError, match="no row begins with 'mir'"):
        select(["visa", "mir"])


def test_rows_that_share_blocks_are_measured_together() -> None:
    """Those of one peer at as many clients; those of one load of ours; each once."""
    named = [tuple(row.name for row in group) for group in groups(LOAD_ROWS)]
    assert named == [
        ("visa-64", "uzcard-64", "humo-64", "direct-64"),
        ("visa-256", "uzcard-256", "humo-256", "direct-256"),
        ("pgbench-256",),
        ("usual-256", "usual-tuned-256", "fastapi-256"),
    ]


@pytest.fixture
def micro() -> dict[str, Any]:
    """What measures each small row; skips where the peers, which are `oqim[load]`, are not."""
    pytest.importorskip("jwt")
    pytest.importorskip("limits")
    from gateway.bench import limits_library, small_rows

    return small_rows.MICRO | limits_library.MICRO


def test_every_small_row_can_be_measured(micro: dict[str, Any]) -> None:
    from gateway.bench.core_laws import LAWS as MEASURED

    assert (tuple(micro), tuple(MEASURED)) == (MICRO_ROWS, LAWS)
    assert tuple(scale_laws.LAWS) == SCALE_LAWS
    assert tuple(fixed_rate.OPEN) == OPEN_ROWS


@pytest.mark.parametrize("name", LAWS)
def test_every_law_of_the_core_can_be_measured(micro: dict[str, Any], name: str) -> None:
    """One round of small sizes: each checks that what grew is there."""
    from gateway.bench.core_laws import LAWS as MEASURED

    scale = Scale(policies=(10, 500), subjects=(10, 6_000), revoked=(10, 3_000))
    found = MEASURED[name](rounds=1, progress=SilentProgress(), scale=scale)
    assert found.row == name
    assert found.points[0][2] == 1.0
    assert all(us > 0 for _, us, _ in found.points)
    if name != "law-policies":
        assert 20 < float(found.note.split(" ")[0]) < 2_000, "bytes of memory, each"


@pytest.mark.parametrize("name", MICRO_ROWS)
def test_small_rows_compare_the_same_work(micro: dict[str, Any], name: str) -> None:
    """One round: each checks that both sides agree, and both took time."""
    for ratio in micro[name](rounds=1, progress=SilentProgress()):
        assert ratio.row == name
        assert ratio.ours_us > 0
        assert ratio.theirs_us > 0
        assert ratio.least == ratio.ratio == ratio.greatest
        shown = results.small_figures(ratio)
        assert shown["is_met"] is ratio.is_met
