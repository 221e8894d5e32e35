"""Laws of the core: what a decision costs as rules, revoked tokens and known subjects grow.

All sizes are timed in turns in one process, so that their ratios hold where times do not.
"""

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.bench.rows import Law, Scale
from gateway.bench.small_rows import (
    MERCHANT,
    NOW_MS,
    OWNER,
    Call,
    Headers,
    Subject,
    headers_of,
    timed,
    token,
)
from gateway.core import Claims, Core
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress

# Cards that pay in turns where each payment is another's: more than the processor's cache holds.
CARDS = 5_000
SHARED_SUBJECTS = tuple(
    f"{kind}:{name}"
    for kind, name in (
        ("user", OWNER),
        ("merchant", MERCHANT),
        ("platform", "oqim"),
        ("issuer_bin", "424242"),
        ("scheme", "visa"),
    )
)
REVOKED_LIVES_S = 300
CALLS = 4_000


def policies(*, rounds: int, progress: Progress, scale: Scale) -> Law:
    """Grow the policies and plans that cannot match."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    headers = headers_of(token(key, 0))
    subjects = []
    with progress.step("Reading policies and plans") as step:
        for count in scale.policies:
            step.note(f"{count:,} of each")
            subjects.append(Subject(key, count))
    points = _points(_admits(subjects, headers), scale.policies, rounds=rounds, progress=progress)
    return Law("law-policies", "`core.admit`", "policies and plans that cannot match", points, 1.5)


def revoked(*, rounds: int, progress: Progress, scale: Scale) -> Law:
    """Grow the revoked tokens that are alive; no other token may be refused.

    Raises:
        SandboxError: a token was refused that nobody revoked, or one was not that was.
    """
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    headers = headers_of(token(key, 0))
    subjects = []
    with progress.step("Revoking tokens") as step:
        step.note(f"{scale.revoked[-1]:,}, for their memory")
        each = _measured_apart("revoked", scale.revoked[-1])
        for count in scale.revoked:
            step.note(f"{count:,}")
            subject = Subject(key, 10)
            _revoke(subject.core, count)
            _check(subject.core, key, count)
            subjects.append(subject)
    points = _points(_admits(subjects, headers), scale.revoked, rounds=rounds, progress=progress)
    note = f"{each:.0f} bytes of memory an entry at {scale.revoked[-1]:,}; no false refusals"
    return Law("law-revoked", "`core.admit`", "revoked tokens alive", points, 1.5, note)


def known_subjects(*, rounds: int, progress: Progress, scale: Scale) -> Law:
    """Grow the subjects whose limits are remembered; each payment is by another card of them."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    headers = headers_of(token(key, 0))
    calls: list[Call] = []
    with progress.step("Remembering subjects") as step:
        step.note(f"{scale.subjects[-1]:,}, for their memory")
        each = _measured_apart("subjects", scale.subjects[-1])
        state = _a_state(Subject(key, 10), headers)
        for count in scale.subjects:
            step.note(f"{count:,}")
            # Room for the others that a payment needs, and for whatever the cache moves.
            subject = Subject(key, 10, subjects_max=count + CARDS)
            _remember(subject.core, count, state)
            calls.append(_others(subject, headers, count))
    points = _points(calls, scale.subjects, rounds=rounds, progress=progress)
    note = (
        f"{each:.0f} bytes of memory a cached subject at {scale.subjects[-1]:,}, {len(state)} of "
        "them its state; past the cache's size a subject is read from the database, with whoever "
        "else waits"
    )
    what = "`core.admit`, another card each time"
    return Law("law-subjects", what, "subjects known", points, 2.0, note)


def _remember(core: Core, count: int, state: bytes) -> None:
    for number in range(count):
        core.load_state(f"card:{number:064x}", 1, state)


def _a_state(subject: Subject, headers: Headers) -> bytes:
    """Return what is stored of a card that paid once: windows of every length in it."""
    answer = subject.decide(headers)
    staged = subject.core.stage([answer])
    found = dict(zip(staged.subjects, staged.states, strict=True))
    subject.core.roll_back(staged)
    return next(state for name, state in found.items() if name.startswith("card:"))


def _others(subject: Subject, headers: Headers, count: int) -> Call:
    """Return what pays by a card that is remembered, one after another, far apart in memory."""
    core, step = subject.core, -(-count // CARDS)
    bodies = []
    for number in range(0, count, step):
        card = f"card_{number}"
        core.put_card(card, OWNER, "visa", "424242", f"{number:064x}", True, 1)
        bodies.append(subject.body_of(card))
    for name in SHARED_SUBJECTS:
        core.load_state(name, 0, b"")
    paying = cycle(bodies)
    return lambda: subject.admit(headers, next(paying))


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


def _admits(subjects: list[Subject], headers: Headers) -> list[Call]:
    def admits(subject: Subject) -> Call:
        return lambda: subject.admit(headers)

    return [admits(subject) for subject in subjects]


def _points(
    calls: list[Call],
    sizes: tuple[int, ...],
    *,
    rounds: int,
    progress: Progress,
) -> tuple[tuple[int, float, float], ...]:
    counted = [(call, CALLS) for call in calls]
    timings = timed(counted, rounds=rounds, title="Timing decisions", progress=progress)
    gc.collect()
    first = timings[0]
    return tuple(
        (size, median(timing.microseconds), median(first.ratios_to(timing)))
        for size, timing in zip(sizes, timings, strict=True)
    )


def _measured_apart(law: str, count: int) -> float:
    """Return what so much takes of memory, bytes each, in a process of its own: in this one, memory
    that was used before would be used again."""
    told = subprocess.run(
        [sys.executable, "-m", "gateway.bench.core_laws", law, str(count)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(told.stdout)


def _resident_bytes() -> int:
    """Return the memory of this process (proc(5), statm: the second is pages in memory)."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Return memory that was freed to the system, where the C library can (glibc): what is measured
    would lie in it, uncounted. There is much of it after modules were compiled."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def bytes_each(law: str, count: int) -> float:
    """Return what a revoked token, or a remembered subject, takes of this process's memory."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    subject = Subject(key, 10, subjects_max=count + CARDS)
    state = _a_state(Subject(key, 10), headers_of(token(key, 0)))
    gc.collect()
    _give_back()
    before = _resident_bytes()
    if law == "revoked":
        _revoke(subject.core, count)
    else:
        _remember(subject.core, count, state)
    return (_resident_bytes() - before) / count


LAWS: dict[str, Callable[..., Law]] = {
    "law-policies": policies,
    "law-revoked": revoked,
    "law-subjects": known_subjects,
}


if __name__ == "__main__":
    print(bytes_each(sys.argv[1], int(sys.argv[2])))
