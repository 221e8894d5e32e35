"""Build the wheel, look into it, and run the tests against it from another folder.

In the repository the tests find the sources whatever the wheel holds. Here the wheel is installed
into a new environment under a temporary folder, and the tests run in a copy, with no source of
ours beside them: a module, a migration or an entry point that the wheel lacks is then missed.
Arguments are handed on to pytest; without any, the tests marked `slow` are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PACKAGES = ("gateway", "connectors")
# What tests read besides the packages.
COPIED = ("tests", "config", "docs", "loadtests", "pyproject.toml", "README.md")
WHERE = "import gateway, connectors; print(gateway.__file__); print(connectors.__file__)"


def main(arguments: list[str]) -> int:
    """Do all of it; return the exit status."""
    wheel = build()
    faults = list(faults_of(wheel))
    if faults:
        print("\n".join(f"✗ {fault}" for fault in faults), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="oqim-wheel-") as folder:
        # Other users must get through: PostgreSQL's programs are in there, and it is not run as
        # root.
        Path(folder).chmod(0o755)
        return test(wheel, Path(folder), arguments or ["-m", "not slow"])


def build() -> Path:
    """Build the wheel from the sources as they are, and return it."""
    shutil.rmtree(DIST, ignore_errors=True)
    maturin = Path(sys.executable).parent / "maturin"
    subprocess.run([maturin, "build", "--release", "--out", DIST], cwd=ROOT, check=True)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def faults_of(wheel: Path) -> list[str]:
    """List the wheel, and return what is wrong with its contents."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for name in names:
        print(f"{sizes[name]:>12,}  {name}")
    print(f"{wheel.stat().st_size:>12,}  {wheel.name}")
    tops = sorted({name.split("/")[0] for name in names if ".dist-info/" not in name})
    modules = [name for name in names if name.startswith("gateway/_core.") and ".so" in name]
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    faults = [f"{name} is not in the wheel" for name in sorted(wanted - set(names))]
    faults += [f"{name} has no place in the wheel" for name in names if name.endswith(".pyc")]
    if tops != sorted(PACKAGES):
        faults.append(f"the wheel's top folders are {tops}")
    if len(modules) != 1:
        faults.append(f"the wheel has these compiled modules: {modules}")
    return faults


def test(wheel: Path, folder: Path, arguments: list[str]) -> int:
    """Install the wheel into a new environment, and run a copy of the tests in it."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet"]
    # The very files that everything is tried with; then the wheel, which must ask for no others.
    locked = ["--require-hashes", "--only-binary", ":all:", "--requirement"]
    subprocess.run([*install, *locked, ROOT / "requirements.lock"], cwd=folder, check=True)
    subprocess.run([*install, "--no-deps", wheel], cwd=folder, check=True)
    subprocess.run([*pip, "check"], cwd=folder, check=True)
    work = folder / "work"
    work.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(source, work / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, work / name)
    where = subprocess.check_output([python, "-c", WHERE], cwd=work, text=True)
    if any("site-packages" not in line for line in where.splitlines()):
        print(f"✗ the tests would not run against the wheel:\n{where}", file=sys.stderr)
        return 1
    print(where, end="", flush=True)
    command: list[str | Path] = [python, "-m", "pytest", "-q", *arguments]
    return subprocess.run(command, cwd=work, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
