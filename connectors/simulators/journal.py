"""The append-only file a scheme's ledger is rebuilt from.

One JSON document a line, handed to the operating system before the reply leaves: it survives
`kill -9` of this process (not the loss of the machine, which no simulator needs). A torn last line
is the trace of such an end and is cut off; anything else unreadable stops the start.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LINE_SIZE_MAX = 1 << 20


class JournalError(Exception):
    """The journal cannot be used: held by another process, or damaged before its last line."""


class Journal:
    """One file, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create `path` and take its lock.

        Raises:
            JournalError: another process holds it.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise JournalError(f"{path} is held by another process") from error

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield each whole line as `(number from 1, bytes)` and cut off a torn last one."""
        end = 0
        with open(self.path, "rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LINE_SIZE_MAX), b""), 1):
                if not line.endswith(b"\n"):
                    if len(line) == LINE_SIZE_MAX:
                        raise JournalError(f"{self.path} line {number} is too long")
                    break
                end += len(line)
                yield number, line
        if end < os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, end)

    def cut_at_line(self, number: int) -> bool:
        """Drop line `number` when it is the last one. Returns: False when lines follow it."""
        with open(self.path, "rb") as stream:
            for _ in range(number - 1):
                stream.readline()
            start = stream.tell()
            stream.readline()
            if stream.read(1):
                return False
        os.ftruncate(self._descriptor, start)
        return True

    def append(self, document: bytes) -> None:
        """Write one document as one line, in one system call."""
        line = document + b"\n"
        written = os.write(self._descriptor, line)
        while written < len(line):
            written += os.write(self._descriptor, line[written:])

    def clear(self) -> None:
        """Forget everything."""
        os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._descriptor)
