"""The house holds: imports run one way, and no room escapes the contracts that say so."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gateway

ROOT = Path(__file__).resolve().parents[2]
# Where the packages are: here, or where a wheel was installed.
PACKAGES = Path(gateway.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def contracts() -> list[dict[str, Any]]:
    """The contracts of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return found


def test_the_contracts_are_kept() -> None:
    """`lint-imports` finds nothing; its report is shown when it does."""
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
    ]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_room_is_in_a_layer(contracts: list[dict[str, Any]]) -> None:
    """A new folder or module of the gateway must say where it stands."""
    layers = " ".join(contracts[0]["layers"]).replace("|", " ").split()
    rooms = PACKAGES / "gateway"
    # What holds no code (SQL files) or cannot be read as Python (the compiled module) has no layer.
    parts = {path.stem for path in rooms.glob("*.py")} - {"__init__"}
    parts |= {path.parent.name for path in rooms.glob("*/__init__.py")}
    assert parts == {layer.split(".")[1] for layer in layers if layer.startswith("gateway.")}


def test_every_store_is_protected(contracts: list[dict[str, Any]]) -> None:
    """A room's SQL is its own: each store has a contract that names who may import it."""
    protected = {name for one in contracts for name in one.get("protected_modules", ())}
    stores = {f"gateway.{path.parent.name}.store" for path in PACKAGES.glob("gateway/*/store.py")}
    assert stores == protected


def test_only_the_core_module_imports_the_compiled_one() -> None:
    """A second importer would pass by the version check."""
    importers = {
        str(path.relative_to(root))
        for root, folder in (
            (PACKAGES, "gateway"),
            (PACKAGES, "connectors"),
            (ROOT, "loadtests"),
        )
        for path in (root / folder).rglob("*.py")
        if "_core" in _imported(path)
    }
    assert importers == {"gateway/core.py"}


def _imported(path: Path) -> set[str]:
    """Return the last parts of every name a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(alias.name for alias in node.names)
    return {name.rpartition(".")[2] for name in names}
