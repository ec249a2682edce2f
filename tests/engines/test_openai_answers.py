"""What the API engine sends, and what it makes of good answers."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.core.model import SAMPLE_RATE, Wish
from consumer.core.prices import ApiModel, api_model
from consumer.core.quality import word_errors
from consumer.engines import openai_api
from consumer.engines.api_upload import UPLOADS, Part, encode_part, plan_parts, refused_format
from consumer.errors import EventError, RecordingError, ServiceError
from schemas.codec import encode
from schemas.codes import Reason
from tests.engines.api_bench import KEY, noise, running, settings, spooled
from tests.support.recordings import recordings
from tests.support.scripted_api import Reply, ScriptedApi, checksum, ok, whisper_recogniser


async def test_the_words_come_back_with_their_ledger_line(tmp_path: Path) -> None:
    recording = spooled(tmp_path, noise(2.0))
    async with ScriptedApi([ok(usage={"type": "duration", "seconds": 2.0})]) as api, running(api) as engine:
        heard = await engine.transcribe(recording, Wish(language="en-GB"))
    assert heard.recognised.text == f"heard 2.00 seconds {checksum(noise(2.0)):08x}"
    assert heard.recognised.language == "en"
    assert heard.recognised.engine == engine.ref
    assert heard.recognised.confidence is None, "this model gives no probabilities"
    [segment] = heard.recognised.segments
    assert (segment.start_seconds, segment.end_seconds) == (0.0, 2.0)
    [attempt] = heard.attempts
    assert (attempt.outcome, attempt.usage_source, attempt.price_version) == ("ok", "reported", "openai-2026-11")
    assert heard.cost_usd == attempt.cost_usd == pytest.approx(0.0045 * 2 / 60)
    [call] = api.calls
    assert (call.filename, call.content_type) == ("audio.flac", "audio/flac")
    assert call.fields == {"model": "gpt-transcribe", "response_format": "json", "language": "en"}
    assert call.authorization == f"Bearer {KEY}"


async def test_without_a_usage_figure_the_cost_is_our_own_estimate(tmp_path: Path) -> None:
    async with ScriptedApi() as api, running(api) as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(6.0)), Wish())
    assert heard.attempts[0].usage_source == "estimated"
    assert heard.cost_usd == pytest.approx(0.0045 / 10)
    assert "language" not in api.calls[0].fields


async def test_tokens_are_charged_by_the_token_price(tmp_path: Path) -> None:
    usage = {"type": "tokens", "input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    logprobs = [{"token": "a", "logprob": -0.1, "bytes": [97]}, {"token": "b", "logprob": -0.3, "bytes": [98]}]
    async with (
        ScriptedApi([ok(usage=usage, logprobs=logprobs)]) as api,
        running(api, api_model="gpt-4o-transcribe") as engine,
    ):
        heard = await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish())
    assert heard.cost_usd == pytest.approx(1000 * 2.5e-6 + 100 * 10e-6)
    assert heard.recognised.confidence == pytest.approx(math.exp(-0.2))
    assert api.calls[0].fields["include[]"] == "logprobs"


async def test_whisper_gives_segments_language_and_confidence(tmp_path: Path) -> None:
    async with ScriptedApi() as api, running(api, api_model="whisper-1") as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(3.0)), Wish())
    assert api.calls[0].fields["response_format"] == "verbose_json"
    assert heard.recognised.language == "en"
    assert heard.recognised.confidence == pytest.approx(math.exp(-0.25))
    assert heard.recognised.segments[0].end_seconds == 3.0


async def test_the_language_that_the_newest_model_detects_is_kept(tmp_path: Path) -> None:
    async with ScriptedApi([ok(languages=[{"code": "de"}])]) as api, running(api) as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish())
    assert heard.recognised.language == "de"


async def test_a_field_of_the_wrong_type_does_no_harm(tmp_path: Path) -> None:
    odd = ok(usage={"type": "duration", "seconds": "soon"}, segments=[{"start": None, "text": 3}, {"end": "x"}])
    async with ScriptedApi([odd]) as api, running(api, api_model="whisper-1") as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish())
    assert heard.recognised.text.startswith("heard 1.00")
    assert heard.attempts[0].usage_source == "estimated"


@pytest.mark.parametrize(
    "odd",
    [
        {"logprobs": 5},
        {"logprobs": [{"logprob": 1000}]},
        {"languages": 5},
        {"languages": ["en"]},
        {"languages": {"code": "en"}},
        {"languages": [{"code": 5}]},
        {"usage": {"type": "tokens", "input_tokens": -9, "output_tokens": -9}},
        {"text": "heard \ud800"},
    ],
)
async def test_words_that_were_paid_for_are_kept_whatever_stands_beside_them(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    body = json.dumps({"text": "heard it", **odd})
    async with ScriptedApi([Reply(body=body)]) as api, running(api, api_model="gpt-4o-transcribe") as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish())
    assert encode(heard.recognised)
    assert heard.recognised.text.startswith("heard ")
    assert [(attempt.outcome, attempt.cost_usd) for attempt in heard.attempts] == [("ok", 0.0001)]


@pytest.mark.parametrize(
    "odd", [{"segments": 5}, {"language": 5}, {"segments": [{"start": 0, "end": 1, "tokens": 5, "avg_logprob": 9999}]}]
)
async def test_so_are_those_of_a_verbose_answer(tmp_path: Path, odd: dict[str, Any]) -> None:
    body = json.dumps({"text": "heard it", **odd})
    async with ScriptedApi([Reply(body=body)]) as api, running(api, api_model="whisper-1") as engine:
        heard = await engine.transcribe(spooled(tmp_path, noise(1.0)), Wish())
    assert [segment.text for segment in heard.recognised.segments] == ["heard it"]


async def test_a_recording_above_the_limit_goes_in_parts_that_are_joined_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ApiModel("short", api_model("gpt-transcribe").usd_per_minute, "test", max_seconds=2.0, any_language=True)
    monkeypatch.setattr(openai_api, "api_model", lambda *_: short)
    recording = spooled(tmp_path, noise(5.0))
    async with ScriptedApi() as api, running(api) as engine:
        heard = await engine.transcribe(recording, Wish())
    assert sum(round(call.audio_seconds * SAMPLE_RATE) for call in api.calls) == recording.samples
    assert all(call.audio_seconds <= 2.0 for call in api.calls)
    texts = [f"heard {call.audio_seconds:.2f} seconds {checksum(call.samples):08x}" for call in api.calls]
    assert heard.recognised.text == " ".join(texts)
    edges = [(segment.start_seconds, segment.end_seconds) for segment in heard.recognised.segments]
    assert edges[0][0] == 0.0
    assert edges[-1][1] == 5.0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
    assert len(heard.attempts) == len(api.calls)


def test_a_cut_falls_where_it_is_quiet(tmp_path: Path) -> None:
    samples = noise(10.0)
    samples[round(8.2 * SAMPLE_RATE) : round(8.5 * SAMPLE_RATE)] = 0.0
    model = ApiModel("m", api_model("whisper-1").usd_per_minute, "test", max_seconds=9.0)
    first, second = plan_parts(spooled(tmp_path, samples), model)
    assert 8.2 * SAMPLE_RATE <= first.stop <= 8.5 * SAMPLE_RATE
    assert first.stop == second.start


def test_a_cut_prefers_a_pause_to_a_stop_within_a_word_that_is_quieter(tmp_path: Path) -> None:
    samples = noise(10.0)
    samples[round(8.2 * SAMPLE_RATE) : round(8.6 * SAMPLE_RATE)] *= 0.01
    samples[round(8.8 * SAMPLE_RATE) : round(8.95 * SAMPLE_RATE)] = 0.0
    model = ApiModel("m", api_model("whisper-1").usd_per_minute, "test", max_seconds=9.0)
    first, _ = plan_parts(spooled(tmp_path, samples), model)
    assert first.stop / SAMPLE_RATE == pytest.approx(8.4, abs=0.02)


def test_where_no_pause_is_a_cut_falls_into_the_quietest_place(tmp_path: Path) -> None:
    samples = noise(10.0)
    samples[round(8.2 * SAMPLE_RATE) : round(8.35 * SAMPLE_RATE)] *= 0.1
    model = ApiModel("m", api_model("whisper-1").usd_per_minute, "test", max_seconds=9.0)
    first, _ = plan_parts(spooled(tmp_path, samples), model)
    assert 8.2 <= first.stop / SAMPLE_RATE <= 8.35


def test_even_noise_that_cannot_be_compressed_stays_below_the_byte_limit(tmp_path: Path) -> None:
    model = ApiModel("m", api_model("whisper-1").usd_per_minute, "test", max_audio_bytes=100_000)
    loud = np.random.default_rng(1).uniform(-1, 1, 10 * SAMPLE_RATE).astype(np.float32)
    recording = spooled(tmp_path, loud)
    parts = plan_parts(recording, model)
    assert len(parts) > 1
    assert all(len(encode_part(recording, part)) <= 100_000 for part in parts)


async def test_an_upload_may_be_opus_at_a_fraction_of_the_bytes(tmp_path: Path) -> None:
    loud = np.random.default_rng(1).uniform(-1, 1, 10 * SAMPLE_RATE).astype(np.float32)
    recording = spooled(tmp_path, loud)
    async with ScriptedApi() as api, running(api, api_upload_format="opus") as engine:
        heard = await engine.transcribe(recording, Wish())
    [call] = api.calls
    assert (call.filename, call.content_type) == ("audio.ogg", "audio/ogg")
    assert call.upload_bytes <= 10 * UPLOADS["opus"].bytes_per_second
    assert call.upload_bytes < len(encode_part(recording, Part(0, recording.samples))) / 5
    assert call.audio_seconds == pytest.approx(10.0, abs=0.1)
    assert heard.recognised.text.startswith("heard 10.0")


def test_a_blip_is_padded_to_what_the_api_takes(tmp_path: Path) -> None:
    recording = spooled(tmp_path, noise(0.01))
    import io

    import soundfile

    body = encode_part(recording, Part(0, recording.samples))
    assert soundfile.info(io.BytesIO(body)).duration >= 0.1


def test_nothing_at_all_is_never_sent(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        plan_parts(spooled(tmp_path, noise(0.0)), api_model("whisper-1"))
    assert caught.value.reason is Reason.EMPTY


def test_languages_become_the_models_own_codes() -> None:
    engine = openai_api.OpenAIEngine(settings())
    assert engine.language_of(Wish(language="pt-BR")) == "pt"
    assert engine.language_of(Wish(language="nb")) == "no"
    assert engine.language_of(Wish()) is None
    with pytest.raises(EventError) as caught:
        engine.language_of(Wish(language="tlh"))
    assert caught.value.reason is Reason.UNSUPPORTED_LANGUAGE


async def test_without_a_key_the_public_api_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ServiceError, match="OPENAI_API_KEY"):
        await openai_api.OpenAIEngine(settings()).start()


async def test_a_format_that_the_model_does_not_take_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    picky = replace(api_model("gpt-transcribe"), formats=frozenset({"flac", "mp3"}))
    monkeypatch.setattr(openai_api, "api_model", lambda *_: picky)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ServiceError, match=r"takes no ogg files \(flac, mp3\); set it to flac"):
        await openai_api.OpenAIEngine(settings(api_upload_format="opus")).start()
    assert refused_format(picky, "flac") is None
    assert refused_format(replace(picky, formats=frozenset({"mp3"})), "flac") is not None
    assert all(refused_format(api_model(name), "opus") is None for name in ("whisper-1", "gpt-transcribe", "my-own"))


async def test_a_model_that_will_end_is_warned_about_at_start(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedApi() as api, running(api, api_model="whisper-1"):
        assert "2027-02-26" in caplog.text


@pytest.mark.model
async def test_real_speech_comes_back_as_its_words(tmp_path: Path) -> None:
    spoken = recordings()[0]
    async with ScriptedApi(recogniser=whisper_recogniser()) as api, running(api) as engine:
        heard = await engine.transcribe(spooled(tmp_path, spoken.samples), Wish(language="en"))
    counted = word_errors(spoken.text, heard.recognised.text, "en")
    assert counted is not None
    assert counted.errors <= 0.25 * counted.words
