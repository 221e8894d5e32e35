"""Programs that serve while a run needs them: waited for, and ended whatever they do."""

import os
import signal
import sys
from pathlib import Path

import pytest

from gateway.measuring import helpers
from gateway.measuring.helpers import Server
from gateway.sandbox.errors import SandboxError

SERVES = """
import pathlib, signal, sys
ready = pathlib.Path(sys.argv[1])
try:
    ready.touch()
    signal.pause()
except KeyboardInterrupt:
    ready.write_text("interrupted")
"""
STUBBORN = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
while True:
    signal.pause()
"""


async def started(tmp_path: Path, script: str) -> Server:
    """Start a program that is told which file to make when it is ready."""
    command = (sys.executable, "-c", script, str(tmp_path / "ready"))
    return await Server.start(command, os.environ, tmp_path / "log", name="the server")


async def ready(tmp_path: Path, script: str) -> Server:
    """Start one and wait until it is ready."""
    server = await started(tmp_path, script)

    async def is_ready() -> bool:
        return (tmp_path / "ready").exists()

    await server.until_ready(is_ready)
    return server


async def never() -> bool:
    return False


async def test_a_server_is_waited_for_and_interrupted(tmp_path: Path) -> None:
    server = await ready(tmp_path, SERVES)
    await server.stop()
    assert (tmp_path / "ready").read_text() == "interrupted"
    assert server.process.returncode == 0


async def test_a_server_that_ends_instead_is_told_with_its_last_words(tmp_path: Path) -> None:
    server = await started(tmp_path, "raise SystemExit('no database')")
    with pytest.raises(SandboxError, match=r"(?s)the server did not start.*no database"):
        await server.until_ready(never)
    await server.stop()
    assert server.process.returncode == 1


async def test_a_server_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither until it is ready nor, when it will not be interrupted, until it ends."""
    server = await ready(tmp_path, STUBBORN)
    monkeypatch.setattr(helpers, "READY_WITHIN_S", 0.2)
    monkeypatch.setattr(helpers, "STOP_WITHIN_S", 0.2)
    with pytest.raises(SandboxError, match="the server did not start"):
        await server.until_ready(never)
    assert server.process.returncode is None
    await server.stop()
    assert server.process.returncode == -signal.SIGKILL
