"""The stage: a seeded sandbox, and what a run holds open on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.measuring.helpers import Talker
from gateway.measuring.meters import Meters


@dataclass(frozen=True, slots=True)
class Stage:
    """What is measured on, open.

    Args:
        connection: to the sandbox's database, used by nobody else meanwhile.
        work: a folder for what helpers write.
        sandbox_file, seeded: the sandbox's own, and who pays.
        loadtests: the repository's folder.
        has_immediate: whether it pays over the immediate connector, too (`config`).
    """

    sandbox: Mapping[str, Any]
    sandbox_file: Path
    seeded: Path
    work: Path
    loadtests: Path
    connection: Any
    http: aiohttp.ClientSession
    generator: Talker
    meters: Meters
    has_immediate: bool = False
