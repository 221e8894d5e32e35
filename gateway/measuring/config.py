"""The configuration of a benchmark's sandbox: the one in use, and beside it what is measured apart.

A scheme `direct` whose processor is the immediate connector of `loadtests/immediate/`; the same
with a limit on its one merchant, `hot` (never reached), `capped` and `shared` (reached). Nothing
here is in a configuration that anybody else reads: the folder is the run's own, and goes with it.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from gateway.sandbox.errors import SandboxError
from gateway.settings import config_dir

CONNECTOR = "immediate"
DIRECT, HOT, CAPPED, SHARED = "direct", "hot", "capped", "shared"
SCHEMES = (DIRECT, HOT, CAPPED, SHARED)
# Payments that the merchant may take over `capped`, and over `shared`.
CAP = 3_000

_ROUTE = """
[[routes]]
operation = "purchase"
source_scheme = "{scheme}"
currencies = ["UZS"]
legs = [{{ connector = "{connector}", kind = "purchase" }}]
"""
_LIMIT = """
[[limit_policies]]
id = "merchant-{scheme}"
version = 1
priority = 100
subject = "merchant"
match = {{ scheme = ["{scheme}"] }}
window = {{ kind = "calendar", unit = "year" }}
max_count = {most}
currency = "UZS"
"""
# A worker that holds ten thousand payments of one slow processor: nobody is turned away for it.
WIDE = {
    "settings": {
        "in_flight_max = 4096": "in_flight_max = 20000",
        "connections_max = 10000": "connections_max = 20000",
        "inside_first = 512": "inside_first = 20000",
        "inside_min = 64": "inside_min = 20000",
        "inside_max = 2048": "inside_max = 20000",
        "queue_size_max = 8192": "queue_size_max = 20000",
    },
    "connectors": {
        "in_flight_max = 1024": "in_flight_max = 20000\ntimeout_ms = 60000",
    },
}


def write(folder: Path, loadtests: Path) -> dict[str, str]:
    """Write the configuration into a folder; returns the environment that uses it.

    Raises:
        SandboxError: the configuration in use has another form than is known here.
    """
    _copy(folder)
    settings = folder / "settings.toml"
    text, count = re.subn(
        r"^enabled = \[", f'enabled = ["{CONNECTOR}", ', settings.read_text(), flags=re.MULTILINE
    )
    if count != 1:
        raise SandboxError("settings.toml has not one line `enabled = [...]` of connectors")
    settings.write_text(text)
    _append(
        folder / "routing.toml", *(_ROUTE.format(scheme=s, connector=CONNECTOR) for s in SCHEMES)
    )
    _append(folder / "connectors.toml", f'\n[{CONNECTOR}]\nmoves = "nothing"\n')
    limits = ((HOT, 10**9), (CAPPED, CAP), (SHARED, CAP))
    _append(folder / "limits.toml", *(_LIMIT.format(scheme=s, most=most) for s, most in limits))
    return {
        "OQIM_CONFIG_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(
            [str(loadtests / CONNECTOR), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }


def widen(source: Path, folder: Path) -> dict[str, str]:
    """Write a configuration again with room for many payments; returns what uses it. Raises
    SandboxError."""
    return _change(source, folder, WIDE)


def listen(source: Path, folder: Path, address: str) -> dict[str, str]:
    """Write a configuration again that listens elsewhere; returns what uses it. Raises
    SandboxError."""
    change = {'host = "127.0.0.1"': f'host = "{address}"'}
    return _change(source, folder, {"settings": change})


def _change(source: Path, folder: Path, files: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    shutil.copytree(source, folder)
    for name, changes in files.items():
        path = folder / f"{name}.toml"
        path.write_text(_changed(path.read_text(), changes, path.name))
    return {"OQIM_CONFIG_DIR": str(folder)}


def _changed(text: str, changes: Mapping[str, str], name: str) -> str:
    for before, after in changes.items():
        if before not in text:
            raise SandboxError(f"{name} has no {before!r}, which a law of scale changes")
        text = text.replace(before, after, 1)
    return text


def _copy(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for source in config_dir(os.environ).glob("*.toml"):
        shutil.copyfile(source, folder / source.name)


def _append(path: Path, *parts: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(parts)


def used_by(sandbox_file: Path) -> dict[str, str]:
    """Return the environment that `write` made for a sandbox; nothing when another made it."""
    folder = sandbox_file.parent / "config"
    return {"OQIM_CONFIG_DIR": str(folder)} if folder.is_dir() else {}
