"""Say what Oqim is made of: write a CycloneDX bill of materials, or check every licence.

Reads what is locked (`requirements.lock`, `Cargo.lock`) and asks what is installed for the licence
of each package. The licences that may be used are in `pyproject.toml` under `[tool.oqim.licences]`,
with the packages that are let through by name and the reason. Nothing is downloaded.

    python scripts/bill.py write dist/oqim.cdx.json
    python scripts/bill.py check
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from license_expression import (
    ExpressionError,
    LicenseSymbol,
    LicenseWithExceptionSymbol,
    get_spdx_licensing,
)
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PINNED = re.compile(r"([A-Za-z0-9_.-]+)==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?\Z")
HASHED = re.compile(r"\s+--hash=sha256:([0-9a-f]{64})(?:\s*\\)?\Z")
SPDX = get_spdx_licensing()
# What older packages say by classifier alone.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Zope Public License": "ZPL-2.1",
}


@dataclass(frozen=True, slots=True)
class Package:
    """One package that is locked. `licence` is an SPDX expression, empty when it says none."""

    ecosystem: str
    name: str
    version: str
    licence: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> PackageURL:
        """Where it comes from, as a package URL."""
        return PackageURL(self.ecosystem, name=self.name, version=self.version)


def locked() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return name, version, marker and the sha256 of every file of each locked Python package.

    Raises:
        ValueError: a line that is neither a comment, a pinned package nor a hash.
    """
    found: list[tuple[str, str, str, list[str]]] = []
    for line in LOCK.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if pinned := PINNED.match(line):
            found.append((pinned[1], pinned[2], (pinned[3] or "").strip(), []))
        elif (hashed := HASHED.match(line)) and found:
            found[-1][3].append(hashed[1])
        else:
            raise ValueError(f"requirements.lock has a line that is not understood: {line}")
    return [(name, version, marker, tuple(hashes)) for name, version, marker, hashes in found]


def packages() -> list[Package]:
    """Return every locked package that is installed here, Python's and Rust's."""
    return sorted([*_python(), *_rust()], key=lambda one: (one.ecosystem, one.name.lower()))


def _python() -> Iterator[Package]:
    for name, version, marker, hashes in locked():
        try:
            told = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            if marker:
                # For another Python or another system.
                continue
            raise
        yield Package("pypi", name, version, _licence_of(told), hashes)


def _licence_of(told: metadata.PackageMetadata) -> str:
    """Return the SPDX expression of a Python package; newer metadata is believed first."""
    fields = told.json
    for field in ("license_expression", "license"):
        written = str(fields.get(field) or "").strip()
        if _is_spdx(written):
            return written
    told_by = [str(one) for one in fields.get("classifier") or ()]
    names = [one.rsplit(" :: ", 1)[-1] for one in told_by if one.startswith("License :: ")]
    return " AND ".join(sorted({CLASSIFIERS[name] for name in names if name in CLASSIFIERS}))


def _is_spdx(expression: str) -> bool:
    if not expression or len(expression) > 200:
        return False
    try:
        return not SPDX.unknown_license_keys(expression)
    except ExpressionError:
        return False


def _rust() -> Iterator[Package]:
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    sums = {
        (one["name"], one["version"]): one.get("checksum")
        for one in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    }
    for one in json.loads(answer.stdout)["packages"]:
        if one["source"] is None:
            # Our own crate.
            continue
        # Older crates wrote a slash where the word belongs.
        licence = re.sub(r"\s*/\s*", " OR ", one["license"] or "")
        checksum = sums[(one["name"], one["version"])]
        yield Package(
            "cargo", one["name"], one["version"], licence, (checksum,) if checksum else ()
        )


def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """Say whether a licence expression can be kept by keeping to `allowed` alone."""
    if not expression:
        return False

    def holds(part: object) -> bool:
        if isinstance(part, LicenseWithExceptionSymbol):
            # An exception permits more than the licence, never less.
            return part.license_symbol.key in allowed
        if isinstance(part, LicenseSymbol):
            return part.key in allowed
        verdicts = [holds(one) for one in part.args]  # type: ignore[attr-defined] # AND or OR
        return all(verdicts) if isinstance(part, SPDX.AND) else any(verdicts)

    return holds(SPDX.parse(expression))


def faults_of(found: list[Package]) -> list[str]:
    """Return a line for each package whose licence may not be used, and for each idle exception."""
    policy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["oqim"]["licences"]
    allowed, excepted = frozenset(policy["allowed"]), dict(policy["excepted"])
    faults = []
    for one in found:
        if is_allowed(one.licence, allowed):
            continue
        if excepted.pop(one.name, None) is None:
            faults.append(f"{one.purl}: {one.licence or 'says no licence'}")
    return faults + [f"{name}: is excepted and need not be" for name in excepted]


def bill(found: list[Package]) -> str:
    """Return the bill of materials, CycloneDX 1.6 in JSON."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    bom = Bom()
    bom.metadata.component = Component(
        name="oqim", version=version, type=ComponentType.APPLICATION, bom_ref="oqim"
    )
    for one in found:
        component = Component(
            name=one.name,
            version=one.version,
            type=ComponentType.LIBRARY,
            bom_ref=str(one.purl),
            purl=one.purl,
            licenses=[LicenseExpression(one.licence)] if one.licence else [],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in one.sha256],
        )
        bom.components.add(component)
        bom.register_dependency(bom.metadata.component, [component])
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=2)


def main(arguments: list[str]) -> int:
    """Do what is asked; return the exit status."""
    match arguments:
        case ["check"]:
            target = None
        case ["write", path]:
            target = Path(path)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    found = packages()
    if faults := faults_of(found):
        print("These licences may not be used (pyproject.toml, [tool.oqim.licences]):")
        print("\n".join(f"  {fault}" for fault in faults))
        return 1
    if target is None:
        print(f"{len(found)} packages, every licence allowed")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(bill(found))
        print(f"{target}: {len(found)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
