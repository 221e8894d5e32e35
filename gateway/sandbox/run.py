"""`oqim sandbox`: everything on one machine, from one command, with nothing to install first."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from gateway.kernel import secrets as keys_module
from gateway.kernel.crew import FOLDER
from gateway.kernel.db import migrate
from gateway.kernel.secrets import Keys
from gateway.kernel.vault.providers import make_share
from gateway.sandbox import seed
from gateway.sandbox.datadir import DataDirectory, free_port, require_port, write_private
from gateway.sandbox.embedded import EmbeddedServices
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress
from gateway.sandbox.supervisor import ChildSpec, Supervisor
from gateway.settings import Settings

LOGIN, PASSWORD, BEARER = "oqim", "sandbox", "sandbox"
_PROBE_TIMEOUT_S = 2.0
# Clients of a sandbox that stops have nowhere else to go: their connections are not drained first.
STOP_AT_ONCE = ((signal.SIGINT, 25.0), (signal.SIGKILL, 5.0))


async def sandbox(settings: Settings) -> int:
    """Run the sandbox until it is asked to stop; returns the exit code."""
    progress = Progress()
    try:
        async with Supervisor(settings.data_dir, progress, handle_signals=True) as supervisor:
            await _start(settings, supervisor, progress)
            await supervisor.wait()
    except SandboxError as error:
        progress.error(str(error))
        return error.exit_code
    return 0


async def _start(settings: Settings, supervisor: Supervisor, progress: Progress) -> None:
    require_port(settings.http.port, variable="OQIM_PORT", host=settings.http.host)
    directory = supervisor.directory
    database_url, redis_url = await _services(settings, supervisor, progress)
    with progress.step("Migrating the database") as step:
        await asyncio.to_thread(migrate.apply, database_url, step.note)
    keys = _keys(settings)
    simulators = await _simulators(directory, supervisor, progress)
    environment = os.environ | {
        "OQIM_DATABASE_URL": database_url,
        "OQIM_REDIS_URL": redis_url,
        "OQIM_KEYS_FILE": str(_keys_file(settings)),
        "OQIM_KEK_SHARES": os.pathsep.join(map(str, _shares(settings))),
        "OQIM_DATA_DIR": str(settings.data_dir),
        "OQIM_PORT": str(settings.http.port),
        "OQIM_CONNECTORS": json.dumps(_connector_settings(simulators)),
        "OQIM_SIMULATORS": json.dumps(control_urls(simulators)),
        "OQIM_SANDBOX": "1",
    }
    with progress.step("Seeding users, cards, a merchant and operators") as step:
        description = await seed.seed(environment, keys, control_urls(simulators), step.note)
    base_url = f"http://{settings.http.host}:{settings.http.port}"
    with progress.step(f"Starting the gateway ({settings.workers} worker(s))"):
        await supervisor.start(
            *(
                ChildSpec(
                    name=f"worker-{number}",
                    argv=[sys.executable, "-m", "gateway", "serve"],
                    env=environment | {"OQIM_WORKER": str(number)} | _mates(settings),
                    cwd=Path.cwd(),
                    ready=_answers(f"{base_url}/readyz"),
                    stop=STOP_AT_ONCE,
                )
                for number in range(1, settings.workers + 1)
            )
        )
    description = {"base_url": base_url, "database_url": database_url, "redis_url": redis_url} | (
        description
    )
    path = settings.data_dir / "sandbox.json"
    write_private(path, json.dumps(description, indent=1))
    _tell(progress, path, description)


async def _services(
    settings: Settings, supervisor: Supervisor, progress: Progress
) -> tuple[str, str]:
    """Start what was not given by URL."""
    if settings.database.url and settings.redis.url:
        return settings.database.url, settings.redis.url
    services = EmbeddedServices(settings.data_dir, progress, supervisor=supervisor)
    await services.start()
    return (
        settings.database.url or services.database_url,
        settings.redis.url or services.redis_url,
    )


def _mates(settings: Settings) -> dict[str, str]:
    """Return what lets several workers tell their metrics in one scrape."""
    if settings.workers == 1:
        return {"OQIM_WORKERS": "1"}
    folder = settings.data_dir / "crew"
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.glob("*.sock"):
        left.unlink()
    return {"OQIM_WORKERS": "1", FOLDER: str(folder)}


def _keys_file(settings: Settings) -> Path:
    return settings.data_dir / "keys.json"


def _shares(settings: Settings) -> list[Path]:
    """Return the sandbox's own shares of the key-encryption key, made when there are none."""
    if settings.vault.kek_shares:
        return [Path(one) for one in settings.vault.kek_shares]
    paths = [settings.data_dir / f"kek-{number}.share" for number in (1, 2)]
    for path in paths:
        with suppress(FileExistsError):
            make_share(path)
    return paths


def _keys(settings: Settings) -> Keys:
    path = _keys_file(settings)
    try:
        if path.exists():
            return keys_module.complete(path, keys_module.load(path))
        return keys_module.create(path, settings.connectors.enabled)
    except keys_module.KeysError as error:
        raise SandboxError(str(error)) from error


async def _simulators(
    directory: DataDirectory, supervisor: Supervisor, progress: Progress
) -> dict[str, dict[str, object]]:
    """Start the processors' machines; returns where they listen."""
    folder = directory.path / "simulators"
    folder.mkdir(exist_ok=True)
    ready_file = folder / "ready.json"
    # Fixed, so that a simulator that is started again is found where it was.
    ports = _ports(folder / "ports.json")
    arguments = [f"--{name}={port}" for name, port in ports.items()]

    async def forget() -> None:
        ready_file.unlink(missing_ok=True)

    async def is_ready() -> bool:
        return ready_file.exists()

    with progress.step("Starting the simulators of UZCARD, HUMO and VISA"):
        await supervisor.start(
            ChildSpec(
                name="simulators",
                argv=[
                    sys.executable,
                    "-m",
                    "connectors.simulators",
                    f"--data-dir={folder}",
                    f"--ready-file={ready_file}",
                    f"--login={LOGIN}",
                    f"--password={PASSWORD}",
                    f"--bearer={BEARER}",
                    *arguments,
                ],
                cwd=Path.cwd(),
                prepare=forget,
                ready=is_ready,
            )
        )
    ready: dict[str, dict[str, object]] = json.loads(ready_file.read_text())
    return ready


def _ports(path: Path) -> dict[str, int]:
    known = json.loads(path.read_text()) if path.exists() else {}
    names = ("uzcard-port", "humo-port", "visa-port", "visa-control-port")
    ports: dict[str, int] = {}
    for name in names:
        port = free_port(known.get(name))
        while port in ports.values():
            port = free_port()
        ports[name] = port
    path.write_text(json.dumps(ports))
    return ports


def _connector_settings(simulators: dict[str, dict[str, object]]) -> dict[str, object]:
    login = {"login": LOGIN, "password": PASSWORD}
    return {
        "uzcard": {"base_url": simulators["uzcard"]["url"]} | login,
        "humo": {
            "base_url": simulators["humo"]["url"],
            "token": BEARER,
            "report_place": f"{simulators['humo']['url']}/_sim/report",
        }
        | login,
        "visa": {
            "host": simulators["visa"]["host"],
            "port": simulators["visa"]["port"],
            "report_place": f"{simulators['visa']['control_url']}/_sim/clearing",
        },
    }


def control_urls(simulators: dict[str, dict[str, object]]) -> dict[str, str]:
    """Return each scheme's control URL (`/_sim/...` is below it)."""
    return {
        "visa": str(simulators["visa"]["control_url"]),
        "humo": str(simulators["humo"]["url"]),
        "uzcard": str(simulators["uzcard"]["url"]),
    }


def _answers(url: str) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
            return reply.status == 200

    return answers


def _tell(progress: Progress, path: Path, description: dict[str, Any]) -> None:
    base_url = description["base_url"]
    progress.say(f"\nOqim is ready at {base_url}")
    progress.say(f"  API reference     {base_url}/docs")
    progress.say(f"  Users and tokens  {path}")
    for scheme, url in description["simulators"].items():
        progress.say(f"  {scheme.upper():<7} ledger    {url}/_sim/ledger")
    progress.say("\nPay with each scheme:")
    for scheme in ("visa", "humo", "uzcard"):
        progress.say(f"\n{curl(description, scheme)}")
    progress.say("\nCtrl-C stops everything.")


def curl(description: dict[str, Any], scheme: str) -> str:
    """Return a command that pays the seeded merchant with the first user's card."""
    user = description["users"][0]
    body = json.dumps(
        {
            "operation": "purchase",
            "amount": 1250000,
            "currency": "UZS",
            "source": {"card": user["cards"][scheme]},
            "destination": {"merchant": description["merchant"]["id"]},
        }
    )
    return (
        f"curl -sS {description['base_url']}/v1/payments \\\n"
        f"  -H 'Authorization: Bearer {user['access_token']}' \\\n"
        f"  -H 'Content-Type: application/json' -H \"Idempotency-Key: $RANDOM-$RANDOM\" \\\n"
        f"  -d '{body}'"
    )
