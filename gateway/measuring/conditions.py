"""What a run is made on and with: the machine, the libraries, the servers and their settings."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis.asyncio

_LIBRARIES = (
    "aiohttp", "uvloop", "asyncpg", "redis", "hiredis", "msgspec", "pyjwt", "pyiso8583",
    "fastapi", "sqlalchemy", "uvicorn", "limits",
)  # fmt: skip
_POSTGRES_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
)


def machine() -> dict[str, Any]:
    """Return what a run is made on and with."""
    return {
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "processor": _processor(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "oqim": version("oqim"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """Return the processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


async def servers(connection: Any, redis_url: str) -> dict[str, Any]:
    """Return the servers' versions and what they were set to."""
    settings = {
        name: await connection.fetchval("SELECT current_setting($1)", name)
        for name in _POSTGRES_SETTINGS
    }
    client = redis.asyncio.Redis.from_url(redis_url)
    try:
        server = await client.info("server")
    finally:
        await client.aclose()
    return {
        "postgresql": settings,
        "valkey": server.get("valkey_version", server.get("redis_version")),
    }
