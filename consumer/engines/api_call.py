"""One request to the API: through the gate, within its time, its outcome told to the breaker and the ledger."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from openai import APIStatusError, AsyncOpenAI, omit
from openai._legacy_response import LegacyAPIResponse

from consumer.core.breaker import Breaker
from consumer.core.budget import Exhausted, Grant
from consumer.core.model import Recording, Wish
from consumer.core.prices import ApiModel, microusd
from consumer.engines.api_answer import HeardPart, Usage, heard_part, unheard, usage_of
from consumer.engines.api_errors import Blame, Meaning, garbled, meaning_of
from consumer.engines.api_gate import ApiGate
from consumer.engines.api_limits import told_limits
from consumer.engines.api_upload import UPLOADS, Part, encode_part
from consumer.engines.breakers import is_slow
from consumer.errors import HoldError, SlowDownError, TransientError
from consumer.retrying import AttemptsExhaustedError
from consumer.settings import Settings
from consumer.telemetry.calls import Call, calling, waits_for_api
from schemas.codes import Hold, Reason
from schemas.models import Attempt


@dataclass(frozen=True, slots=True)
class Ask:
    """One part of a recording, and what is wanted of it."""

    recording: Recording
    part: Part
    language: str | None
    wish: Wish


@dataclass(slots=True)
class Ledger:
    """What one transcription took so far."""

    attempts: list[Attempt] = field(default_factory=list)
    queue_seconds: float = 0.0
    infer_seconds: float = 0.0


class ApiCaller:
    """Makes single requests; it never tries again by itself."""

    def __init__(
        self,
        client: AsyncOpenAI,
        model: ApiModel,
        gate: ApiGate,
        breaker: Breaker,
        *,
        settings: Settings,
        api_key: str,
        longest_wait_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """``longest_wait_seconds``: for a longer one that the API asks for, the caller opens the breaker, so that those
        who wait for their turn can go elsewhere.
        """
        self._client = client
        self._model = model
        self._gate = gate
        self._breaker = breaker
        self._settings = settings
        self._timeout_seconds = settings.api_timeout_seconds
        self._upload = UPLOADS[settings.api_upload_format]
        self._api_key = api_key
        self._longest_wait_seconds = longest_wait_seconds
        self._clock = clock

    async def hear(self, ask: Ask, ledger: Ledger) -> HeardPart:
        """One try. Raises TransientError where another try makes sense, AttemptsExhaustedError where only a
        later or another engine's does, RecordingError or EventError where none does; among the last,
        HoldError.
        """
        if not self._breaker.would_allow(self._clock()):
            raise self._left_alone()
        most_microusd = self._model.most_microusd(ask.part.sent_seconds)
        if (exhausted := ask.wish.purse.exhausted(most_microusd)) is not None:
            raise _unaffordable(exhausted)
        queued = self._clock()
        wait_at_most = None if ask.wish.deadline is None else max(0.0, ask.wish.deadline - queued)
        if (shut_seconds := self._gate.shut_seconds) > 0:
            waits_for_api(self._gate.shut_why, shut_seconds)
        if wait_at_most is not None and shut_seconds >= wait_at_most:
            raise _not_asked("the API's limits let nothing through before the deadline", shut_seconds)
        turn = self._gate.turn(ask.part.sent_seconds, urgency=ask.wish.urgency, wait_at_most=wait_at_most)
        async with turn as permit:
            ledger.queue_seconds += self._clock() - queued
            body = await asyncio.to_thread(encode_part, ask.recording, ask.part, self._upload)
            # last of all: what is granted counts in the day in which it is sent
            grant = await ask.wish.purse.reserve(most_microusd)
            if isinstance(grant, Exhausted):
                raise _unaffordable(grant)
            try:
                if not self._breaker.allow(self._clock()):
                    raise self._left_alone()
                ask.wish.begins()
                permit.sending()
                return await self._send(ask, body, ledger, grant)
            finally:
                grant.settle(0)  # unless a ledger line said otherwise

    async def _send(self, ask: Ask, body: bytes, ledger: Ledger, grant: Grant) -> HeardPart:
        started = self._clock()
        try:
            with self._span(ask) as call:
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await self._request(body, ask.language)
                heard = heard_part(answer, ask.part)
                call.answered(answer, usable=heard is not None)
        except asyncio.CancelledError:
            # nobody will read the answer, but the API may have worked on it
            self._breaker.abandon(self._clock(), sent_at=started)
            usage = unheard(self._model, ask.part.sent_seconds)
            self._enter(ledger, grant, ask.part, started, Reason.ENGINE_FAILED, usage)
            raise
        except Exception as error:
            if isinstance(error, APIStatusError):
                self._gate.heed(told_limits(error.response.headers))
            meaning = meaning_of(error, time.time(), self._api_key)
            raise self._failed(meaning, ask.part, started, ledger, grant) from error
        if heard is None:
            raise self._failed(garbled("something else"), ask.part, started, ledger, grant)
        now = self._clock()
        slow = is_slow(now - started, ask.part.audio_seconds, self._settings)
        self._breaker.record_success(now, slow=slow, sent_at=started)
        usage = usage_of(answer, self._model, ask.part.sent_seconds)
        self._enter(ledger, grant, ask.part, started, "ok", usage)
        return heard

    def _span(self, ask: Ask) -> AbstractContextManager[Call]:
        return calling(self._model.name, self._client.base_url, audio_seconds=ask.part.audio_seconds)

    async def _request(self, body: bytes, language: str | None) -> object:
        # a nameless file is refused by the API, and only bytes can be sent whole
        file = (self._upload.filename, body, self._upload.media_type)
        transcriptions = self._client.audio.transcriptions.with_raw_response
        spoken = omit if language is None else language
        raw: LegacyAPIResponse[Any]
        if self._model.response_format == "verbose_json":
            raw = await transcriptions.create(
                file=file, model=self._model.name, response_format="verbose_json", language=spoken
            )
        else:
            raw = await transcriptions.create(
                file=file,
                model=self._model.name,
                response_format="json",
                language=spoken,
                include=["logprobs"] if self._model.logprobs else omit,
            )
        self._gate.heed(told_limits(raw.headers))
        return raw.parse()

    def _failed(self, meaning: Meaning, part: Part, started: float, ledger: Ledger, grant: Grant) -> Exception:
        """Tell the breaker, the gate, the ledger and the budget; the exception to raise."""
        error, now = meaning.error, self._clock()
        if meaning.blame is Blame.TRIP:
            self._breaker.trip(error.detail, now)
        elif meaning.blame is Blame.FAILURE:
            slow = is_slow(now - started, part.audio_seconds, self._settings)
            self._breaker.record_failure(now, error.detail, slow=slow, sent_at=started)
        elif isinstance(error, TransientError):
            self._breaker.abandon(now, sent_at=started)
        else:
            self._breaker.record_success(now, sent_at=started)  # it read the request and judged it
        usage = unheard(self._model, part.sent_seconds) if meaning.maybe_billed else Usage(0.0, "estimated")
        self._enter(ledger, grant, part, started, error.reason, usage)
        if isinstance(error, SlowDownError) and (error.retry_after_seconds or math.inf) <= self._longest_wait_seconds:
            self._gate.hold(error.retry_after_seconds or 0.0)
        if isinstance(error, TransientError) and not meaning.again:
            return AttemptsExhaustedError(error, 1, error.detail)
        return error

    def _enter(self, ledger: Ledger, grant: Grant, part: Part, started: float, outcome: str, usage: Usage) -> None:
        grant.settle(microusd(usage.cost_usd if usage.counted_usd is None else usage.counted_usd))
        seconds = self._clock() - started
        ledger.infer_seconds += seconds
        ledger.attempts.append(
            Attempt(
                engine="openai",
                model=self._model.name,
                outcome=outcome,
                audio_seconds=part.audio_seconds,
                cost_usd=usage.cost_usd,
                price_version=self._model.price_version,
                usage_source=usage.source,
                seconds=seconds,
            )
        )

    def _left_alone(self) -> AttemptsExhaustedError:
        wait_seconds = self._breaker.wait_seconds(self._clock())
        return _not_asked(f"the API is left alone for now: {self._breaker.reason}", wait_seconds)


def _not_asked(detail: str, wait_seconds: float) -> AttemptsExhaustedError:
    patience = SlowDownError(Reason.ENGINE_FAILED, detail, retry_after_seconds=wait_seconds or None)
    return AttemptsExhaustedError(patience, 0, detail)


def _unaffordable(exhausted: Exhausted) -> HoldError:
    detail = f"a budget leaves too little for the API before {exhausted.until:%Y-%m-%d %H:%M:%S} UTC; raise it, or wait"
    until = time.time() + exhausted.wait_seconds
    return HoldError(Hold.BUDGET_EXHAUSTED, Reason.BUDGET_EXHAUSTED, detail, until=until)
