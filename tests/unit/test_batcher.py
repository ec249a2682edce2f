"""The batcher: nothing lost, nothing doubled, budgets kept, the oldest first."""

import math
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.batcher import Batch, Batcher, BatchLimits, Closed, bucket_of

LIMITS = BatchLimits(padded_seconds=40.0, max_chunks=4, max_wait_seconds=0.03, queue_seconds=100.0)


def drained(batcher: Batcher[int], now: float) -> list[Batch[int]]:
    batcher.drain()
    batches = []
    while (batch := batcher.take(now)) is not None:
        batches.append(batch)
    return batches


def test_a_lonely_chunk_waits_for_company_and_no_longer() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.add("a", 5.0, critical=False, now=10.0)
    assert batcher.take(10.0) is None
    assert batcher.next_due(10.0) == pytest.approx(10.03)
    batch = batcher.take(10.03)
    assert batch is not None
    assert (batch.items, batch.closed) == (["a"], Closed.DEADLINE)
    assert batcher.next_due(10.03) is None


def test_a_batch_with_enough_chunks_goes_at_once() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    for item in range(5):
        batcher.add(item, 2.0, critical=False, now=0.0)
    batch = batcher.take(0.0)
    assert batch is not None
    assert (batch.items, batch.closed) == ([0, 1, 2, 3], Closed.SIZE)
    assert batcher.take(0.0) is None


def test_a_batch_whose_padded_audio_is_spent_goes_at_once() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    for item in range(3):
        batcher.add(item, 19.5, critical=False, now=0.0)
    batch = batcher.take(0.0)
    assert batch is not None
    assert (batch.items, batch.closed, batch.padded_seconds) == ([0, 1], Closed.BUDGET, 39.0)


def test_a_chunk_longer_than_the_budget_goes_alone_and_at_once() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.add("long", 60.0, critical=False, now=0.0)
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.items == ["long"]


def test_chunks_of_different_lengths_do_not_pad_each_other() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.add("short", 1.8, critical=False, now=0.0)
    batcher.add("long", 9.5, critical=False, now=0.001)
    batcher.add("another short", 2.0, critical=False, now=0.002)
    first, second = batcher.take(1.0), batcher.take(1.0)
    assert first is not None
    assert second is not None
    assert first.items == ["short", "another short"]
    assert second.items == ["long"]


def test_where_every_chunk_costs_a_window_all_lengths_go_together() -> None:
    batcher: Batcher[str] = Batcher(BatchLimits(90.0, 16, 0.03, 1000.0, window_seconds=30.0))
    for item, seconds in (("a", 1.0), ("b", 29.0), ("c", 12.0), ("d", 3.0)):
        batcher.add(item, seconds, critical=False, now=0.0)
    batch = batcher.take(0.0)
    assert batch is not None
    assert (batch.items, batch.padded_seconds, batch.closed) == (["a", "b", "c"], 90.0, Closed.BUDGET)


def test_critical_chunks_go_first_within_and_between_buckets() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.add("usual 9 s", 9.0, critical=False, now=0.0)
    batcher.add("usual", 5.0, critical=False, now=0.1)
    batcher.add("critical", 5.0, critical=True, now=0.2)
    first = batcher.take(1.0)
    assert first is not None
    assert first.items == ["critical", "usual"]


def test_a_full_bucket_does_not_starve_a_lonely_older_chunk() -> None:
    batcher: Batcher[str] = Batcher(LIMITS)
    batcher.add("lonely", 9.0, critical=False, now=0.0)
    for item in range(8):
        batcher.add(f"busy {item}", 1.0, critical=False, now=0.01)
    batch = batcher.take(0.05)
    assert batch is not None
    assert batch.items == ["lonely"]


def test_a_chunk_that_nobody_waits_for_takes_no_place() -> None:
    gone: set[int] = set()
    batcher: Batcher[int] = Batcher(LIMITS, gone.__contains__)
    for item in range(6):
        batcher.add(item, 2.0, critical=False, now=0.0)
    gone |= {0, 2}
    batch = batcher.take(0.0)
    assert batch is not None
    assert batch.items == [1, 3, 4, 5]
    assert batcher.queued_audio_seconds == 0.0
    batcher.add(7, 2.0, critical=False, now=0.0)
    gone.add(7)
    assert batcher.next_due(0.0) is None
    assert batcher.take(1.0) is None


def test_the_queue_says_when_it_is_full() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    batcher.add(1, 60.0, critical=False, now=0.0)
    assert not batcher.full
    batcher.add(2, 40.0, critical=False, now=0.0)
    assert batcher.full
    batcher.take(0.0)
    assert not batcher.full
    assert len(batcher) == 1


def test_draining_does_not_wait() -> None:
    batcher: Batcher[int] = Batcher(LIMITS)
    batcher.add(1, 1.0, critical=False, now=5.0)
    assert batcher.take(5.0) is None
    assert [batch.closed for batch in drained(batcher, 5.0)] == [Closed.DRAIN]
    assert batcher.closed[Closed.DRAIN] == 1


@dataclass(frozen=True)
class Step:
    wait: float
    audio_seconds: float
    critical: bool
    takes: int
    drops: bool


STEPS = st.lists(
    st.builds(
        Step,
        wait=st.sampled_from([0.0, 0.001, 0.02, 0.05]),
        audio_seconds=st.floats(0.01, 50.0),
        critical=st.booleans(),
        takes=st.integers(0, 2),
        drops=st.sampled_from([False, False, False, True]),
    ),
    max_size=60,
)
ANY_LIMITS = st.builds(
    BatchLimits,
    padded_seconds=st.floats(5.0, 100.0),
    max_chunks=st.integers(1, 6),
    max_wait_seconds=st.sampled_from([0.0, 0.03]),
    queue_seconds=st.just(100.0),
    bucket_seconds=st.sampled_from([0.5, 1.0, 5.0]),
    window_seconds=st.sampled_from([None, 30.0]),
)


@given(STEPS, ANY_LIMITS)
def test_nothing_is_lost_or_doubled_and_no_budget_is_exceeded(steps: list[Step], limits: BatchLimits) -> None:
    gone: set[int] = set()
    batcher: Batcher[int] = Batcher(limits, gone.__contains__)
    batches: list[Batch[int]] = []
    now = 0.0
    for item, step in enumerate(steps):
        now += step.wait
        batcher.add(item, step.audio_seconds, critical=step.critical, now=now)
        if step.drops:
            gone.add(item)
        for _ in range(step.takes):
            due = batcher.next_due(now)
            batch = batcher.take(now)
            assert (batch is not None) == (due is not None and due <= now)
            batches += [batch] if batch else []
    late = now + limits.max_wait_seconds
    while (due := batcher.next_due(now)) is not None:
        assert now <= due <= late
        now = due
        batch = batcher.take(now)
        assert batch is not None, "what is due can be taken"
        batches.append(batch)
    served = [item for batch in batches for item in batch.items]
    assert sorted(served) == sorted(set(range(len(steps))) - gone)
    assert (len(batcher), batcher.queued_audio_seconds) == (0, 0.0)
    assert sum(batcher.closed.values()) == len(batches)
    for batch in batches:
        assert 1 <= len(batch.items) <= limits.max_chunks
        assert len(batch.items) == 1 or batch.padded_seconds <= limits.padded_seconds
        assert_in_order(batch, limits)
    assert_oldest_first_in_each_bucket(batches, limits)


def bucket_in(audio_seconds: float, limits: BatchLimits) -> int:
    return 0 if limits.window_seconds else bucket_of(audio_seconds, limits.bucket_seconds)


@pytest.mark.parametrize(
    ("audio_seconds", "bucket"),
    [(0.01, 1), (0.3, 1), (0.34, 2), (1.0, 3), (3.9, 12), (4.0, 12), (4.1, 13), (5.0, 13), (5.1, 14), (20.0, 28)],
)
def test_buckets_are_narrow_for_short_chunks_and_a_second_wide_for_long_ones(audio_seconds: float, bucket: int) -> None:
    assert bucket_of(audio_seconds, 1.0) == bucket


def assert_in_order(batch: Batch[int], limits: BatchLimits) -> None:
    """Critical first, then the oldest first (items are numbered as they came), all of one bucket."""
    order = [(not member.critical, member.item) for member in batch.members]
    assert order == sorted(order)
    assert len({bucket_in(member.audio_seconds, limits) for member in batch.members}) == 1


def assert_oldest_first_in_each_bucket(batches: list[Batch[int]], limits: BatchLimits) -> None:
    last: dict[tuple[int, bool], int] = {}
    for member in (member for batch in batches for member in batch.members):
        key = (bucket_in(member.audio_seconds, limits), member.critical)
        assert last.get(key, -1) < member.item
        last[key] = member.item


@dataclass(frozen=True)
class Queued:
    """A chunk as the oracle keeps it."""

    item: int
    audio_seconds: float
    critical: bool
    arrived: float


def oracle(queued: list[Queued], limits: BatchLimits, now: float) -> list[int] | None:
    """What ``take`` should give, by looking at everything: every bucket, every length of batch."""
    candidates = []
    for edge in {bucket_in(one.audio_seconds, limits) for one in queued}:
        bucket = [one for one in queued if bucket_in(one.audio_seconds, limits) == edge]
        bucket.sort(key=lambda one: (not one.critical, one.item))
        costs = [limits.window_seconds or one.audio_seconds for one in bucket]
        fits = [
            count
            for count in range(1, min(len(bucket), limits.max_chunks) + 1)
            if count == 1 or count * max(costs[:count]) <= limits.padded_seconds
        ]
        count = max(fits)
        full = (
            count < len(bucket)
            or count == limits.max_chunks
            or (count + 1) * max(costs[:count]) > limits.padded_seconds
        )
        oldest = min(one.arrived for one in bucket)
        if full or now >= oldest + limits.max_wait_seconds:
            has_critical = any(one.critical for one in bucket)
            candidates.append((not has_critical, oldest, edge, [one.item for one in bucket[:count]]))
    return min(candidates)[3] if candidates else None


@given(STEPS, ANY_LIMITS)
def test_every_batch_is_the_one_that_looking_at_everything_would_give(steps: list[Step], limits: BatchLimits) -> None:
    batcher: Batcher[int] = Batcher(limits)
    queued: list[Queued] = []
    now = 0.0
    for item, step in enumerate(steps):
        now += step.wait
        batcher.add(item, step.audio_seconds, critical=step.critical, now=now)
        queued.append(Queued(item, step.audio_seconds, step.critical, now))
        for _ in range(step.takes):
            batch = batcher.take(now)
            assert (batch.items if batch else None) == oracle(queued, limits, now)
            gone = set(batch.items) if batch else set()
            queued = [one for one in queued if one.item not in gone]
        assert batcher.saturated == (oracle(queued, replace(limits, max_wait_seconds=math.inf), now) is not None)


@given(STEPS, ANY_LIMITS)
def test_while_the_engine_is_idle_nobody_waits_longer_than_allowed(steps: list[Step], limits: BatchLimits) -> None:
    batcher: Batcher[int] = Batcher(limits)
    now = 0.0

    def serve_until(until: float) -> None:
        while (due := batcher.next_due(now)) is not None and due <= until:
            batch = batcher.take(due)
            assert batch is not None
            assert all(due - member.arrived <= limits.max_wait_seconds + 1e-9 for member in batch.members)

    for item, step in enumerate(steps):
        serve_until(now + step.wait)
        now += step.wait
        batcher.add(item, step.audio_seconds, critical=step.critical, now=now)
    serve_until(now + limits.max_wait_seconds)
    assert len(batcher) == 0


@pytest.mark.parametrize("padded_seconds", [40.0, 160.0, 320.0])
def test_a_saturated_queue_of_a_usual_mix_pads_less_than_15_percent(padded_seconds: float) -> None:
    """Log-normal lengths: mean 6.5 s, coefficient of variation 0.7, at most 35 s."""
    sigma = math.sqrt(math.log(1 + 0.7**2))
    drawn = random.Random(1)
    lengths = [min(35.0, drawn.lognormvariate(math.log(6.5) - sigma**2 / 2, sigma)) for _ in range(4000)]

    batches = _saturated(lengths, padded_seconds)

    padded = sum(batch.padded_seconds for batch in batches)
    assert padded / sum(batch.audio_seconds for batch in batches) <= 1.15
    assert padded / len(batches) >= 0.7 * padded_seconds, "and its batches are well filled"


@pytest.mark.parametrize("padded_seconds", [40.0, 160.0, 320.0])
def test_a_saturated_queue_of_prompts_on_the_telephone_pads_less_than_15_percent(padded_seconds: float) -> None:
    """Log-normal lengths: median 1.5 s, a fifth of a second to eight."""
    drawn = random.Random(1)
    lengths = [min(8.0, max(0.2, drawn.lognormvariate(math.log(1.5), 0.6))) for _ in range(12_000)]

    batches = _saturated(lengths, padded_seconds)

    padded = sum(batch.padded_seconds for batch in batches)
    assert padded / sum(batch.audio_seconds for batch in batches) <= 1.15


def _saturated(lengths: list[float], padded_seconds: float) -> list[Batch[int]]:
    batcher: Batcher[int] = Batcher(BatchLimits(padded_seconds, 64, 0.03, 7200.0))
    now, added, batches = 0.0, 0, list[Batch[int]]()
    while added < len(lengths):
        while added < len(lengths) and not batcher.full:
            batcher.add(added, lengths[added], critical=False, now=now)
            added += 1
        batch = batcher.take(now)
        assert batch is not None, "a full queue always has a batch"
        batches.append(batch)
        now += batch.padded_seconds / 3000
    return batches
