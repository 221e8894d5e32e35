"""`oqim decide`: the core on a dated history, without database, network or clock.

Reads and writes whole lines, megabytes at a time; what was decided before a line that cannot be
is written before the error is told.
"""

import os
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.core import Decider

CHUNK_BYTES = 4 * 1_048_576
LINE_BYTES_MAX = 1_048_576


class DecideError(Exception):
    """The rules or a line cannot be read; the text says which and why."""


def decide(rules: Path, lines: BufferedReader, decisions: BinaryIO) -> int:
    """Decide a history, and return how many lines it had.

    Args:
        rules: a file of `{"limit_policies", "commission_plans", "rates"}`.
        lines: one event a line, in order of time.
        decisions: takes a line for each.

    Raises:
        DecideError: nothing after the line it names was decided.
    """
    try:
        decider = Decider(rules.read_bytes())
    except OSError as error:
        raise DecideError(f"{rules}: {error.strerror}") from error
    except ValueError as error:
        raise DecideError(f"{rules} cannot be used:\n{error}") from error
    count = 0
    with _progress() as progress:
        task = progress.add_task("deciding", total=_size(lines), lines=0)
        for chunk in whole_lines(lines):
            try:
                decided = decider.feed(chunk)
            except ValueError as error:
                message, before = error.args
                decisions.write(before)
                decisions.flush()
                raise DecideError(message) from error
            decisions.write(decided)
            decisions.flush()
            count += decided.count(b"\n")
            progress.update(task, advance=len(chunk), lines=count)
    return count


def whole_lines(lines: BufferedReader) -> Iterator[bytes]:
    """Give the stream in pieces that end where a line does."""
    rest = b""
    while True:
        # What has come is decided: whoever writes may wait for the answer.
        chunk = lines.read1(CHUNK_BYTES)
        if not chunk:
            break
        rest += chunk
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > LINE_BYTES_MAX:
            raise DecideError("a line is longer than 1 MiB")
    if rest:
        yield rest


def _size(lines: BufferedReader) -> int | None:
    """Return the bytes of a file; of a pipe nobody knows."""
    try:
        status = os.fstat(lines.fileno())
    except OSError:
        return None
    return status.st_size or None


def _progress() -> Progress:
    """A bar on a terminal's standard error, and nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeElapsedColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    )
