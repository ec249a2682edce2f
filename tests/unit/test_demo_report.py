"""The demo judges itself: what it counts as a broken promise, what it adds up, and how it looks."""

from io import StringIO

import pytest
from rich.console import Console

from compose.demo_outcomes import Published
from compose.demo_recordings import Take
from compose.demo_report import Totals, faults, show
from schemas.codes import Outcome, Reason, Route
from schemas.models import (
    DeadLetter,
    EngineRef,
    LatencySeconds,
    Origin,
    Transcript,
    TranscriptionMetric,
    WordErrors,
    utc_now,
)

ENGINE = EngineRef(name="ctranslate2", model="tiny.en")
PLACE = ("demo.events", 0, 7)
SENTENCE = "and mister john dashwood had then leisure to consider how much there might be prudently in his power"


def transcribed(name: str, digest: str = "a" * 64, *, cached: bool = False, text: str = SENTENCE) -> Published:
    transcript = Transcript(
        event_id=name,
        sha256=digest,
        tenant="default",
        text=text,
        engine=ENGINE,
        audio_seconds=60.0,
        route=Route.CACHE if cached else Route.LOCAL,
        cached=cached,
        cost_usd=0.0 if cached else 0.0005,
        published_at=utc_now(),
        completed_at=utc_now(),
    )
    metric = TranscriptionMetric(
        event_id=name,
        tenant="default",
        outcome=Outcome.TRANSCRIBED,
        engine=ENGINE,
        cached=cached,
        audio_seconds=60.0,
        latency_seconds=LatencySeconds(total=1.25),
        cost_usd=transcript.cost_usd,
        wer=WordErrors(errors=1, words=18),
        completed_at=utc_now(),
    )
    return Published(Take(name), name, PLACE, [transcript], [], [metric])


def dead(name: str, reason: Reason, *, expected: Reason | None) -> Published:
    origin = Origin(topic=PLACE[0], partition=PLACE[1], offset=PLACE[2], timestamp_ms=0)
    letter = DeadLetter(
        event_id=name,
        tenant="default",
        reason=reason,
        detail="it does not exist",
        attempts=1,
        origin=origin,
        payload_base64=None,
        failed_at=utc_now(),
    )
    metric = TranscriptionMetric(
        event_id=name,
        tenant="default",
        outcome=Outcome.DEAD_LETTERED,
        reason=reason,
        latency_seconds=LatencySeconds(total=0.5),
        completed_at=utc_now(),
    )
    return Published(Take(name, reason=expected), name, PLACE, [], [letter], [metric])


def test_one_outcome_and_one_metric_for_each_is_what_was_promised() -> None:
    kept = [
        transcribed("first"),
        transcribed("again", cached=True),
        dead("missing", Reason.NOT_FOUND, expected=Reason.NOT_FOUND),
    ]

    assert faults(kept) == []


@pytest.mark.parametrize("field", ["transcripts", "metrics"])
@pytest.mark.parametrize("times", [0, 2])
def test_an_outcome_or_a_metric_too_many_or_too_few_is_a_broken_promise(field: str, times: int) -> None:
    one = transcribed("first", cached=True)
    setattr(one, field, getattr(one, field) * times)

    (fault,) = faults([one])

    assert fault.startswith("first: ")
    assert "instead of one of each" in fault


def test_a_transcript_and_a_dead_letter_for_the_same_event_are_a_broken_promise() -> None:
    one = transcribed("both")
    one.dead_letters = dead("both", Reason.POISON, expected=None).dead_letters

    assert any("2 outcomes" in fault for fault in faults([one]))


def test_another_reason_than_the_expected_one_is_told_with_its_detail() -> None:
    (fault,) = faults([dead("missing", Reason.FETCH_FAILED, expected=Reason.NOT_FOUND)])

    assert fault == "missing: fetch_failed (it does not exist) instead of not_found"


def test_a_transcript_where_a_dead_letter_was_due_is_a_broken_promise() -> None:
    one = transcribed("damaged")
    one.take = Take("damaged", reason=Reason.CORRUPT_AUDIO)

    assert faults([one]) == ["damaged: a transcript instead of corrupt_audio"]


def test_hearing_the_same_bytes_twice_is_a_broken_promise_within_a_run_and_across_runs() -> None:
    twice = [transcribed("first"), transcribed("again")]
    earlier = [transcribed("first")]

    assert faults(twice) == ["again: recognised 2 times"]
    assert faults(earlier, known_digests=["a" * 64]) == ["first: recognised 2 times"]


def test_the_totals_sum_errors_over_words_and_price_only_what_was_heard() -> None:
    totals = Totals.of(
        [
            transcribed("first"),
            transcribed("again", cached=True),
            dead("missing", Reason.NOT_FOUND, expected=Reason.NOT_FOUND),
        ]
    )

    lines = dict(totals.lines(took_seconds=6.0, usd_per_hour=0.1))

    assert lines["outcomes"] == "3: 2 transcripts, 1 dead letters"
    assert lines["recognitions"] == "1; 1 from the cache, 50.0 %"
    assert lines["speed"] == "120 s of audio in 6.0 s: 20 × real time"
    assert lines["word errors"] == "2 in 36 words: WER 5.6 %"
    assert lines["cost"] == "$500 for a million minutes, at $0.10 for an hour of this machine"


@pytest.mark.parametrize("columns", [80, 160])
def test_every_outcome_is_shown_within_the_terminal(columns: int) -> None:
    published = [
        transcribed("austen-0870", text=f"{SENTENCE} " * 10),
        transcribed("[bold]odd", cached=True),
        dead("missing file", Reason.NOT_FOUND, expected=Reason.NOT_FOUND),
    ]
    out = StringIO()

    show(Console(file=out, width=columns), published, Totals.of(published).lines(1.0, 0.1))

    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= columns
    for part in ("austen-0870", "[bold]odd", "cached", "60.0 s", "1.25 s", "$0.000500", "1/18", "…", "not_found"):
        assert part in shown
    assert "ctranslate2" in shown
