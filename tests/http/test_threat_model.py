"""docs/threat-model.md says what is so: its settings have their defaults, its tests are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
EDGE = (ROOT / "docs/edge.md").read_text(encoding="utf-8")
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "config/settings.toml").read_text())
_ROW = re.compile(r"^\| ([1-8]) \|(.*)\|$", re.MULTILINE)
_SETTING = re.compile(r"`([a-z_.]+) = ([^`]+)`")
_TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)`")

ROWS = [
    (number, [cell.strip() for cell in cells.split("|")]) for number, cells in _ROW.findall(PAGE)
]


def setting(name: str) -> Any:
    """Return a setting of config/settings.toml by its dotted name."""
    value: Any = SETTINGS
    for part in name.split("."):
        value = value[part]
    return value


def test_every_boundary_has_threats() -> None:
    assert {number for number, _ in ROWS} == set("12345678")


@pytest.mark.parametrize(("number", "cells"), ROWS, ids=[cells[0][:50] for _, cells in ROWS])
def test_a_threat_is_stood_against_as_the_page_says(number: str, cells: list[str]) -> None:
    """Its settings have their defaults, and at least one test of it is there."""
    threat, stands, settings, tests = cells
    assert threat
    assert stands
    for name, default in _SETTING.findall(settings):
        assert setting(name) == tomllib.loads(f"it = {default}")["it"], (
            f"{name} is {setting(name)!r}"
        )
    # Nothing but settings and remarks stands between them.
    assert "`" not in _SETTING.sub("", settings), settings
    named = _TEST.findall(tests)
    assert named, "no test"
    for path in named:
        assert (ROOT / path).is_file(), path


_BOUND = re.compile(
    r"^\| [^|]+ \| `((?:http|admission|identity|cards)\.[a-z_]+)`.*? \| ([^|]+) \|", re.MULTILINE
)
BOUNDS = [(name, told) for name, told in _BOUND.findall(EDGE) if told[0].isdigit()]


@pytest.mark.parametrize(("name", "told"), BOUNDS)
def test_a_bound_is_what_its_setting_says(name: str, told: str) -> None:
    """docs/edge.md, "Every bound"."""
    number, _, unit = told.partition(" ")
    value = int(number.rstrip(",").replace(",", ""))
    assert setting(name) == value * (1024 if unit == "KiB" else 1)


def test_most_bounds_are_settings() -> None:
    assert len(BOUNDS) >= 9, BOUNDS


def test_the_table_of_channels_is_the_settings() -> None:
    """docs/edge.md."""
    channels = [SETTINGS["quotas"][name] for name in ("mobile", "api", "console")]
    paces = [f"{one['rate_per_s']:,}, {one['burst']:,}" for one in channels]
    crowds = [f"{one['concurrency_max']:,}" for one in channels]
    assert f"| `rate_per_s`, `burst` | {' | '.join(paces)} |" in EDGE
    assert f"| `concurrency_max` | {' | '.join(crowds)} |" in EDGE
