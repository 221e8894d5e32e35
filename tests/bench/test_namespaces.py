"""Another host on this machine: what is there reaches what it was told of, and nothing else."""

import asyncio
import json
import sys

import pytest
from aiohttp import ClientError, ClientSession, web

from gateway.bench.namespaces import another_host, ports, wired
from gateway.sandbox.datadir import free_port
from tests.house import until
from tests.measuring.helpers import serving

ASK = """
import sys, urllib.request
for url in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(url, timeout=5).read().decode())
    except OSError as error:
        print("nobody")
"""


def variables(database: int, redis: int, visa: int) -> dict[str, str]:
    connectors = {
        "visa": {"host": "127.0.0.1", "port": visa},
        "humo": {"base_url": f"http://127.0.0.1:{visa + 1}", "token": "t"},
    }
    return {
        "OQIM_DATABASE_URL": f"postgresql://oqim:secret@127.0.0.1:{database}/oqim",
        "OQIM_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        "OQIM_CONNECTORS": json.dumps(connectors),
    }


def test_every_address_that_a_worker_is_told_of_is_found() -> None:
    assert ports(variables(1, 2, 3)) == {1, 2, 3, 4}


async def answer(request: web.BaseRequest) -> web.Response:
    return web.Response(text=f"from {request.path}")


async def test_another_host_is_reached_over_its_wires_alone() -> None:
    """Out to the ports that were named, in to the one that is listened on; loopback is its own."""
    async with another_host() as host, serving(answer) as url, ClientSession() as http:
        if host is None:
            pytest.skip("this machine permits no network namespaces")
        port = int(url.rpartition(":")[2])
        told, inside = variables(port, free_port(), free_port()), free_port()
        seen = host.environment(told)
        assert "127.0.0.1" not in " ".join(seen.values())
        assert f"@{host.ours}:{port}/" in seen["OQIM_DATABASE_URL"]
        async with wired(host, told, inside):
            process = await asyncio.create_subprocess_exec(
                *host.command(sys.executable, "-c", ASK, f"http://{host.ours}:{port}/out", url),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            assert out.decode().split("\n")[:2] == ["from /out", "nobody"]
            there = await asyncio.create_subprocess_exec(
                *host.command(sys.executable, "-m", "http.server", str(inside)),
                *("--bind", host.address),
                cwd="/proc/sys/net/ipv4",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:

                async def answers() -> bool:
                    try:
                        async with http.get(f"http://127.0.0.1:{inside}/ip_forward") as reply:
                            return reply.status == 200
                    except (OSError, ClientError):
                        return False

                await until(answers, within_s=20.0)
            finally:
                there.kill()
                await there.wait()
