"""The oracle stays what it is worth: independent of everything that it judges."""

import ast
import sys
from pathlib import Path

import gateway.oracle
from tests import oracle

HERE = Path(oracle.__file__).parent
SHIPPED = Path(gateway.oracle.__file__).parent


def test_it_imports_the_standard_library_and_itself() -> None:
    """Neither the core nor the gateway, nor a library that they use as well."""
    others = set()
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                others |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                others.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, f"{path.name} imports from outside of the oracle"
    assert others - sys.stdlib_module_names == set()


def test_what_audits_is_what_the_tests_trust() -> None:
    """The gateway ships the very files that the tests hold against the core."""
    ours = {path.name: path.read_bytes() for path in HERE.glob("*.py")}
    assert len(ours) > 1
    assert ours == {path.name: path.read_bytes() for path in SHIPPED.glob("*.py")}
