"""Make `.venv`, install what `requirements.lock` names, and build the compiled module into it.

Run by `make` with the Python that `find-python` chose; needs nothing but the standard library.
Each of the three is done again only when what it is made from has changed, so that a second run
takes no time. Works only in this folder: nothing is installed outside `.venv`, and nothing is
upgraded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
LOG = VENV / "setup.log"
CRATES = ROOT / "core_rs"
TELL_EVERY_S = 10.0
DEBIAN, MACOS, ANYWHERE = "Debian, Ubuntu:", "macOS:         ", "elsewhere:     "


def main() -> int:
    """Bring `.venv` up to date; return the exit status."""
    missing = list(missing_tools())
    if missing:
        print("Something is missing to build Oqim:\n", file=sys.stderr)
        print("\n".join(missing), file=sys.stderr)
        return 1
    try:
        make_venv()
        install()
        build()
    except StepFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def missing_tools() -> Iterator[str]:
    """Yield a paragraph for each tool that is missing or too old."""
    if not VENV_PYTHON.exists() and not has_venv():
        yield advice(
            "Python's venv and pip modules",
            (
                DEBIAN,
                f"sudo apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv",
            ),
            (ANYWHERE, "a Python from python.org, pyenv or brew has them"),
        )
    wanted = rust_version()
    found = version_of("cargo"), version_of("rustc")
    if None in found:
        yield advice(f"Rust (cargo and rustc) {wanted} or later", *GET_RUST)
    elif min(version for version in found if version is not None) < numbers(wanted):
        have = ".".join(map(str, min(version for version in found if version is not None)))
        yield advice(f"Rust {wanted} or later; here is {have}", *GET_RUST, UPDATE_RUST)
    if not any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")):
        yield advice(
            "a C compiler, which links the compiled module",
            (DEBIAN, "sudo apt-get install build-essential"),
            (MACOS, "xcode-select --install"),
        )


GET_RUST = (
    (DEBIAN, "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"),
    (MACOS, "brew install rustup && rustup-init"),
)
UPDATE_RUST = ("with rustup:   ", "rustup update stable")


def advice(what: str, *ways: tuple[str, str]) -> str:
    """Return a paragraph: what is missing, and a line for each way to get it."""
    return "\n".join([f"* {what}", *(f"    {where}  {how}" for where, how in ways)])


def has_venv() -> bool:
    """Whether this Python can make a virtualenv with pip in it (Debian packs that apart)."""
    command = [sys.executable, "-c", "import venv, ensurepip"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def rust_version() -> str:
    """Return the oldest Rust that the workspace says it builds with."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    return str(manifest["workspace"]["package"]["rust-version"])


def version_of(tool: str) -> tuple[int, ...] | None:
    """Return the version that a tool tells, None when it cannot be run."""
    try:
        answer = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\d+(\.\d+)+", answer.stdout)
    return numbers(match.group()) if match else None


def numbers(version: str) -> tuple[int, ...]:
    """Return `1.82` as (1, 82, 0), so that versions compare."""
    parts = tuple(int(part) for part in version.split("."))
    return (*parts, *(0,) * (3 - len(parts)))


def make_venv() -> None:
    """Make `.venv` where there is none that works."""
    if VENV_PYTHON.exists():
        probe: list[str | Path] = [
            VENV_PYTHON,
            "-c",
            "import sys, pip; sys.exit(sys.version_info < (3, 11))",
        ]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return
        print(f"{VENV} does not work (its Python is gone or too old); making it anew")
        shutil.rmtree(VENV)
    VENV.mkdir(exist_ok=True)
    run(f"Making {VENV.name}", [sys.executable, "-m", "venv", VENV])


def install() -> None:
    """Install the locked packages, if the lock or the Python changed since."""
    version = subprocess.check_output([VENV_PYTHON, "-V"], text=True)
    stamp = VENV / ".installed"
    digest = hashlib.sha256(LOCK.read_bytes() + version.encode()).hexdigest()
    if read(stamp) == digest:
        return
    count = sum(1 for line in LOCK.read_text().splitlines() if re.match(r"[A-Za-z0-9]", line))
    # Only what the lock has the hash of, and no source packages: those run code of their own to
    # install themselves, with tools that no hash holds.
    options: list[str | Path] = ["--disable-pip-version-check", "--no-input"]
    options += ["--require-hashes", "--only-binary", ":all:", "--requirement", LOCK]
    run(f"Installing {count} packages", [VENV_PYTHON, "-m", "pip", "install", *options])
    stamp.write_text(digest)


def build() -> None:
    """Build the compiled module in release mode, if anything that goes into it changed since."""
    stamp = VENV / ".built"
    digest = hashlib.sha256()
    sources = [ROOT / "Cargo.toml", ROOT / "Cargo.lock", ROOT / "pyproject.toml", LOCK]
    sources += sorted(path for path in CRATES.rglob("*") if path.is_file())
    for source in sources:
        digest.update(f"{source.relative_to(ROOT)}\0{source.stat().st_size}\0".encode())
        digest.update(source.read_bytes())
    # A virtualenv that was moved has scripts that name its old place.
    digest.update(str(VENV).encode())
    is_built = any((ROOT / "gateway").glob("_core*.so")) and (VENV / "bin" / "oqim").exists()
    if is_built and read(stamp) == digest.hexdigest():
        return
    command: list[str | Path] = [VENV / "bin" / "maturin", "develop", "--release", "--quiet"]
    run("Building the compiled module", command, VIRTUAL_ENV=str(VENV), PIP_QUIET="1")
    stamp.write_text(digest.hexdigest())


def read(stamp: Path) -> str:
    """Return what a stamp holds, nothing when it is not there."""
    return stamp.read_text() if stamp.exists() else ""


class StepFailed(Exception):
    """A command failed; the message has its last lines and its log."""


def run(title: str, command: Sequence[str | Path], **environment: str) -> None:
    """Run a command that may take minutes, showing that it is alive; its output goes to a log.

    Raises:
        StepFailed: it ended with a status other than 0.
    """
    began = time.monotonic()
    finished = threading.Event()
    teller = threading.Thread(target=tell, args=(title, began, finished), daemon=True)
    teller.start()
    try:
        with LOG.open("w") as log:
            status = subprocess.run(
                [str(part) for part in command],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
    finally:
        finished.set()
        teller.join()
    if status != 0:
        words = LOG.read_text(errors="replace").splitlines()[-30:]
        raise StepFailed("\n".join([f"✗ {title}", *(f"    {w}" for w in words), f"See {LOG}"]))
    print(f"✓ {title}  {time.monotonic() - began:.0f} s", flush=True)


def tell(title: str, began: float, finished: threading.Event) -> None:
    """Show a running time: in place on a terminal, a line now and then elsewhere."""
    is_terminal = sys.stdout.isatty()
    print(f"… {title}", end="" if is_terminal else "\n", flush=True)
    while not finished.wait(1.0 if is_terminal else TELL_EVERY_S):
        text = f"… {title}  {time.monotonic() - began:.0f} s"
        print(f"\r{text}" if is_terminal else text, end="" if is_terminal else "\n", flush=True)
    if is_terminal:
        print("\r\x1b[2K", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
