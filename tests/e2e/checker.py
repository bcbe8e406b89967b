"""The judge: compares what the database committed with what Kafka shows.

The truth about what was committed is a ledger that writers keep in the same transactions. What was
delivered is read by an independent client, once `read_committed` and once `read_uncommitted`.
Promises to name every message that is lost, delivered twice, out of order or never committed, each
with key, partition and offsets; and never to judge before all transactions in the topic have ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["lost", "duplicate", "out_of_order", "phantom"]
SHOWN = 20


@dataclass(frozen=True)
class Committed:
    """A message that the database holds as committed; `place` is its rank among its key's."""

    message_id: str
    topic: str
    key: bytes | None
    place: int
    digest: str


@dataclass(frozen=True)
class Record:
    """A record in Kafka. Without a message id it is nobody's."""

    message_id: str | None
    topic: str
    partition: int
    offset: int
    key: bytes | None
    digest: str


@dataclass(frozen=True)
class Finding:
    """One broken promise."""

    kind: Kind
    message_id: str | None
    topic: str
    key: bytes | None
    partition: int | None
    offsets: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        offsets = ", ".join(map(str, self.offsets)) or "-"
        place = f"{self.topic}[{self.partition}] offsets {offsets}"
        return f"{self.kind}: key {self.key!r} at {place}: {self.why} (message {self.message_id})"


@dataclass(frozen=True)
class Report:
    """The verdict."""

    committed: int
    delivered: int
    findings: list[Finding] = field(default_factory=list)

    def counts(self) -> dict[Kind, int]:
        """How often each promise was broken; empty where none was."""
        return dict(Counter(finding.kind for finding in self.findings))

    def __str__(self) -> str:
        shown = [str(finding) for finding in self.findings[:SHOWN]]
        head = f"{self.committed} committed, {self.delivered} delivered, {self.counts() or 'clean'}"
        return "\n".join([head, *shown])


def compare(
    committed: Iterable[Committed], visible: Sequence[Record], written: Sequence[Record]
) -> Report:
    """Compares what `read_committed` (`visible`) and `read_uncommitted` (`written`) show."""
    truth = {message.message_id: message for message in committed}
    at: dict[str, list[Record]] = defaultdict(list)
    phantoms: list[Finding] = []
    for record in visible:
        message = None if record.message_id is None else truth.get(record.message_id)
        why = _why_phantom(message, record)
        if message is None or why:
            phantoms.append(_finding("phantom", record, [record], why))
        else:
            at[message.message_id].append(record)
    findings = phantoms
    for records in at.values():
        if len(records) > 1:
            findings.append(_finding("duplicate", records[0], records, f"{len(records)} times"))
    findings += _lost(truth, at, written)
    findings += _out_of_order(truth, at)
    return Report(len(truth), len(visible), findings)


def _why_phantom(message: Committed | None, record: Record) -> str:
    if record.message_id is None:
        return "a record without a message id"
    if message is None:
        return "the database did not commit this message"
    if (message.topic, message.key, message.digest) != (record.topic, record.key, record.digest):
        return "the database committed this message with another topic, key or value"
    return ""


def _finding(kind: Kind, record: Record, records: Sequence[Record], why: str) -> Finding:
    offsets = tuple(one.offset for one in records)
    return Finding(
        kind, record.message_id, record.topic, record.key, record.partition, offsets, why
    )


def _lost(
    truth: dict[str, Committed], at: dict[str, list[Record]], written: Sequence[Record]
) -> list[Finding]:
    missing = [message for message in truth.values() if message.message_id not in at]
    if not missing:
        return []
    aborted: dict[str, list[Record]] = defaultdict(list)
    for record in written:
        if record.message_id is not None:
            aborted[record.message_id].append(record)
    return [_lost_one(message, aborted[message.message_id], truth, at) for message in missing]


def _lost_one(
    message: Committed,
    aborted: Sequence[Record],
    truth: dict[str, Committed],
    at: dict[str, list[Record]],
) -> Finding:
    """A lost message has no offset; it was aborted at some, or its neighbours have some."""
    if aborted:
        found, why = list(aborted), "only in aborted transactions"
    else:
        found = _neighbours(message, truth, at)
        why = "never written; the offsets are its neighbours'"
    partition = found[0].partition if found else None
    offsets = tuple(record.offset for record in found)
    return Finding("lost", message.message_id, message.topic, message.key, partition, offsets, why)


def _neighbours(
    message: Committed, truth: dict[str, Committed], at: dict[str, list[Record]]
) -> list[Record]:
    """What was delivered before and behind a lost message's place, of its key if there is any."""
    others = [(truth[message_id], records[0]) for message_id, records in at.items()]
    same_topic = [pair for pair in others if pair[0].topic == message.topic]
    same_key = [
        pair for pair in same_topic if message.key is not None and pair[0].key == message.key
    ]
    by_place = [(other.place, record) for other, record in same_key or same_topic]
    before = [pair for pair in by_place if pair[0] < message.place]
    behind = [pair for pair in by_place if pair[0] > message.place]
    last = max(before, key=lambda pair: pair[0], default=None)
    first = min(behind, key=lambda pair: pair[0], default=None)
    return [pair[1] for pair in (last, first) if pair is not None]


def _out_of_order(truth: dict[str, Committed], at: dict[str, list[Record]]) -> list[Finding]:
    """By the first time that each message appears; messages without a key have no order."""
    by_key: dict[tuple[str, bytes], list[tuple[int, Record]]] = defaultdict(list)
    for message_id, records in at.items():
        message = truth[message_id]
        if message.key is not None:
            first = min(records, key=lambda record: record.offset)
            by_key[message.topic, message.key].append((message.place, first))
    findings = []
    for pairs in by_key.values():
        if len({record.partition for _, record in pairs}) > 1:
            records = [record for _, record in pairs]
            why = "the key is in several partitions"
            findings.append(_finding("out_of_order", records[0], records, why))
            continue
        pairs.sort(key=lambda pair: pair[1].offset)
        highest, ahead = pairs[0]
        for place, record in pairs[1:]:
            if place < highest:
                why = f"place {place} stands behind place {highest}"
                findings.append(_finding("out_of_order", record, [ahead, record], why))
            else:
                highest, ahead = place, record
    return findings
