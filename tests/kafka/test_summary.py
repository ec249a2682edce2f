"""``earwitness summary`` and ``report`` against a real broker: the same totals as an independent recount."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from consumer.settings import Settings
from schemas.codec import encode
from schemas.codes import Outcome, Reason
from schemas.models import TranscriptionMetric, WordErrors, utc_now
from tests.support.cli import Earwitness, on_broker
from tests.support.kafka import Written, read_topic, write_records
from tests.support.metrics import API, metric, paid

pytestmark = pytest.mark.kafka


@pytest.fixture
def earwitness(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Earwitness:
    command = on_broker(kafka_settings, tmp_path, monkeypatch, capsys)
    command("topics", "create")
    return command


def a_day(settings: Settings) -> None:
    """Metric events of the last day in all partitions, one of the day before, and a record that is none."""
    now = utc_now()
    found = [
        paid(now - timedelta(minutes=7 * number), api_usd=0.00321, engine=API, seconds=number)
        for number in range(1, 60)
    ]
    found += [metric(now - timedelta(hours=3), tenant="acme", cached=True, wer=WordErrors(errors=1, words=8))] * 7
    found += [metric(now - timedelta(hours=2), reason=Reason.CORRUPT_AUDIO, event_id=None)] * 2
    found += [metric(now - timedelta(hours=25), cost_usd=100.0)]
    records = [Written(encode(one), b"%d" % number) for number, one in enumerate(found)]
    write_records(settings.kafka_bootstrap_servers, settings.topics.metrics, [*records, Written(b"{}")])


def recounted(settings: Settings) -> list[TranscriptionMetric]:
    """What librdkafka reads of the last day."""
    records = read_topic(settings.kafka_bootstrap_servers, settings.topics.metrics)
    found = [TranscriptionMetric.model_validate(record.json) for record in records if record.value != b"{}"]
    return [one for one in found if one.completed_at > utc_now() - timedelta(hours=24)]


def test_the_summary_and_the_report_say_what_a_recount_of_the_topic_says(
    earwitness: Earwitness, kafka_settings: Settings, tmp_path: Path
) -> None:
    a_day(kafka_settings)
    found = recounted(kafka_settings)
    cost = float(sum(Decimal(str(one.cost_usd)) for one in found))

    assert earwitness("summary", "--json") == 0
    said = json.loads(earwitness.out)
    assert (said["events"], said["unreadable"]) == (len(found), 1) == (68, 1)
    assert said["transcribed"] == sum(one.outcome is Outcome.TRANSCRIBED for one in found)
    assert said["audio_hours"] == pytest.approx(sum(one.audio_seconds or 0 for one in found) / 3600)
    assert said["cost_usd"] == cost
    assert said["dead_letters_by_reason"] == {"corrupt_audio": 2}
    assert {row["tenant"]: row["events"] for row in said["by_tenant"]} == {"default": 61, "acme": 7}
    assert said["wer"] == {"errors": 7, "words": 56, "rate": 0.125}

    assert earwitness("summary") == 0
    words = " ".join(earwitness.out.split())
    for line in (f"cost {cost:.4f} USD", "WER 12.5% (7 errors in 56 words)", "corrupt_audio 2", "dead letters 2"):
        assert line in words

    assert earwitness("report", "report.html") == 0
    assert earwitness.out == "report.html: 68 events\n"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for total in ("<dd>68</dd>", f"<dd>{cost:.4f} USD", "7 errors in 56 words"):
        assert total in page


def test_a_time_without_events_is_said_to_be_one(earwitness: Earwitness, tmp_path: Path) -> None:
    assert earwitness("summary") == 0
    assert "no events ended in this time" in earwitness.out
    assert earwitness("summary", "--json", "--hours", "1") == 0
    said = json.loads(earwitness.out)
    assert (said["events"], said["cache_share"], said["wer"], said["latency_seconds"]["p95"]) == (0, None, None, None)
    assert earwitness("report", "report.html") == 0
    assert "No events ended in this time." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert earwitness("report", "gone/report.html") == 1
    assert "gone/report.html cannot be written: No such file or directory" in earwitness.err
