"""What each API model can do and what it costs; pure.

Sources: developers.openai.com/api/docs/models and /deprecations, and the openai SDK's types/audio, 2026-11.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_CEILING, Decimal

from schemas.models import Attempt

MAX_REQUEST_BYTES = 25 * 1024 * 1024
"""The API counts the whole request, multipart framing included."""
MULTIPART_OVERHEAD_BYTES = 64 * 1024
"""Generous: boundaries, part headers and the small fields are under 2 KiB."""

_FORMATS = frozenset({"flac", "mp3", "mp4", "mpeg", "mpga", "m4a", "ogg", "wav", "webm"})
_SHUTDOWN = date(2027, 2, 26)
_MOST_INPUT_TOKENS_PER_SECOND = 20
"""Audio is taken in as about ten tokens a second; twice that is never seen."""
_MOST_OUTPUT_TOKENS = 2000
"""The limit of one answer, by the model pages."""
_MILLION = Decimal(1_000_000)
_SIXTY = Decimal(60)


def microusd(usd: Decimal | float) -> int:
    """US dollars as whole micro-dollars, a started one counted as one."""
    exact = usd if isinstance(usd, Decimal) else Decimal(str(usd))
    return int((exact * _MILLION).to_integral_value(ROUND_CEILING))


def total_usd(amounts: Iterable[float]) -> float:
    """The sum of amounts in US dollars, added up as the decimal numbers that they are written as."""
    return float(sum((Decimal(str(amount)) for amount in amounts), Decimal(0)))


def spent_usd(attempts: Iterable[Attempt]) -> float:
    """What tries have cost, in US dollars."""
    return total_usd(attempt.cost_usd for attempt in attempts)


@dataclass(frozen=True, slots=True)
class ApiModel:
    """One model of the API: its limits, its options, its price."""

    name: str
    usd_per_minute: Decimal
    price_version: str
    formats: frozenset[str] | None = _FORMATS
    """What an upload may be, by its file's suffix; None: that is not known, and any is tried."""
    response_format: str = "json"
    max_seconds: float | None = None
    """Longest audio in one request; None: only the bytes are limited."""
    max_audio_bytes: int = MAX_REQUEST_BYTES - MULTIPART_OVERHEAD_BYTES
    logprobs: bool = False
    """``include=["logprobs"]`` is accepted."""
    timestamps: bool = False
    any_language: bool = False
    """The languages are not known: any code is tried."""
    usd_per_million_input_tokens: Decimal | None = None
    usd_per_million_output_tokens: Decimal | None = None
    shutdown: date | None = None

    def usd_for_seconds(self, audio_seconds: float) -> Decimal:
        """The price of so much audio."""
        return Decimal(str(audio_seconds)) * self.usd_per_minute / _SIXTY

    def usd_for_tokens(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """The price of so many tokens; None if the model is not priced by them."""
        if self.usd_per_million_input_tokens is None or self.usd_per_million_output_tokens is None:
            return None
        given = self.usd_per_million_input_tokens * input_tokens
        return (given + self.usd_per_million_output_tokens * output_tokens) / _MILLION

    def most_microusd(self, audio_seconds: float) -> int:
        """What one request with so much audio can cost at most, in micro-dollars.

        Seconds may be billed as started ones; a model that is priced by tokens takes at most so many.
        """
        most = self.usd_for_seconds(math.ceil(audio_seconds))
        given = math.ceil(audio_seconds * _MOST_INPUT_TOKENS_PER_SECOND)
        by_tokens = self.usd_for_tokens(given, _MOST_OUTPUT_TOKENS)
        return microusd(most if by_tokens is None else max(most, by_tokens))

    def shutdown_warning(self, today: date) -> str | None:
        """What to tell the operator about the end of the model's service, if it has one."""
        if self.shutdown is None:
            return None
        verb = "was" if today >= self.shutdown else "will be"
        return f"{self.name} {verb} shut down on {self.shutdown}; set EARWITNESS_API_MODEL to gpt-transcribe"


_PRICED = "openai-2026-11"

_MODELS = {
    model.name: model
    for model in (
        # its length limit is not published: taken to be that of its siblings
        ApiModel("gpt-transcribe", Decimal("0.0045"), _PRICED, max_seconds=1400.0),
        ApiModel(
            "whisper-1",
            Decimal("0.006"),
            _PRICED,
            response_format="verbose_json",
            timestamps=True,
            shutdown=_SHUTDOWN,
        ),
        *(
            ApiModel(
                name,
                Decimal(per_minute),
                _PRICED,
                max_seconds=1400.0,
                logprobs=True,
                usd_per_million_input_tokens=Decimal(given),
                usd_per_million_output_tokens=Decimal(made),
                shutdown=_SHUTDOWN,
            )
            for name, per_minute, given, made in (
                ("gpt-4o-transcribe", "0.006", "2.50", "10"),
                ("gpt-4o-mini-transcribe", "0.003", "1.25", "5"),
                ("gpt-4o-mini-transcribe-2025-12-15", "0.003", "1.25", "5"),
            )
        ),
    )
}


def api_model(name: str, usd_per_minute: float | None = None) -> ApiModel:
    """The table's entry for a model, at ``usd_per_minute`` if that is given (then tokens do not count).

    A model that the table does not know, such as one on a compatible server of one's own, is free unless priced.
    """
    unknown = ApiModel(name, Decimal(0), "free", formats=None, any_language=True)
    model = _MODELS.get(name, unknown)
    if usd_per_minute is None:
        return model
    return replace(
        model,
        usd_per_minute=Decimal(str(usd_per_minute)),
        price_version=f"settings-{usd_per_minute}",
        usd_per_million_input_tokens=None,
        usd_per_million_output_tokens=None,
    )
