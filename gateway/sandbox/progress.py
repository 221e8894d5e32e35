"""What the sandbox tells the person who started it: steps with their duration, notes, warnings.

On a terminal a spinner (rich) stands for the steps that are under way; elsewhere (CI, a log file)
every step is a plain line. A step that takes longer than a second shows that it is alive, also
while it blocks the event loop: that is why it is driven by a thread.

Owns the words on the screen only. It never decides anything, and never prints a secret: callers
must not hand it one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

ALIVE_AFTER_S = 1.0
ALIVE_EVERY_S = 5.0


class Step:
    """One step under way; `note` adds what it is doing just now, or what came of it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self._started = time.monotonic()

    def note(self, detail: str) -> None:
        """Set the words that follow the title from now on."""
        self.detail = detail

    def elapsed_s(self) -> float:
        """Return the seconds since the step began."""
        return time.monotonic() - self._started

    def words(self) -> str:
        """Return the title with its detail."""
        return f"{self.title} ({self.detail})" if self.detail else self.title


class Progress:
    """Tells steps, notes and warnings on one stream.

    Steps may overlap (PostgreSQL and Valkey start together), and may be opened from any thread.
    """

    def __init__(self, stream: TextIO | None = None, *, is_terminal: bool | None = None) -> None:
        """Speak on `stream` (standard error by default).

        Args:
            stream: Where to write; it must outlive the object.
            is_terminal: Whether to draw; by default what the stream says of itself, unless `TERM`
                is `dumb`.
        """
        self._stream = sys.stderr if stream is None else stream
        if is_terminal is None:
            is_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._console = Console(
            file=self._stream,
            force_terminal=is_terminal,
            highlight=False,
            soft_wrap=True,
        )
        self._is_terminal = is_terminal
        self._lock = threading.RLock()
        self._active: list[Step] = []
        self._live: Live | None = None
        self._spinner = Spinner("dots")

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show `title` while the block runs, then whether it succeeded and how long it took.

        Cancellation is shown as such; every exception passes through.
        """
        step = Step(title)
        self._begin(step)
        finished = threading.Event()
        alive = None
        if not self._is_terminal:
            alive = threading.Thread(
                target=self._tell_alive, args=(step, finished), name="progress", daemon=True
            )
            alive.start()
        succeeded = False
        try:
            yield step
            succeeded = True
        finally:
            finished.set()
            if alive is not None:
                alive.join()
            self._end(step, succeeded=succeeded)

    def say(self, text: str) -> None:
        """Print one line."""
        self._print(Text(text))

    def warn(self, text: str) -> None:
        """Print what the reader should look at, though the sandbox goes on."""
        self._print(Text("! ", style="yellow").append(text, style="default"))

    def error(self, text: str) -> None:
        """Print what ended the sandbox; the text says what to do."""
        self._print(Text("✗ ", style="red").append(text, style="default"))

    def _begin(self, step: Step) -> None:
        with self._lock:
            self._active.append(step)
            if self._is_terminal and self._live is None:
                self._live = Live(
                    console=self._console,
                    get_renderable=self._render,
                    refresh_per_second=8,
                    transient=True,
                )
                self._live.start()
            elif self._live is not None:
                self._live.refresh()

    def _end(self, step: Step, *, succeeded: bool) -> None:
        with self._lock:
            self._active.remove(step)
            if self._live is not None and not self._active:
                self._live.stop()
                self._live = None
        mark = Text("✓ ", style="green") if succeeded else Text("✗ ", style="red")
        self._print(
            mark.append(step.words(), style="default").append(
                f"  {step.elapsed_s():.1f} s", style="dim"
            )
        )

    def _render(self) -> RenderableType:
        # Without our lock: the drawing thread calls this holding rich's own, which a thread that
        # prints takes after ours. A copy of the list is enough.
        active = tuple(self._active)
        words = ", ".join(step.words() for step in active)
        elapsed_s = max((step.elapsed_s() for step in active), default=0.0)
        tail = f"  {elapsed_s:.0f} s" if elapsed_s >= ALIVE_AFTER_S else ""
        self._spinner.update(text=Text(words + tail))
        return self._spinner

    def _tell_alive(self, step: Step, finished: threading.Event) -> None:
        wait_s = ALIVE_AFTER_S
        while not finished.wait(wait_s):
            self._print(Text(f"… {step.words()}, {step.elapsed_s():.0f} s so far"))
            wait_s = ALIVE_EVERY_S

    def _print(self, text: Text) -> None:
        with self._lock:
            self._console.print(text)
            self._stream.flush()


class SilentProgress(Progress):
    """Says nothing: for tests, and for programs that only want the services."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run the block and show nothing."""
        yield Step(title)

    def _print(self, text: Text) -> None:
        return
