"""What a worker knows of its crew: whom to tell that it serves, and who its mates are.

A worker without a crew works as well; the names of the variables are here because both sides read
them.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

READY_FD, ALIVE_FD, FOLDER = "OQIM_READY_FD", "OQIM_ALIVE_FD", "OQIM_CREW_DIR"
ANSWER_WITHIN_S = 0.5
_PATH_BYTES_MAX = 100


class Crew:
    """This worker's place in its crew, from the environment.

    Args:
        environment: the process's.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.worker = environment.get("OQIM_WORKER", "")
        self._metrics: Callable[[], bytes] = bytes
        self._ready_fd = int(environment.get(READY_FD, -1))
        self._alive_fd = int(environment.get(ALIVE_FD, -1))
        folder = environment.get(FOLDER)
        path = Path(folder or "/") / f"{self.worker}-{os.getpid()}.sock"
        # A longer one cannot be bound: its metrics are then told one worker at a time.
        has_mates = folder is not None and len(os.fsencode(path)) <= _PATH_BYTES_MAX
        self._path = path if has_mates else None
        self._server: asyncio.Server | None = None

    async def open(self, metrics: Callable[[], bytes]) -> None:
        """Begin to tell mates the metrics of this worker, which are Prometheus text."""
        self._metrics = metrics
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._tell, self._path)

    def close(self) -> None:
        """Leave: another worker may have this one's number from now on."""
        if self._server is not None and self._path is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    def serves(self, on_orphaned: Callable[[], None]) -> None:
        """Say that this worker serves; `on_orphaned` is called if the crew is gone."""
        if self._ready_fd >= 0:
            os.write(self._ready_fd, b"1")
            os.close(self._ready_fd)
        if self._alive_fd >= 0:
            loop = asyncio.get_running_loop()

            def orphaned() -> None:
                loop.remove_reader(self._alive_fd)
                on_orphaned()

            loop.add_reader(self._alive_fd, orphaned)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(self._metrics())
            await writer.drain()
        writer.close()

    async def exposition(self) -> bytes:
        """Return the metrics of every worker of the crew, each value with its `worker`.

        A mate that does not answer in half a second is left out: its own liveness is asked for
        elsewhere. Without mates the text is this worker's own, as it is.
        """
        if self._path is None:
            return self._metrics()
        mates = [path for path in self._path.parent.glob("*.sock") if path != self._path]
        texts = await asyncio.gather(*(_ask(path) for path in mates))
        named = {path.stem.rsplit("-", 1)[0]: text for path, text in zip(mates, texts, strict=True)}
        return merged({**named, self.worker: self._metrics().decode()})


async def _ask(path: Path) -> str:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(texts: Mapping[str, str]) -> bytes:
    """Return one exposition of many, by worker: families together, each sample with its worker."""
    families: dict[str, Metric] = {}
    for worker, text in sorted(texts.items()):
        for one in text_string_to_metric_families(text):
            family = families.setdefault(
                one.name, Metric(one.name, one.documentation, one.type, one.unit)
            )
            for sample in one.samples:
                labels = {**sample.labels, "worker": worker}
                family.add_sample(sample.name, labels, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)
