"""What the product is made of: every package locked by its hash, of a licence that may be used."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]
DIGITS = re.compile(r"(?<![0-9A-Za-z_.])[0-9]{13,19}(?![0-9A-Za-z_])")
# Numbers that schemes publish for tests; what the house makes itself has six zeros in it.
PUBLISHED = frozenset(
    (
        "4000000000000002",
        "4111111111111111",
        "4222222222222",
        "424242424242424",
        "4242424242424242",
        "5500000000000004",
        "5555555555554444",
    )
)

if not (ROOT / "Cargo.lock").exists():
    pytest.skip("an installed wheel is tested, without its sources", allow_module_level=True)


def _load_bill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("oqim_bill", ROOT / "scripts" / "bill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["oqim_bill"] = module
    spec.loader.exec_module(module)
    return module


bill = _load_bill()


@pytest.fixture(scope="module")
def found() -> list[object]:
    return list(bill.packages())


def test_every_package_is_locked_by_hashes() -> None:
    """A file that was changed since it was locked is refused by pip."""
    locked = bill.locked()
    assert len(locked) > 50
    assert [name for name, _, _, hashes in locked if not hashes] == []


def test_what_pyproject_pins_is_what_is_locked() -> None:
    """The lock is made from pyproject.toml and says the same versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = [
        re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?==(.+)", one) for group in groups for one in group
    ]
    assert all(pins), "every dependency is pinned to one version"

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    locked = {plain(name): version for name, version, _, _ in bill.locked()}
    wanted = {plain(pin[1]): pin[2] for pin in pins if pin}
    assert wanted == {name: locked.get(name) for name in wanted}


def test_crates_come_from_the_registry_alone_and_have_checksums() -> None:
    """No crate comes from a branch of somebody's repository."""
    crates = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    foreign = [one for one in crates if "source" in one]
    assert foreign
    assert [one["name"] for one in foreign if not one["source"].startswith("registry+")] == []
    assert [one["name"] for one in foreign if len(one.get("checksum", "")) != 64] == []
    own = {one["name"] for one in crates if "source" not in one}
    assert own == {"oqim-binding", "oqim-engine"}


def test_every_licence_may_be_used(found: list[object]) -> None:
    """And no exception is kept longer than it is needed."""
    assert bill.faults_of(found) == []


@pytest.mark.parametrize(
    ("expression", "is_allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-2.0-only) AND Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only WITH Classpath-exception-2.0", False),
        ("AGPL-3.0-or-later", False),
        ("", False),
    ],
)
def test_a_licence_is_allowed_when_it_can_be_kept_by_allowed_ones_alone(
    expression: str, is_allowed: bool
) -> None:
    """Of a choice one is enough, of a sum all are needed."""
    assert bill.is_allowed(expression, frozenset(("MIT", "Apache-2.0"))) is is_allowed


def test_the_bill_of_materials_is_valid_and_names_every_package(found: list[object]) -> None:
    """CycloneDX 1.6, checked against its schema."""
    text = bill.bill(found)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    named = {one["name"].lower() for one in json.loads(text)["components"]}
    assert {"aiohttp", "asyncpg", "pyo3", "ed25519-dalek"} <= named
    assert len(json.loads(text)["components"]) == len(found)


def test_no_card_number_in_the_tree_could_be_anybodys() -> None:
    """PCI DSS 6.5.5: numbers that pass the Luhn check are published for tests, or made of zeros."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    numbers = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file() or name.endswith(".lock"):
            continue
        for digits in DIGITS.findall(path.read_bytes().decode("utf-8", errors="replace")):
            if digits not in PUBLISHED and "000000" not in digits and _passes_luhn(digits):
                numbers.append(f"{name}: {digits[:6]}...{digits[-4:]}")
    assert numbers == []


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, character in enumerate(reversed(digits)):
        value = int(character) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
