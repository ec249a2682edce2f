"""Judges what came out against what went in: pure, and shares no code with the service."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.load import Published, is_good
from tests.faults.plan import REASONS, Shape
from tests.faults.reader import Lag, Seen

Owner = tuple[str, str]
"""Tenant and digest: what must be heard once."""
UNWINDING_SECONDS = 15.0
"""So long after it began a hearing counts as in flight where another process has published the recording meanwhile."""
_NAMELESS = {Shape.NOT_JSON}


@dataclass(frozen=True, slots=True)
class Outputs:
    """Everything that the service has published, as a ``read_committed`` reader sees it."""

    transcripts: Sequence[Seen]
    metrics: Sequence[Seen]
    dead_letters: Sequence[Seen]
    dedup: Sequence[Seen]


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule."""

    rule: str
    subject: str
    detail: str


@dataclass(slots=True)
class Verdict:
    """What was counted, and every broken rule."""

    events: int = 0
    lost: int = 0
    doubled: int = 0
    recordings: int = 0
    hearings: int = 0
    heard_again: int = 0
    in_flight: int = 0
    """Hearings that were under way when their process died, froze, or lost a partition."""
    by_zombies: int = 0
    """Hearings begun right after a SIGCONT, or cut off from the brokers, before the process learnt what it had lost."""
    findings: list[Finding] = field(default_factory=list)

    def blame(self, rule: str, subject: str, detail: str) -> None:
        self.findings.append(Finding(rule, subject, detail))


def judge(
    published: Sequence[Published],
    outputs: Outputs,
    lags: Sequence[Lag],
    journal: Sequence[Mapping[str, Any]],
    disturbances: Iterable[tuple[float, int]],
    awakenings: Iterable[tuple[float, int]] = (),
) -> Verdict:
    """Apply every rule. ``disturbances``: when which process (pid) died or froze; ``awakenings``: when it went on."""
    verdict = Verdict(events=len(published))
    _outcomes(published, outputs, verdict)
    _strangers(published, outputs, verdict)
    _paid_once(outputs, verdict)
    _dedup(outputs, len(lags), verdict)
    _hearings(_known_at(published, outputs), len(lags), journal, disturbances, awakenings, verdict)
    for lag in lags:
        if lag.committed != lag.end:
            verdict.blame("lag is not 0", f"partition {lag.partition}", f"committed {lag.committed} of {lag.end}")
    return verdict


def _outcomes(published: Sequence[Published], outputs: Outputs, verdict: Verdict) -> None:
    transcripts, metrics = _by_event(outputs.transcripts), _by_event(outputs.metrics)
    letters, by_origin = _by_event(outputs.dead_letters), _by_origin(outputs.dead_letters)
    for item in published:
        event = item.event
        nameless = event.shape in _NAMELESS
        its_letters = by_origin[item.partition, item.offset] if nameless else letters[event.event_id]
        found = [*transcripts[event.event_id], *its_letters]
        # a record that nobody could read has a metric without a name: those are counted below
        measured = 1 if nameless else len(metrics[event.event_id])
        verdict.lost += not found or not measured
        verdict.doubled += len(found) > 1 or measured > 1
        if (len(found), measured) != (1, 1):
            where = [f"{seen.partition}/{seen.offset}" for seen in (*found, *metrics[event.event_id])]
            detail = (
                f"{len(found)} outcomes, {measured} metrics, at {where}; published to {item.partition}/{item.offset}"
            )
            verdict.blame("exactly one outcome and one metric", event.event_id, detail)
        for seen in found:
            _content(item, seen, verdict)
        for seen in [] if nameless else metrics[event.event_id]:
            _metric(item, seen, verdict)
    expected, nameless_metrics = sum(item.event.shape in _NAMELESS for item in published), len(metrics[None])
    if expected != nameless_metrics:
        verdict.lost += max(0, expected - nameless_metrics)
        verdict.doubled += max(0, nameless_metrics - expected)
        verdict.blame("one metric for each unreadable record", "all", f"{nameless_metrics} for {expected} records")


def _content(item: Published, seen: Seen, verdict: Verdict) -> None:
    event, value = item.event, seen.value
    wanted = None if is_good(event) else REASONS[event.shape]
    if value.get("reason") != wanted:
        detail = f"it became {value.get('reason', 'a transcript')}: {value.get('detail', '')}"
        verdict.blame("the right outcome", event.event_id, detail)
    elif wanted is None:
        told = (value["text"], value["sha256"], value["tenant"])
        right = (item.text, item.digest, event.tenant)
        if told != right:
            verdict.blame("the text of a run without faults", event.event_id, f"{told} instead of {right}")


def _metric(item: Published, seen: Seen, verdict: Verdict) -> None:
    wanted = "transcribed" if is_good(item.event) else "dead_lettered"
    if seen.value["outcome"] != wanted:
        verdict.blame("the metric says what happened", item.event.event_id, f"{seen.value['outcome']}, not {wanted}")


def _strangers(published: Sequence[Published], outputs: Outputs, verdict: Verdict) -> None:
    known: set[str | None] = {item.event.event_id for item in published}
    for seen in (*outputs.transcripts, *outputs.metrics, *outputs.dead_letters):
        if (name := seen.value["event_id"]) is not None and name not in known:
            verdict.blame("nothing is invented", str(name), f"at {seen.partition}/{seen.offset}")


def _paid_once(outputs: Outputs, verdict: Verdict) -> None:
    paid = Counter(_owner(seen) for seen in outputs.transcripts if not seen.value["cached"])
    for owner in {_owner(seen) for seen in outputs.transcripts}:
        if paid[owner] != 1:
            verdict.blame("one transcript bears the cost of a recording", "/".join(owner), f"{paid[owner]} do")


def _dedup(outputs: Outputs, partitions: int, verdict: Verdict) -> None:
    latest: dict[tuple[int, str], Seen] = {(seen.partition, seen.key or ""): seen for seen in outputs.dedup}
    entries: dict[Owner, list[Seen]] = defaultdict(list)
    for (_, key), seen in latest.items():
        if seen.value is not None and not key.startswith("!"):
            tenant, digest, _fingerprint = key.rsplit("/", 2)
            entries[tenant, digest].append(seen)
    heard = {_owner(seen): seen.value for seen in outputs.transcripts if not seen.value["cached"]}
    for owner in heard.keys() | entries.keys():
        subject, found = "/".join(owner), entries[owner]
        if owner not in heard or len(found) != 1:
            there = "with" if owner in heard else "without"
            verdict.blame("what was heard is remembered", subject, f"{len(found)} entries {there} a transcript")
            continue
        entry, transcript = found[0], heard[owner]
        if entry.partition != murmur2(owner[1].encode()) % partitions:
            verdict.blame("an entry is where its digest belongs", subject, f"it is in partition {entry.partition}")
        told, said = (entry.value["text"], entry.value["first_event_id"]), (transcript["text"], transcript["event_id"])
        if told != said:
            verdict.blame("an entry says what the transcript says", subject, f"{told} instead of {said}")


def _known_at(published: Sequence[Published], outputs: Outputs) -> dict[str, float]:
    """When what is to be known of a recording was published: its words, or that it cannot be heard."""
    condemned = {seen.value["event_id"]: seen.timestamp for seen in outputs.dead_letters}
    known = {
        item.digest: condemned[item.event.event_id]
        for item in published
        if item.event.shape is Shape.TOXIC and item.event.event_id in condemned
    }
    return known | {seen.value["sha256"]: seen.timestamp for seen in outputs.transcripts if not seen.value["cached"]}


def _left(journal: Sequence[Mapping[str, Any]], partitions: int) -> dict[tuple[int, int], list[float]]:
    """By process and partition: when the process closed that lane, or was not given the partition again."""
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for line in journal:
        gone: Iterable[int] = ()
        if line["what"] == "assigned":
            gone = set(range(partitions)) - set(line["partitions"])
        elif line["what"] == "lane-closes":
            gone = (line["partition"],)
        for partition in gone:
            found[line["pid"], partition].append(line["at"])
    return found


def _hearings(
    known_at: Mapping[str, float],
    partitions: int,
    journal: Sequence[Mapping[str, Any]],
    disturbances: Iterable[tuple[float, int]],
    awakenings: Iterable[tuple[float, int]],
    verdict: Verdict,
) -> None:
    deaths = [(line["at"], line["pid"]) for line in journal if line["what"] == "dies"]
    moments, awake, left = _by_process([*disturbances, *deaths]), _by_process(awakenings), _left(journal, partitions)
    hearings: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for line in journal:
        if line["what"] == "hears":
            hearings[line["digest"]].append((line["at"], line["pid"]))
    verdict.recordings = len(hearings)
    for digest, begun in hearings.items():
        owner, known = murmur2(digest.encode()) % partitions, known_at.get(digest)
        verdict.hearings += len(begun)
        verdict.heard_again += len(begun) - 1
        cut_off = [_cut_off(at, [*moments[pid], *left.get((pid, owner), ())], known) for at, pid in begun]
        zombies = [any(0 <= at - then <= UNWINDING_SECONDS for then in awake[pid]) for at, pid in begun]
        verdict.in_flight += sum(cut_off)
        verdict.by_zombies += sum(zombie and not cut for cut, zombie in zip(cut_off, zombies, strict=True))
        if len(begun) - 1 > sum(cut or zombie for cut, zombie in zip(cut_off, zombies, strict=True)):
            detail = f"heard {begun}, {sum(cut_off)} of them cut off, published at {known}"
            verdict.blame("only what was in flight is heard again", digest, detail)


def _by_process(moments: Iterable[tuple[float, int]]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for at, pid in moments:
        found[pid].append(at)
    return found


def _cut_off(begun: float, moments: Sequence[float], known_at: float | None) -> bool:
    """Whether its process was disturbed before the recording was known to all."""
    end = begun + UNWINDING_SECONDS if known_at is None else max(known_at, begun + 1.0)
    return any(begun <= moment <= end for moment in moments)


def _owner(seen: Seen) -> Owner:
    return seen.value["tenant"], seen.value["sha256"]


def _by_event(records: Sequence[Seen]) -> dict[str | None, list[Seen]]:
    found: dict[str | None, list[Seen]] = defaultdict(list)
    for seen in records:
        found[seen.value["event_id"]].append(seen)
    return found


def _by_origin(letters: Sequence[Seen]) -> dict[tuple[int, int], list[Seen]]:
    found: dict[tuple[int, int], list[Seen]] = defaultdict(list)
    for seen in letters:
        origin = seen.value["origin"]
        found[origin["partition"], origin["offset"]].append(seen)
    return found


def murmur2(data: bytes) -> int:
    """Kafka's hash of a key (MurmurHash2 with its own seed), made positive as Kafka does."""
    mixer, hashed = 0x5BD1E995, 0x9747B28C ^ len(data)
    whole = len(data) - len(data) % 4
    for place in range(0, whole, 4):
        block = int.from_bytes(data[place : place + 4], "little") * mixer & 0xFFFFFFFF
        block = (block ^ block >> 24) * mixer & 0xFFFFFFFF
        hashed = hashed * mixer & 0xFFFFFFFF ^ block
    if rest := data[whole:]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * mixer & 0xFFFFFFFF
    hashed = (hashed ^ hashed >> 13) * mixer & 0xFFFFFFFF
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF
