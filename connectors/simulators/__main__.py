"""The simulators' process: arguments, listening sockets, the ready file, and the end.

It ends at SIGTERM or SIGINT, or with its parent when asked to. What it recorded survives any end.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from connectors.simulators.control import Control
from connectors.simulators.front import HttpFront
from connectors.simulators.humo import TTL_MINUTES_DEFAULT, Humo
from connectors.simulators.journal import JournalError
from connectors.simulators.uzcard import Uzcard
from connectors.simulators.visa import Visa

BACKLOG = 1024
SHUTDOWN_S = 1.0
PARENT_POLL_S = 0.5

DESCRIPTION = """\
Run the UZCARD, HUMO and VISA processors of a sandbox, each with a ledger of its own.

  UZCARD  SVGate JSON-RPC 2.0        POST / (Basic)
  HUMO    SOAP urn:PaymentServer     POST / (Basic), card data POST /v3/iiacs/card (Bearer)
  VISA    ISO 8583:1987 over TCP     4-byte prefix, 22-byte header; control on a port of its own
"""

EPILOG = """\
Ports are chosen by the system unless given; the ready file, written once all of them listen, is
  {"uzcard": {"url": ...}, "humo": {"url": ...}, "visa": {"host", "port", "control_url"}}

Every scheme is driven over HTTP beneath /_sim/ (GET /_sim/ lists the routes):
  curl $URL/_sim/ledger?limit=10                                 what happened, by its own account
  curl -d '{"kind":"drop_reply_after_commit","count":1}' $URL/_sim/faults
  curl -d '{"advance_seconds":604800}' $URL/_sim/clock           let holds expire
  curl -d '{"pan":"8600000000000015","balance":0}' $URL/_sim/cards
  curl $URL/_sim/messages?to=+998901234567                       UZCARD's one-time codes
  curl $URL/_sim/report?day=2026-11-21                           HUMO's file of a day
  curl $CONTROL_URL/_sim/clearing?day=2026-11-21                 VISA's
  curl -d '{"rrn":"632514000123","kind":"0420"}' $CONTROL_URL/_sim/advices      (VISA)

Example:
  python -m connectors.simulators --data-dir var/simulators --ready-file var/simulators.json
"""


@dataclass(frozen=True, slots=True)
class Schemes:
    """The three processors of this process."""

    uzcard: Uzcard
    humo: Humo
    visa: Visa


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with a message when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m connectors.simulators",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of the journals, made if absent")
    add("--ready-file", type=Path, required=True, help="JSON file to write once all listen")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    for name in ("uzcard", "humo", "visa", "visa-control"):
        add(f"--{name}-port", type=_port, default=0, help="0 lets the system choose (default)")
    add("--login", default="oqim", help="Basic login of UZCARD and HUMO (default: %(default)s)")
    add("--password", default="sandbox", help="its password (default: %(default)s)")
    add("--bearer", default="sandbox", help="token of HUMO's card data (default: %(default)s)")
    add("--seed", type=int, default=1, help="of faults by rate and of codes (default: 1)")
    add(
        "--humo-ttl-minutes",
        type=_positive,
        default=TTL_MINUTES_DEFAULT,
        help="life of an unconfirmed HUMO payment (default: %(default)s)",
    )
    add(
        "--humo-request-action",
        type=int,
        choices=(4, 10),
        default=4,
        help="`action` after a HUMO P2P create; clients disagree (default: %(default)s)",
    )
    add(
        "--humo-sender-data-from",
        type=_positive,
        help="tiyin from which a HUMO credit wants sender data, e.g. 1200000000 (default: never)",
    )
    add("--exit-with-parent", action="store_true", help="end when the starting process ends")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("0 to 65535")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


async def serve(arguments: argparse.Namespace, parent: int) -> None:
    """Listen, say so, and serve until told to end.

    Args:
        parent: process id of the parent when this process began.

    Raises:
        OSError: a port is taken. JournalError: a journal is held elsewhere or damaged.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    schemes = _schemes(arguments)
    async with contextlib.AsyncExitStack() as stack:
        ready = await _listen(arguments, schemes, stack)
        if arguments.exit_with_parent:
            stack.enter_context(_watch_parent(parent, stop))
        _write_ready(arguments.ready_file, ready)
        # What lives from here on is the ledger, which has no cycles to collect.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        await stop.wait()
    schemes.visa.close()
    for ledger in (schemes.uzcard.ledger, schemes.humo.ledger, schemes.visa.ledger):
        ledger.close()


def _schemes(arguments: argparse.Namespace) -> Schemes:
    data_dir = arguments.data_dir
    login, password, seed = arguments.login, arguments.password, arguments.seed
    return Schemes(
        uzcard=Uzcard(data_dir, login=login, password=password, seed=seed),
        humo=Humo(
            data_dir,
            login=login,
            password=password,
            bearer=arguments.bearer,
            seed=seed,
            ttl_minutes=arguments.humo_ttl_minutes,
            request_action=arguments.humo_request_action,
            sender_data_from=arguments.humo_sender_data_from,
        ),
        visa=Visa(data_dir, seed=seed),
    )


async def _listen(
    arguments: argparse.Namespace, schemes: Schemes, stack: contextlib.AsyncExitStack
) -> dict[str, dict[str, str | int]]:
    uzcard, humo, visa = schemes.uzcard, schemes.humo, schemes.visa
    host = arguments.host
    fronts = {
        "uzcard": HttpFront(uzcard, uzcard.faults, Control(uzcard, uzcard.routes())),
        "humo": HttpFront(humo, humo.faults, Control(humo, humo.routes())),
        "visa_control": HttpFront(None, visa.faults, Control(visa, visa.routes())),
    }
    urls = {}
    for name, front in fronts.items():
        port = await _listen_http(front.server(), host, getattr(arguments, f"{name}_port"), stack)
        urls[name] = f"http://{host}:{port}"
    loop = asyncio.get_running_loop()
    server = await loop.create_server(visa.protocol, host, arguments.visa_port, backlog=BACKLOG)
    stack.callback(server.close)
    return {
        "uzcard": {"url": urls["uzcard"]},
        "humo": {"url": urls["humo"]},
        "visa": {
            "host": host,
            "port": server.sockets[0].getsockname()[1],
            "control_url": urls["visa_control"],
        },
    }


async def _listen_http(
    factory: web.Server, host: str, port: int, stack: contextlib.AsyncExitStack
) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, host, port, backlog=BACKLOG)
    stack.push_async_callback(factory.shutdown, SHUTDOWN_S)
    # Before that: idle connections are closed at once, instead of being waited for.
    stack.callback(factory.pre_shutdown)
    stack.callback(server.close)
    bound: int = server.sockets[0].getsockname()[1]
    return bound


def _write_ready(path: Path, ready: dict[str, dict[str, str | int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(ready) + b"\n")
    partial.replace(path)


@contextlib.contextmanager
def _watch_parent(parent: int, stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` when the parent ends; also when it ended before this was called."""
    loop = asyncio.get_running_loop()

    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        if os.getppid() != parent:
            stop.set()
        else:
            timer = loop.call_later(PARENT_POLL_S, look)

    look()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def main() -> int:
    """Run the process. Returns: its exit status."""
    parent = os.getppid()
    arguments = parse_arguments()
    try:
        uvloop.run(serve(arguments, parent))
    except (OSError, JournalError) as error:
        print(f"simulators: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
