"""How far something slow has come: a bar on a terminal, elsewhere a plain line every few seconds.

Owns the words on the screen while something is counted. Findings go to standard output, so that
they can be piped on; progress never does.
"""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0


class Counter:
    """Shows how many of how many are done, while it is entered."""

    def __init__(self, noun: str, stream: TextIO, *, findings: TextIO | None = None) -> None:
        """Speak on a stream, which must outlive the object.

        Args:
            noun: what is counted, in the plural.
            findings: where `print` writes; standard output by default.
        """
        self._noun = noun
        self._stream = stream
        self._findings = findings
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream, force_terminal=self._is_terminal),
            disable=not self._is_terminal,
            # It holds `print` back to lines above the bar; ours go where they are told to.
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._task = self._bar.add_task(noun, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self._bar.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if not self._is_terminal and now - self._said_at >= LINE_EVERY_S:
            self._said_at = now
            print(f"… {done} of {total} {self._noun}", file=self._stream, flush=True)

    def print(self, finding: str) -> None:
        """Write one line of what was found."""
        if self._is_terminal:
            # Off the line of the bar, in case both are the same terminal.
            self._bar.stop()
        print(finding, file=self._findings, flush=True)
        if self._is_terminal:
            self._bar.start()
