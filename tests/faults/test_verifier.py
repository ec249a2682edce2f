"""The verifier notices every loss, every double and every wrong word: checked on a run whose outputs are made up."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from tests.faults.load import Published, is_good
from tests.faults.plan import REASONS, Fault, Kind, PlannedEvent, Point, Shape
from tests.faults.reader import Lag, Seen
from tests.faults.report import Recovery, never_seen, recoveries, too_slow
from tests.faults.surroundings import Deed, java_hash
from tests.faults.verifier import Outputs, Verdict, judge, murmur2

PARTITIONS = 4
DIGESTS = [sha256(b"%d" % number).hexdigest() for number in range(3)]
PID = 42


def published(number: int, shape: Shape = Shape.KEYED, recording: int = 0) -> Published:
    event = PlannedEvent(float(number), f"{shape}-{number}", shape, recording, "acme")
    digest = DIGESTS[recording]
    return Published(event, digest, f"simulated {digest[:16]}", 0, number, 100.0 + number)


class Ran:
    """A run in which everything went well, to be spoilt."""

    def __init__(self) -> None:
        self.published = [
            published(0, recording=0),
            published(1, recording=0),
            published(2, Shape.UNDIGESTED, recording=1),
            published(3, Shape.NOT_JSON, recording=2),
            published(4, Shape.KILLER, recording=2),
        ]
        self.transcripts = [
            self.transcript(item, cached=item.event.event_id.endswith("-1"))
            for item in self.published
            if is_good(item.event)
        ]
        self.dead_letters = [self.letter(item) for item in self.published if not is_good(item.event)]
        self.metrics = [self.metric(item) for item in self.published]
        self.dedup = [
            seen(None, partition=2, key="!lane"),
            *map(self.entry, (self.transcripts[0], self.transcripts[2])),
        ]
        self.lags = [Lag(number, 9, 9) for number in range(PARTITIONS)]
        self.journal: list[dict[str, Any]] = [self.hearing(digest) for digest in DIGESTS[:2]]
        self.disturbances: list[tuple[float, int]] = []

    @staticmethod
    def transcript(item: Published, *, cached: bool = False) -> Seen:
        value = {"event_id": item.event.event_id, "tenant": "acme", "sha256": item.digest, "cached": cached}
        return seen({**value, "text": f"simulated {item.digest[:16]}"}, timestamp=item.at + 1)

    @staticmethod
    def letter(item: Published) -> Seen:
        unreadable = item.event.shape is Shape.NOT_JSON
        origin = {"partition": item.partition, "offset": item.offset}
        reason = REASONS[item.event.shape]
        return seen({"event_id": None if unreadable else item.event.event_id, "reason": reason, "origin": origin})

    @staticmethod
    def metric(item: Published) -> Seen:
        unreadable = item.event.shape is Shape.NOT_JSON
        outcome = "transcribed" if is_good(item.event) else "dead_lettered"
        return seen({"event_id": None if unreadable else item.event.event_id, "outcome": outcome})

    @staticmethod
    def entry(transcript: Seen) -> Seen:
        value = transcript.value
        key, partition = f"acme/{value['sha256']}/f00d", murmur2(value["sha256"].encode()) % PARTITIONS
        return seen({"text": value["text"], "first_event_id": value["event_id"]}, partition=partition, key=key)

    @staticmethod
    def hearing(digest: str, *, at: float = 100.5, pid: int = PID) -> dict[str, Any]:
        return {"at": at, "pid": pid, "what": "hears", "digest": digest}

    def judged(self) -> Verdict:
        outputs = Outputs(self.transcripts, self.metrics, self.dead_letters, self.dedup)
        return judge(self.published, outputs, self.lags, self.journal, self.disturbances)


def seen(value: Any, *, partition: int = 0, key: str | None = None, timestamp: float = 101.0) -> Seen:
    return Seen(partition, 0, timestamp, key, value)


def changed(record: Seen, **fields: Any) -> Seen:
    return replace(record, value={**record.value, **fields})


def test_a_run_in_which_everything_went_well_has_no_findings() -> None:
    verdict = Ran().judged()

    assert verdict.findings == []
    assert (verdict.events, verdict.lost, verdict.doubled, verdict.heard_again) == (5, 0, 0, 0)


@pytest.mark.parametrize("topic", ["transcripts", "dead_letters", "metrics"])
def test_a_lost_record_is_a_lost_event(topic: str) -> None:
    for place in range(len(getattr(Ran(), topic))):
        ran = Ran()
        del getattr(ran, topic)[place]
        verdict = ran.judged()

        assert verdict.findings
        assert (verdict.lost, verdict.doubled) == (1, 0)


@pytest.mark.parametrize("topic", ["transcripts", "dead_letters", "metrics"])
def test_a_record_that_is_there_twice_is_a_doubled_event(topic: str) -> None:
    for place in range(len(getattr(Ran(), topic))):
        ran = Ran()
        getattr(ran, topic).append(getattr(ran, topic)[place])
        verdict = ran.judged()

        assert verdict.findings
        assert (verdict.lost, verdict.doubled) == (0, 1)


def test_a_transcript_beside_a_dead_letter_is_a_doubled_event() -> None:
    ran = Ran()
    ran.dead_letters.append(seen({"event_id": "keyed-0", "reason": "poison", "origin": {"partition": 0, "offset": 0}}))

    assert ran.judged().doubled == 1


def spoil(name: str) -> Ran:
    ran = Ran()
    spoils: dict[str, Callable[[], Any]] = {
        "the text": lambda: ran.transcripts.__setitem__(1, changed(ran.transcripts[1], text="simulated else")),
        "the reason": lambda: ran.dead_letters.__setitem__(1, changed(ran.dead_letters[1], reason="not_found")),
        "the metric": lambda: ran.metrics.__setitem__(0, changed(ran.metrics[0], outcome="dead_lettered")),
        "a stranger": lambda: ran.metrics.append(seen({"event_id": "nobody", "outcome": "transcribed"})),
        "paid twice": lambda: ran.transcripts.__setitem__(1, changed(ran.transcripts[1], cached=False)),
        "paid by nobody": lambda: ran.transcripts.__setitem__(0, changed(ran.transcripts[0], cached=True)),
        "a forgotten entry": lambda: ran.dedup.pop(),
        "a deleted entry": lambda: ran.dedup.append(replace(ran.dedup[-1], value=None)),
        "an entry elsewhere": lambda: ran.dedup.__setitem__(
            1, replace(ran.dedup[1], partition=(ran.dedup[1].partition + 1) % PARTITIONS)
        ),
        "an entry that says something else": lambda: ran.dedup.append(changed(ran.dedup[1], text="simulated else")),
        "an entry for nothing": lambda: ran.dedup.append(replace(ran.dedup[1], key=f"acme/{DIGESTS[2]}/f00d")),
        "lag": lambda: ran.lags.__setitem__(2, Lag(2, 8, 9)),
        "a hearing too many": lambda: ran.journal.append(ran.hearing(DIGESTS[0], at=100.6)),
    }
    spoils[name]()
    return ran


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("the text", "the text of a run without faults"),
        ("the reason", "the right outcome"),
        ("the metric", "the metric says what happened"),
        ("a stranger", "nothing is invented"),
        ("paid twice", "one transcript bears the cost of a recording"),
        ("paid by nobody", "one transcript bears the cost of a recording"),
        ("a forgotten entry", "what was heard is remembered"),
        ("a deleted entry", "what was heard is remembered"),
        ("an entry elsewhere", "an entry is where its digest belongs"),
        ("an entry that says something else", "an entry says what the transcript says"),
        ("an entry for nothing", "what was heard is remembered"),
        ("lag", "lag is not 0"),
        ("a hearing too many", "only what was in flight is heard again"),
    ],
)
def test_a_broken_rule_is_named(name: str, rule: str) -> None:
    assert rule in {finding.rule for finding in spoil(name).judged().findings}


def test_what_was_in_flight_when_its_process_died_may_be_heard_again_once() -> None:
    ran = Ran()
    ran.journal.append(ran.hearing(DIGESTS[0], at=100.9, pid=43))
    ran.disturbances.append((100.7, PID))
    verdict = ran.judged()

    assert verdict.findings == []
    assert (verdict.heard_again, verdict.in_flight) == (1, 2)
    ran.journal.append(ran.hearing(DIGESTS[0], at=100.95, pid=44))
    assert [finding.subject for finding in ran.judged().findings] == [DIGESTS[0]]


def test_a_rebalance_excuses_a_hearing_only_where_it_took_the_recordings_partition_away() -> None:
    owner = murmur2(DIGESTS[0].encode()) % PARTITIONS
    kept, lost = list(range(PARTITIONS)), [number for number in range(PARTITIONS) if number != owner]
    for given, findings in ((kept, [DIGESTS[0]]), (lost, [])):
        ran = Ran()
        ran.journal.append({"at": 100.7, "pid": PID, "what": "assigned", "partitions": given})
        ran.journal.append(ran.hearing(DIGESTS[0], at=100.9))

        assert [finding.subject for finding in ran.judged().findings] == findings


def test_what_was_published_before_its_process_died_may_not_be_heard_again() -> None:
    ran = Ran()
    ran.disturbances.append((150.0, PID))
    ran.journal.append(ran.hearing(DIGESTS[0], at=151.0, pid=43))

    assert [finding.subject for finding in ran.judged().findings] == [DIGESTS[0]]


@pytest.mark.parametrize(
    ("text", "hashed"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536), ("abc", 479470107)],
)
def test_murmur2_is_kafkas(text: str, hashed: int) -> None:
    # the figures of Kafka's own test of it
    assert murmur2(text.encode()) == hashed & 0x7FFFFFFF


def test_recovery_is_the_time_until_the_slowest_partition_has_a_transcript_again() -> None:
    digests = {murmur2(sha256(b"%d" % n).hexdigest().encode()) % 2: sha256(b"%d" % n).hexdigest() for n in range(20)}
    outputs = [
        seen({"sha256": digests[partition]}, timestamp=at) for partition in (0, 1) for at in (9.0, 12.0 + 3 * partition)
    ]
    deeds = [Deed(Fault(0.0, Kind.KILL, 0), 10.0), Deed(Fault(0.0, Kind.KILL, 0), 10.0, missed=True)]

    assert recoveries(deeds[:1], [], outputs, 2) == [Recovery("kill", 5.0, alone=True)]
    assert recoveries(deeds, [], outputs, 2) == [Recovery("kill", 5.0, alone=False)]


def test_a_fault_that_was_felt_alone_must_be_over_in_time() -> None:
    kill = [Recovery("kill", 11.5, alone=True), Recovery("kill", 40.0, alone=False), Recovery("kill", 10.5, alone=True)]
    assert [finding.detail for finding in too_slow(kill)] == ["11.5 s, not 11 s"]


def test_faults_that_never_came_about_are_named() -> None:
    came = [Deed(Fault(0.0, Kind.KILL, 0), 10.0), Deed(Fault(0.0, Kind.KILL, 0), 11.0, missed=True)]
    never = Deed(Fault(0.0, Kind.CRASH, 0, Point.AFTER_SEND), 10.0, missed=True)
    assert never_seen([*came, never]) == ["crash after-send"]


def test_a_coordinators_partition_is_found_as_java_hashes_names() -> None:
    assert java_hash("hello") == 99162322
    assert java_hash("polygenelubricants") == 0  # Integer.MIN_VALUE has no absolute value
    assert java_hash("zzzzzz") == 685785664  # -685785664


def test_what_a_zombie_hears_before_it_learns_what_it_lost_is_counted_apart() -> None:
    ran = Ran()
    ran.journal.append(ran.hearing(DIGESTS[0], at=151.0, pid=43))
    outputs = Outputs(ran.transcripts, ran.metrics, ran.dead_letters, ran.dedup)
    verdict = judge(ran.published, outputs, ran.lags, ran.journal, [], [(150.0, 43)])

    assert verdict.findings == []
    assert (verdict.heard_again, verdict.in_flight, verdict.by_zombies) == (1, 0, 1)
