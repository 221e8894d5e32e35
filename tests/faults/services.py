"""The sandbox's services as processes, so that they can be killed or stopped."""

from pathlib import Path
from urllib.parse import urlsplit

from tests.house import House


def pid_of(house: House, service: str) -> int:
    """Return the process of a sandbox's service: `postgres` or `valkey`."""
    if service == "postgres":
        # A process it has just made still has its command line; it is the oldest.
        return min(house.pids_of("postgres\x00-D"))
    # It puts its address where its command line was.
    title = f"valkey-server 127.0.0.1:{urlsplit(house.description['redis_url']).port}"
    (found,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and title in _command_of(entry)
    ]
    return found


def _command_of(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        # It has ended meanwhile.
        return ""
