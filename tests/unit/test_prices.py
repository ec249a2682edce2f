"""The table of API models."""

from datetime import date
from decimal import Decimal

from consumer.core.prices import MAX_REQUEST_BYTES, api_model, microusd, total_usd


def test_an_hour_costs_what_the_price_list_says() -> None:
    hours = {name: api_model(name).usd_for_seconds(3600) for name in ("gpt-transcribe", "whisper-1")}
    assert hours == {"gpt-transcribe": Decimal("0.27"), "whisper-1": Decimal("0.36")}


def test_tokens_are_priced_only_where_the_model_is() -> None:
    assert api_model("gpt-4o-transcribe").usd_for_tokens(1_000_000, 100_000) == Decimal("3.5")
    assert api_model("gpt-transcribe").usd_for_tokens(1, 1) is None


def test_every_model_but_the_newest_warns_of_its_end() -> None:
    assert api_model("gpt-transcribe").shutdown_warning(date(2030, 1, 1)) is None
    before = api_model("whisper-1").shutdown_warning(date(2026, 11, 1))
    after = api_model("whisper-1").shutdown_warning(date(2027, 3, 1))
    assert before is not None
    assert "will be shut down on 2027-02-26" in before
    assert after is not None
    assert "was shut down" in after


def test_an_unknown_model_is_free_unless_it_is_priced() -> None:
    assert api_model("my-own").usd_for_seconds(3600) == 0
    priced = api_model("my-own", 0.01)
    assert priced.usd_for_seconds(60) == Decimal("0.01")
    assert priced.price_version == "settings-0.01"


def test_a_price_of_ones_own_keeps_what_the_model_can_do() -> None:
    model = api_model("whisper-1", 0.001)
    assert model.response_format == "verbose_json"
    assert model.usd_for_seconds(60) == Decimal("0.001")


def test_uploads_leave_room_for_the_framing() -> None:
    assert MAX_REQUEST_BYTES == 26_214_400
    assert api_model("gpt-transcribe").max_audio_bytes < MAX_REQUEST_BYTES - 4096


def test_the_most_a_request_can_cost_covers_what_it_may_be_billed() -> None:
    assert api_model("gpt-transcribe").most_microusd(59.2) == 4500
    assert api_model("whisper-1").most_microusd(60.0) == 6000
    by_tokens = api_model("gpt-4o-transcribe")
    billed = by_tokens.usd_for_tokens(10 * 60, 2000)
    assert billed is not None
    assert by_tokens.most_microusd(60.0) >= microusd(billed)
    assert api_model("my-own").most_microusd(3600.0) == 0


def test_a_started_micro_dollar_counts_as_one() -> None:
    assert [microusd(usd) for usd in (0.0, 75e-6, 22.5e-6, Decimal("1e-9"))] == [0, 75, 23, 1]


def test_amounts_add_up_as_they_are_written() -> None:
    assert total_usd([0.1] * 10) == 1.0
    assert total_usd([]) == 0.0
