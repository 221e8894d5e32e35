"""`oqim audit verify`: an export checked offline. Needs no database, and nothing of a gateway.

Computes every chain again, every decision's digest, and every root's signature. Whoever edited, cut
or reordered a chain left a record that does not follow from the one before; whoever computed the
chain anew left a signed root that names another hash. Whoever cut the roots off as well is found
by a root that was kept elsewhere (`--anchor`, a line of a gateway's own log).
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.kernel.audit.chain import digest, genesis, linked
from gateway.kernel.audit.roots import ROOTS, Root


class UnreadableExport(Exception):
    """The file is no export; the text says which line and why."""


class Header(msgspec.Struct, tag_field="type", tag="header"):
    key: str
    version: Literal[1]


class Record(msgspec.Struct, tag_field="type", tag="record"):
    shard: str
    seq: int
    record: str
    hash: str
    shown: dict[str, Any] | None = None


class Document(msgspec.Struct, tag_field="type", tag="document"):
    id: str
    document: str


class SignedRoot(msgspec.Struct, tag_field="type", tag="root"):
    shard: str
    seq: int
    record: str
    hash: str
    signature: str


class Anchor(msgspec.Struct):
    """A root as a gateway logged it; other members are left alone."""

    seq: int
    hash: str
    signature: str


class _Told(msgspec.Struct):
    decisions: list[tuple[str, str]] = []


_line = msgspec.json.Decoder(Header | Record | Document | SignedRoot).decode
_told = msgspec.json.Decoder(_Told).decode


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing wrong with one chain: which record, and what about it."""

    shard: str
    seq: int
    what: str

    def __str__(self) -> str:
        return f"{self.shard} record {self.seq}: {self.what}"


@dataclass(slots=True)
class Report:
    """What was found. `unsigned` records came after the last root that names their chain."""

    key: str = ""
    records: int = 0
    decisions: int = 0
    roots: int = 0
    unsigned: int = 0
    faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class _Chain:
    """One chain, as far as it was read."""

    shard: str
    seq: int = 0
    hash: bytes = b""
    fault: Fault | None = None
    # What a signed root names of it, in order: number and hash.
    named: list[tuple[int, str]] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hash = genesis(self.shard)

    def wrong(self, seq: int, what: str) -> None:
        """Keep the first fault alone: what follows is wrong for its sake."""
        if self.fault is None:
            self.fault = Fault(self.shard, seq, what)

    def take(self, seq: int, record: str, told: str) -> None:
        """Follow the chain by one record."""
        expected = self.seq + 1
        if seq != expected:
            missing = "is missing, or not in its place"
            self.wrong(min(seq, expected), missing if seq > expected else "is out of order")
        self.hash = linked(self.hash, record)
        if self.hash.hex() != told:
            self.wrong(seq, "does not follow from the one before: it or its hash was changed")
            # Go on from what is told, so that no other fault is made of this one.
            self.hash = _bytes(told)
        self.seq = seq
        self.hashes[seq] = told


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def verify(
    lines: Iterable[bytes],
    *,
    key: bytes | None = None,
    anchor: Anchor | None = None,
    advance: Callable[[int], None] = lambda lines: None,
) -> Report:
    """Check an export.

    Args:
        lines: of the file.
        key: the signer's public key, 32 bytes; without it the export's own is believed.
        anchor: a root that was kept elsewhere; it must be in the export.
        advance: told how many lines were read.

    Raises:
        UnreadableExport: it cannot be read at all.
    """
    return _Verifier(key, anchor).run(lines, advance)


class _Verifier:
    def __init__(self, key: bytes | None, anchor: Anchor | None) -> None:
        self._given_key = key
        self._anchor = anchor
        self._report = Report()
        self._chains: dict[str, _Chain] = {}
        # Decisions of the last record whose documents are still to come.
        self._expected: dict[str, tuple[_Chain, int, str]] = {}

    def run(self, lines: Iterable[bytes], advance: Callable[[int], None]) -> Report:
        parsed = _parsed(lines, advance)
        header = next(parsed, None)
        if not isinstance(header, Header):
            raise UnreadableExport("line 1: an export begins with its header")
        key = self._key(header)
        for line in parsed:
            if isinstance(line, Record):
                self._end_documents()
                self._record(line)
            elif isinstance(line, Document):
                self._document(line)
            elif isinstance(line, SignedRoot):
                self._end_documents()
                self._root(line, key)
            else:
                raise UnreadableExport("an export has one header")
        self._end_documents()
        self._compare_roots()
        self._compare_anchor(key)
        found = [chain.fault for chain in self._chains.values() if chain.fault is not None]
        self._report.faults = sorted(found, key=lambda one: (one.shard, one.seq))
        return self._report

    def _key(self, header: Header) -> Ed25519PublicKey:
        try:
            own = base64.b64decode(header.key, validate=True)
            self._report.key = header.key
            if self._given_key is not None and own != self._given_key:
                self._chain(ROOTS).wrong(0, "the export names another key than the one given")
            return Ed25519PublicKey.from_public_bytes(self._given_key or own)
        except (binascii.Error, ValueError):
            raise UnreadableExport("line 1: its key is not an Ed25519 public key") from None

    def _chain(self, shard: str) -> _Chain:
        return self._chains.setdefault(shard, _Chain(shard))

    def _record(self, line: Record) -> None:
        chain = self._chain(line.shard)
        chain.take(line.seq, line.record, line.hash)
        self._report.records += 1
        try:
            if line.shown is not None and msgspec.json.decode(line.record) != line.shown:
                chain.wrong(line.seq, "what is shown of it differs from what the chain says")
            for one, told in _told(line.record).decisions:
                self._expected[one] = (chain, line.seq, told)
        except msgspec.MsgspecError:
            chain.wrong(line.seq, "cannot be read")

    def _document(self, line: Document) -> None:
        expected = self._expected.pop(line.id, None)
        if expected is None:
            return
        chain, seq, told = expected
        self._report.decisions += 1
        if digest(line.document) != told:
            chain.wrong(seq, f"the decision {line.id} was changed")

    def _end_documents(self) -> None:
        for one, (chain, seq, _) in self._expected.items():
            chain.wrong(seq, f"the decision {one} is missing")
        self._expected.clear()

    def _root(self, line: SignedRoot, key: Ed25519PublicKey) -> None:
        chain = self._chain(ROOTS)
        chain.take(line.seq, line.record, line.hash)
        self._report.roots += 1
        try:
            key.verify(base64.b64decode(line.signature, validate=True), _bytes(line.hash))
            root = msgspec.json.decode(line.record, type=Root)
        except (InvalidSignature, binascii.Error):
            chain.wrong(line.seq, "its signature is not by this key")
            return
        except msgspec.MsgspecError:
            chain.wrong(line.seq, "cannot be read")
            return
        if root.seq != line.seq:
            chain.wrong(line.seq, "its number was changed")
        for shard, head in root.heads.items():
            self._chain(shard).named.append(head)

    def _compare_roots(self) -> None:
        for chain in self._chains.values():
            good = 0
            for seq, named in chain.named:
                here = chain.hashes.get(seq)
                if here is None:
                    chain.wrong(chain.seq + 1, f"is missing: a signed root names {seq}")
                elif here != named:
                    chain.wrong(
                        good + 1,
                        f"the chain was computed anew: a signed root names another hash of {seq}, "
                        f"and {good + 1} is the first after the last that is vouched for",
                    )
                else:
                    good = seq
            if chain.shard != ROOTS:
                self._report.unsigned += max(0, chain.seq - good)

    def _compare_anchor(self, key: Ed25519PublicKey) -> None:
        anchor = self._anchor
        if anchor is None:
            return
        chain = self._chain(ROOTS)
        try:
            key.verify(base64.b64decode(anchor.signature, validate=True), _bytes(anchor.hash))
        except (InvalidSignature, binascii.Error):
            raise UnreadableExport("the anchor is not signed by this key") from None
        here = chain.hashes.get(anchor.seq)
        if here is None:
            chain.wrong(chain.seq + 1, f"is missing: the anchor is root {anchor.seq}")
        elif here != anchor.hash:
            chain.wrong(anchor.seq, "differs from the anchor: it was signed anew")


def _parsed(
    lines: Iterable[bytes], advance: Callable[[int], None]
) -> Iterator[Header | Record | Document | SignedRoot]:
    for number, line in enumerate(lines, 1):
        try:
            yield _line(line)
        except msgspec.MsgspecError as error:
            raise UnreadableExport(f"line {number}: {error}") from None
        advance(number)
