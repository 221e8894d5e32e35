"""Two scaling laws: what a decision costs as rules that cannot match, and revoked tokens, grow.

All sizes are timed in turns in one process, so that their ratios hold where times do not.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.core import Claims, Core
from gateway.sandbox.bench_core import NOW_MS, Call, Subject, timed, token
from gateway.sandbox.bench_rows import Law
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

POLICIES = (10, 100, 1_000, 10_000, 100_000)
REVOKED = (1_000, 10_000, 100_000, 1_000_000)
REVOKED_LIVES_S = 300
CALLS = 4_000


def policies(*, rounds: int, progress: Progress) -> Law:
    """Grow the policies and plans that cannot match."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    cached = token(key, 0)
    subjects = []
    with progress.step("Reading policies and plans") as step:
        for count in POLICIES:
            step.note(f"{count:,} of each")
            subjects.append(Subject(key, count))
    points = _points(subjects, cached, POLICIES, rounds=rounds, progress=progress)
    return Law("law-policies", "`core.admit`", "policies and plans that cannot match", points, 1.5)


def revoked(*, rounds: int, progress: Progress) -> Law:
    """Grow the revoked tokens that are alive; no other token may be refused.

    Raises:
        SandboxError: a token was refused that nobody revoked, or one was not that was.
    """
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    cached = token(key, 0)
    subjects = []
    with progress.step("Revoking tokens") as step:
        step.note(f"{REVOKED[-1]:,}, for their memory")
        # In a process of its own: here, memory that was used before would be used again.
        told = subprocess.run(
            [sys.executable, "-m", "gateway.sandbox.bench_laws"],
            check=True,
            capture_output=True,
            text=True,
        )
        grown = float(told.stdout)
        for count in REVOKED:
            step.note(f"{count:,}")
            subject = Subject(key, 10)
            _revoke(subject.core, count)
            _check(subject.core, key, count)
            subjects.append(subject)
    points = _points(subjects, cached, REVOKED, rounds=rounds, progress=progress)
    note = f"{grown:.0f} bytes of memory an entry at {REVOKED[-1]:,}; no false refusals"
    return Law("law-revoked", "`core.admit`", "revoked tokens alive", points, 1.5, note)


def _revoke(core: Core, count: int) -> None:
    expires_s = NOW_MS // 1000 + REVOKED_LIVES_S
    for number in range(1, count + 1):
        name = f"revoked-{number:012d}"
        # Their ends are spread as those of tokens are.
        core.revoke(number, "jti", name, 0, expires_s + number % REVOKED_LIVES_S)
    core.mark_fresh(NOW_MS)


def _check(core: Core, key: Ed25519PrivateKey, count: int) -> None:
    """See that nobody else's token is refused, and that the revoked are."""
    for number in range(200):
        if not isinstance(core.inspect(token(key, number), NOW_MS), Claims):
            raise SandboxError("a token was refused that nobody revoked")
    core.revoke(count + 1, "jti", "j7", 0, NOW_MS // 1000 + REVOKED_LIVES_S)
    if isinstance(core.inspect(token(key, 7), NOW_MS), Claims):
        raise SandboxError("a revoked token was accepted")


def _points(
    subjects: list[Subject],
    bearer: bytes,
    sizes: tuple[int, ...],
    *,
    rounds: int,
    progress: Progress,
) -> tuple[tuple[int, float, float], ...]:
    def admits(subject: Subject) -> Call:
        return lambda: subject.admit(bearer)

    calls: list[tuple[Call, int]] = [(admits(subject), CALLS) for subject in subjects]
    timings = timed(calls, rounds=rounds, title="Timing decisions", progress=progress)
    gc.collect()
    first = timings[0]
    return tuple(
        (size, median(timing.microseconds), median(first.ratios_to(timing)))
        for size, timing in zip(sizes, timings, strict=True)
    )


def _resident_bytes() -> int:
    """Return the memory of this process (proc(5), statm: the second is pages in memory)."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def bytes_an_entry() -> float:
    """Return what the greatest number of revoked tokens takes of memory, each."""
    subject = Subject(Ed25519PrivateKey.from_private_bytes(bytes(32)), 10)
    gc.collect()
    before = _resident_bytes()
    _revoke(subject.core, REVOKED[-1])
    return (_resident_bytes() - before) / REVOKED[-1]


LAWS: dict[str, Callable[..., Law]] = {"law-policies": policies, "law-revoked": revoked}


if __name__ == "__main__":
    print(bytes_an_entry())
