"""The figures that are shown are those of a plain recount."""

import io
import math
import re
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import summary_view
from consumer.core.figures import TENANTS_AT_MOST, engines, seconds, tenants
from consumer.core.sketch import RELATIVE_ERROR, SMALLEST
from consumer.core.summary import LENGTHS_SECONDS, Summary, Timeline
from schemas.codes import Outcome, Reason
from schemas.models import LatencySeconds, TranscriptionMetric, WordErrors
from tests.support.metrics import API, LOCAL, START, attempt, metric, metrics, paid

moments = st.integers(0, 86_399).map(lambda seconds: START + timedelta(seconds=seconds))


def summed(*found: TranscriptionMetric) -> Summary:
    sums = Summary()
    for one in found:
        sums.add(one)
    return sums


@given(st.lists(metrics(moments), max_size=30))
def test_every_figure_is_that_of_a_recount_and_the_parts_add_up_to_the_whole(found: list[TranscriptionMetric]) -> None:
    timeline = Timeline(START, START + timedelta(days=1))
    for one in found:
        timeline.add(one)
    said = timeline.whole.as_dict()

    transcribed = [one for one in found if one.outcome is Outcome.TRANSCRIBED]
    cost = sum((Decimal(str(one.cost_usd)) for one in found), Decimal(0))
    latencies = sorted(one.latency_seconds.total for one in found)
    assert (said["events"], said["transcribed"]) == (len(found), len(transcribed))
    assert said["audio_hours"] == pytest.approx(math.fsum(one.audio_seconds or 0 for one in found) / 3600)
    assert said["cost_usd"] == float(cost)
    assert said["cache_share"] == (sum(one.cached for one in found) / len(transcribed) if transcribed else None)
    assert said["dead_letters_by_reason"] == Counter(one.reason for one in found if one.reason is not None)
    assert said["routes"] == Counter(one.route for one in transcribed)
    if found:
        assert said["latency_seconds"]["p95"] == pytest.approx(
            latencies[math.ceil(0.95 * len(latencies)) - 1], rel=RELATIVE_ERROR + 1e-9, abs=SMALLEST
        )

    for parts in (said["by_engine"], said["by_tenant"], [sums.as_dict() for _, sums in timeline.slices()]):
        for figure in ("events", "dead_lettered", "cached"):
            assert sum(part[figure] for part in parts) == said[figure]
        assert math.fsum(part["cost_usd"] for part in parts) == pytest.approx(float(cost))
    assert sum(timeline.whole.lengths.values()) == len(transcribed)


def test_cost_goes_to_who_was_paid_and_words_to_who_said_them() -> None:
    lines = [attempt(LOCAL, 0.002, "engine_failed"), attempt(API, 0.006)]
    served = metric(engine=API, cost_usd=0.008, attempts=lines, wer=WordErrors(errors=1, words=10))
    sums = summed(served, metric(engine=API, cached=True), metric(reason=Reason.API_REJECTED, cost_usd=0.001))

    by_engine = {(row["engine"], row["model"]): row for row in sums.as_dict()["by_engine"]}
    api, local, none = by_engine["openai", API.model], by_engine["ctc", LOCAL.model], by_engine[None, None]
    assert (api["events"], api["cost_usd"], api["wer"]["rate"]) == (2, 0.006, 0.1)
    assert (local["events"], local["cost_usd"]) == (0, 0.002)
    assert (none["events"], none["cost_usd"]) == (1, 0.001)
    assert engines(sums)[0][0] == f"openai {API.model}"


def test_a_rate_is_the_sum_of_errors_over_the_sum_of_words_not_a_mean_of_rates() -> None:
    sums = summed(metric(wer=WordErrors(errors=1, words=1)), metric(wer=WordErrors(errors=0, words=99)))

    assert sums.as_dict()["wer"] == {"errors": 1, "words": 100, "rate": 0.01}


def test_a_stage_counts_the_events_that_went_through_it() -> None:
    fetched = metric(latency_seconds=LatencySeconds(total=3.0, fetch=2.0, commit=0.1))
    sums = summed(fetched, metric(cached=True, latency_seconds=LatencySeconds(total=1.0, commit=0.1)))

    assert (sums.stages["fetch"].count, sums.stages["commit"].count) == (1, 2)
    assert set(sums.as_dict()["stages_seconds"]) == {"fetch", "commit"}


@pytest.mark.parametrize(("audio_seconds", "class_"), [(0.0, 0), (1.0, 0), (1.01, 1), (1e6, len(LENGTHS_SECONDS))])
def test_a_length_falls_into_the_class_that_holds_it(audio_seconds: float, class_: int) -> None:
    assert summed(metric(audio_seconds=audio_seconds)).lengths == {class_: 1}


@pytest.mark.parametrize(
    ("hours", "slice_seconds"), [(0.5, 60), (24, 1800), (24 * 7, 6 * 3600), (24 * 366, 7 * 86_400)]
)
def test_a_timeline_has_few_enough_slices_to_look_at_and_leaves_none_out(hours: float, slice_seconds: int) -> None:
    timeline = Timeline(START, START + timedelta(hours=hours))
    timeline.add(metric(START))
    begins = [begin for begin, _ in timeline.slices()]

    assert timeline.slice_seconds == slice_seconds
    assert len(begins) <= 54
    assert {(after - before).total_seconds() for before, after in pairwise(begins)} == {slice_seconds}
    assert begins[0] <= START


def test_many_tenants_are_shown_as_the_busiest_and_the_others() -> None:
    names = [f"t{number:02d}" for number in range(TENANTS_AT_MOST + 3) for _ in range(1 + (number == 5))]
    rows = tenants(summed(*(paid(tenant=name, api_usd=0.01) for name in names)))

    assert len(rows) == TENANTS_AT_MOST + 1
    assert (rows[0][0], rows[0][1]) == ("t05", "2")
    assert (rows[-1][0], rows[-1][1], rows[-1][-2]) == ("3 others", "3", "0.0300")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 60, 80, 160])
def test_no_terminal_is_too_narrow_for_a_name_or_a_figure(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    name = "somebody-with-a-name-that-no-column-holds" * 2
    shown = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    sums = summed(paid(tenant=name, api_usd=1234.5678, seconds=0.7, audio_seconds=36_000.0))
    summary_view.show(sums, START, START, 0, shown)

    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in shown.getvalue()
    for figure in ("1,234.5678", "10.00 h"):
        assert sum(figure in " ".join(pair) for pair in pairwise(lines)) >= 3, "in all, by engine and by tenant"
    assert name in "".join(line.split()[0] for line in lines if line.split())


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (0.0123, "12 ms"), (1.234, "1.23 s"), (12.34, "12.3 s"), (1234.5, "1,234 s")]
)
def test_seconds_are_said_with_the_digits_that_count(value: float | None, said: str) -> None:
    assert seconds(value) == said
