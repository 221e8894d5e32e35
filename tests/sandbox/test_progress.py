"""What the person who starts the sandbox sees, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import threading

import pytest

from gateway.sandbox import progress
from gateway.sandbox.progress import Progress, SilentProgress


def test_a_quick_step_is_one_plain_line() -> None:
    """Title, outcome and duration; no control characters."""
    stream = io.StringIO()
    with Progress(stream).step("Starting PostgreSQL") as step:
        step.note("port 5432")
    assert re.fullmatch(r"✓ Starting PostgreSQL \(port 5432\)  \d\.\d s\n", stream.getvalue())


def test_a_failed_step_says_so_and_passes_the_exception_on() -> None:
    """The mark differs, the exception is the caller's."""
    stream = io.StringIO()
    with pytest.raises(ValueError, match="full"), Progress(stream).step("Copying"):
        raise ValueError("disk full")
    assert re.fullmatch(r"✗ Copying  \d\.\d s\n", stream.getvalue())


def test_a_long_step_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come while the step blocks its thread."""
    monkeypatch.setattr(progress, "ALIVE_AFTER_S", 0.01)
    monkeypatch.setattr(progress, "ALIVE_EVERY_S", 0.01)
    stream = Recorder(lines=3)
    with Progress(stream).step("Building"):
        assert stream.has_lines.wait(10)
    lines = stream.getvalue().splitlines()
    assert set(lines[:2]) == {"… Building, 0 s so far"}
    assert lines[-1].startswith("✓ Building  ")


class Recorder(io.StringIO):
    """A stream that tells when so many lines were written."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.has_lines = threading.Event()
        self._lines = lines

    def write(self, text: str) -> int:
        """Write, and count."""
        written = super().write(text)
        if self.getvalue().count("\n") >= self._lines:
            self.has_lines.set()
        return written


def test_overlapping_steps_share_the_terminals_line() -> None:
    """Both titles are drawn together; each ends with a line of its own."""
    stream = io.StringIO()
    told = Progress(stream, is_terminal=True)
    with told.step("PostgreSQL"), told.step("Valkey"):
        told.say("between")
    text = stream.getvalue()
    assert "PostgreSQL, Valkey" in text
    assert [word in text for word in ("between", "✓", "0.0 s")] == [True, True, True]


def test_markup_in_a_message_is_text() -> None:
    """Brackets of a path or a log line are shown, not interpreted."""
    stream = io.StringIO()
    told = Progress(stream)
    told.warn("see [bold]x[/bold] in [/tmp]")
    told.error("[red]y")
    assert stream.getvalue() == "! see [bold]x[/bold] in [/tmp]\n✗ [red]y\n"


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """Tests and programs that only want the services see nothing."""
    told = SilentProgress()
    with told.step("anything") as step:
        step.note("more")
        told.warn("even this")
    assert capsys.readouterr() == ("", "")
