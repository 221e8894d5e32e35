"""Results and pages: what was measured, as programs and as people read it."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.bench import law_curves, page, results
from gateway.bench.rows import LOAD_ROWS, Measured, Open
from gateway.sandbox.errors import SandboxError
from tests.bench.measured import conditions, law, measured


def test_a_row_is_the_median_of_its_pairs() -> None:
    """Each block is compared with its own neighbour, and costs are by payment."""
    row = measured()
    shown = results.figures(row)
    assert (shown["ratio_least"], shown["ratio"], shown["ratio_greatest"]) == (0.1, 0.1, 0.2)
    assert shown["payments_per_s"] == 100
    assert shown["cpu_us"] == {"gateway": 200.0, "postgres": 100.0}
    assert shown["writing_transactions_per_payment"] == 0.1
    assert shown["commits_counted_per_payment"] == 0.2
    assert shown["wal_bytes_per_payment"] == 2000
    assert shown["batch_size_mean"] == 20
    assert (shown["goal"], shown["is_met"]) == (0.45, False)
    assert "books hold" in results.in_short(row)
    row.broken.append("a payment was lost")
    assert "BOOKS BROKEN" in results.in_short(row)


def at_rate(**changes: Any) -> Open:
    """Return a row at a fixed rate whose second goal was missed."""
    cells = (("p50 under 10 ms", "3.0 ms", True), ("p99 under 50 ms", "70.0 ms", False))
    return replace(Open("latency-visa", "latency", {"p50_ms": 3.0}, cells), **changes)


@pytest.mark.parametrize(
    ("changes", "line", "is_met"),
    [
        ({}, "| latency-visa | latency | p50 under 10 ms | 3.0 ms | yes | hold |", False),
        ({"cells": at_rate().cells[:1]}, "| 3.0 ms | yes | hold |", True),
        ({"broken": ("lost",)}, "| 3.0 ms | yes | **broken** |", False),
        ({"skipped": "late"}, "| void: late | - | - |", False),
    ],
    ids=["missed", "met", "broken", "void"],
)
def test_a_page_shows_what_was_found_at_a_fixed_rate(
    changes: dict[str, Any], line: str, is_met: bool
) -> None:
    shown = results.open_figures(at_rate(**changes))
    assert line in page.page(conditions(), [shown])
    assert shown["is_met"] is is_met


def test_the_headline_tells_payments_without_a_processor_from_others() -> None:
    direct = next(row for row in LOAD_ROWS if row.name == "direct-64")
    rows = [results.figures(replace(measured(), row=row)) for row in (LOAD_ROWS[0], direct)]
    text = page.headline(conditions(), [*rows, results.open_figures(at_rate())])
    assert "| durable payments over VISA, 64 clients |" in text
    assert "| durable payments without a processor, 64 clients |" in text
    assert "| payments latency | 70.0 ms | open loop | - | - | p99 under 50 ms | **no** |" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"goal": 1 / 1.7}, "At least 1.7x as many was aimed at; met: **no**."),
        ({"goal": None}, "promise of revocation were aimed at; met: yes. Small."),
        ({"goal": None, "broken": ("one over",)}, "met: **no**. **Broken:** one over."),
        ({"labels": ("none", "one")}, "| policies | none | one |"),
    ],
    ids=["as-many", "promise", "broken", "labels"],
)
def test_a_page_shows_laws_of_every_kind(changes: dict[str, Any], words: str) -> None:
    one = replace(law(1.4), note="small", **changes)
    shown = results.small_figures(one)
    assert words in page.page(conditions(), [shown])
    # As it comes back from a file of results.
    assert page.law_of(json.loads(json.dumps(shown))) == one


def test_a_page_shows_goals_and_whether_they_were_met() -> None:
    skipped = Measured(LOAD_ROWS[8], skipped="there is none")
    rows = [
        results.figures(measured()),
        results.figures(skipped),
        *(results.small_figures(law(worst)) for worst in (1.4, 1.6)),
    ]
    text = page.page(conditions(), rows)
    load = next(line for line in text.splitlines() if line.startswith("| visa-64 | 64"))
    assert "0.100 (0.100 to 0.200) | 0.45x | **no** | 5.0 / 9.0 | hold |" in load
    assert "left out: there is none" in text
    assert "`fsync=on`" in text
    assert text.count("aimed at; met: yes.") == 1
    assert text.count("aimed at; met: **no**.") == 1


def pages(folder: Path, text: str) -> list[Path]:
    """Make both pages with a text in which {0} and {1} are the marks."""
    found = [folder / "docs" / "performance.md", folder / "README.md"]
    (folder / "docs").mkdir()
    for path in found:
        path.write_text(text.format(page.BEGIN, page.END))
    return found


def test_only_what_is_between_the_marks_is_written(tmp_path: Path) -> None:
    """Twice the same: what was there before goes."""
    both = pages(tmp_path, "before\n{0}\nold\n{1}\nafter\n")
    rows = [results.figures(measured()), results.small_figures(law(1.4))]
    for _ in range(2):
        written = page.write(tmp_path, conditions(), rows)
    assert written == [*both, tmp_path / "docs" / page.CURVES]
    texts = (page.page(conditions(), rows), page.headline(conditions(), rows))
    for path, text in zip(both, texts, strict=True):
        marked = f"{page.BEGIN}\n{text}{page.END}"
        assert path.read_text() == f"before\n{marked}\nafter\n"
    assert "| 100 /s | bare aiohttp | 1,000 /s | 0.100 (0.100 to 0.200) | 0.45 |" in texts[1]


def test_costs_are_summed_over_the_servers_of_whoever_is_measured() -> None:
    """The generator is nobody's, and the gateway idles while its peer works."""
    ours = {"gateway": 300.0, "postgres": 200.0, "generator": 30.0, "peer": 0.0}
    theirs = {"gateway": 7.0, "postgres": 900.0, "generator": 40.0, "peer": 800.0}
    row = results.figures(measured()) | {"cpu_us": ours, "peer_cpu_us": theirs}
    lines = page.page(conditions(), [row]).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("| row | whose"))
    head, _, first, second = (
        [cell.strip() for cell in line.split("|")] for line in lines[at : at + 4]
    )
    servers = head.index("servers")
    assert (first[servers], second[servers]) == ("500", "1700")


def test_counts_have_goals_as_well() -> None:
    """A hundred bytes too much is too much; the number of commits is as aimed at."""
    row = results.figures(measured())
    for wal, is_met in ((2_499, "yes"), (2_600, "**no**")):
        text = page.page(conditions(), [row | {"wal_bytes_per_payment": wal}])
        assert f"0.100 commits, met: yes; {wal:,} bytes, met: {is_met}." in text


@pytest.mark.parametrize("text", ["", "{0}", "{1}{0}", "{0}{1}{0}{1}"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_page_without_its_marks_is_left_alone(tmp_path: Path, text: str, which: int) -> None:
    """And so is the other page."""
    both = pages(tmp_path, "{0}{1}")
    both[which].write_text(text.format(page.BEGIN, page.END))
    before = [path.read_text() for path in both]
    with pytest.raises(SandboxError, match="once each"):
        page.write(tmp_path, conditions(), [])
    assert [path.read_text() for path in both] == before


def test_curves_are_an_image_with_every_point() -> None:
    """Higher costs are higher up, and each law is named."""
    image = ElementTree.fromstring(law_curves.picture([law(1.5), law(3.0)]))
    name = "{http://www.w3.org/2000/svg}"
    dots = [float(dot.attrib["cy"]) for dot in image.iter(f"{name}circle")]
    assert dots[0] == dots[2] > dots[1] > dots[3] > 0
    texts = [text.text for text in image.iter(f"{name}text")]
    assert texts.count("policies") == 2
