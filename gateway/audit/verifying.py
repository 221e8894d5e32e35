"""The command around `verify`: what it reads, what it says, and how it ends."""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path

import msgspec

from gateway.audit.verify import Anchor, Report, UnreadableExport, verify
from gateway.kernel.progress import Counter

EXIT_HOLDS, EXIT_BROKEN, EXIT_UNREADABLE = 0, 1, 2


def verify_file(file: Path, *, key: str | None, anchor: Path | None) -> int:
    """Check a file and tell what was found; returns the status to end with."""
    try:
        known = None if key is None else base64.b64decode(key, validate=True)
        kept = None if anchor is None else msgspec.json.decode(anchor.read_bytes(), type=Anchor)
        size = file.stat().st_size
        with file.open("rb") as lines, Counter("lines", sys.stderr) as counter:
            # How many there are is not known; most are of a like length.
            total = max(1, size // 400)
            report = verify(
                lines,
                key=known,
                anchor=kept,
                advance=lambda done: counter.advance(done, max(done, total)),
            )
    except (OSError, UnreadableExport, binascii.Error, msgspec.MsgspecError) as error:
        print(f"oqim: {error}", file=sys.stderr)
        return EXIT_UNREADABLE
    _tell(report, is_key_given=key is not None)
    return EXIT_BROKEN if report.faults else EXIT_HOLDS


def _tell(report: Report, *, is_key_given: bool) -> None:
    for fault in report.faults:
        print(fault)
    state = "broken" if report.faults else "holds"
    print(
        f"audit log: {state}; {report.records} records, {report.decisions} decisions, "
        f"{report.roots} roots; {report.unsigned} records are later than the last root"
    )
    if not is_key_given:
        print(f"the roots were checked by the export's own key {report.key}; give yours with --key")
