"""Asks a chat model to correct a transcript; whatever goes wrong, the text stays as it was heard."""

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal

import httpx2
from openai import APIStatusError, AsyncOpenAI
from openai._legacy_response import LegacyAPIResponse
from openai.types.chat import ChatCompletion

from consumer.core.breaker import BreakerState
from consumer.core.budget import Exhausted, Grant
from consumer.core.model import Heard, Wish
from consumer.core.prices import microusd, total_usd
from consumer.core.refine import REFINER, ChatPrice, Prompt, RefinePolicy, accepted, prompt_for
from consumer.engines.api_answer import entries, writable
from consumer.engines.api_errors import Blame, Meaning, garbled, meaning_of, scrubbed
from consumer.engines.api_gate import ApiGate, Permit
from consumer.engines.api_limits import told_limits
from consumer.engines.breakers import new_breaker
from consumer.errors import EventError, ReasonedError, ServiceError, SlowDownError
from consumer.settings import Settings
from consumer.telemetry.calls import CHAT, calling
from schemas.codes import Reason, WarningCode
from schemas.models import Attempt

log = logging.getLogger(__name__)

_WALL_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
_COMMIT_SECONDS = 0.5
"""An event with a deadline keeps so much of it for its commit."""
_SLOW_DOWN_SECONDS = 1.0
_LONGEST_HOLD_SECONDS = 3600.0


class _UncorrectedError(Exception):
    """No correction, and why."""


@dataclass(slots=True)
class _Correction:
    """One try; ``attempt`` is there once money may have been spent."""

    prompt: Prompt
    wish: Wish
    ends: float
    """On the event loop's clock."""
    is_hurried: bool
    """That is the event's deadline, and sooner than a call may take."""
    attempt: Attempt | None = field(default=None)


class Refiner:
    """One call at most for a recording, never a second try: a correction is nice to have, and the event waits."""

    def __init__(self, settings: Settings, *, wall_seconds: float = _WALL_SECONDS) -> None:
        """``settings`` name a ``refine_model``. ``wall_seconds`` bounds the wait for a turn and the call together."""
        assert settings.refine_model is not None
        self._model = settings.refine_model
        self._policy = RefinePolicy(settings.refine_share, settings.refine_below_confidence)
        self._price = ChatPrice(
            *(
                Decimal(str(usd or 0))
                for usd in (settings.refine_input_usd_per_million_tokens, settings.refine_output_usd_per_million_tokens)
            )
        )
        self._wall_seconds = wall_seconds
        self._base_url = settings.refine_base_url or os.environ.get("OPENAI_BASE_URL") or None
        self._api_key = (
            settings.refine_api_key if settings.refine_base_url else os.environ.get("OPENAI_API_KEY")
        ) or ""
        self.gate = ApiGate(
            requests_per_minute=settings.refine_requests_per_minute,
            audio_seconds_per_minute=math.inf,
            concurrency=settings.refine_concurrency,
        )
        self.breaker = new_breaker(settings, probe_lease_seconds=2 * wall_seconds)
        self.breaker.listen(_log_change)
        self._client: AsyncOpenAI | None = None
        self._dispatcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Build the client and start the dispatcher. Raises ServiceError if no key is set for the public API."""
        if not self._api_key and self._base_url is None:
            raise ServiceError(
                "refine_model asks the public API, and OPENAI_API_KEY is not set; set it, or refine_base_url for a "
                "server that needs no key"
            )
        self._client = await asyncio.to_thread(self._new_client)  # loads certificates: tens of milliseconds
        self._dispatcher = asyncio.create_task(self.gate.run(), name="refine-dispatcher")

    async def stop(self) -> None:
        """Close the connections; a call that runs ends without a correction."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.cancel()
            await asyncio.wait([dispatcher])
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _new_client(self) -> AsyncOpenAI:
        client = AsyncOpenAI(
            api_key=self._api_key or "none",
            base_url=self._base_url,
            max_retries=0,
            timeout=httpx2.Timeout(self._wall_seconds, connect=_CONNECT_SECONDS),
        )
        _ = client.chat.completions  # imported on first use
        return client

    async def refine(self, heard: Heard, digest: str, wish: Wish) -> Heard:
        """What was heard, with ``refined_text`` if it was chosen for correction and got one, else with a warning."""
        recognised = heard.recognised
        if not self._policy.wants(digest, recognised, critical=wish.critical):
            return heard
        clock = asyncio.get_running_loop().time
        began, answer = clock(), ""
        prompt = prompt_for(recognised.text, recognised.language)
        if prompt is None:
            log.warning("refine_failed: the text of %s is too long to be corrected in time", digest)
            return _with(heard, None, None, WarningCode.REFINE_FAILED)
        correction = self._correction(prompt, wish, began)
        try:
            answer = await self._ask(correction)
        except _UncorrectedError as error:
            log.warning("refine_failed: %s", error)
        except asyncio.CancelledError:
            wish.spent([*heard.attempts, *_lines(correction)])
            raise
        text = None
        if answer:
            text = await asyncio.to_thread(accepted, recognised.text, answer, recognised.language)
        warning = None if text else WarningCode.REFINE_REJECTED if answer else WarningCode.REFINE_FAILED
        attempts = [*heard.attempts, *_lines(correction)]
        spent = (heard.cost_usd, *(attempt.cost_usd for attempt in _lines(correction)))
        corrected = replace(heard, attempts=attempts, cost_usd=total_usd(spent), refine_seconds=clock() - began)
        return _with(corrected, text, self._model if text else None, warning)

    def _correction(self, prompt: Prompt, wish: Wish, began: float) -> _Correction:
        latest = began + self._wall_seconds
        ends = latest if wish.deadline is None else min(latest, wish.deadline - _COMMIT_SECONDS)
        return _Correction(prompt, wish, ends, is_hurried=ends < latest)

    async def _ask(self, correction: _Correction) -> str:
        """The model's answer. Raises _UncorrectedError."""
        most = correction.prompt.most_microusd(self._price)
        if correction.wish.purse.exhausted(most) is not None:
            raise _UncorrectedError("a budget leaves too little for it")
        async with self._turn(correction) as permit:
            try:
                async with asyncio.timeout_at(correction.ends):
                    grant = await correction.wish.purse.reserve(most)
            except TimeoutError as error:
                raise _UncorrectedError("the money for it came too late") from error
            if isinstance(grant, Exhausted):
                raise _UncorrectedError("a budget leaves too little for it")
            try:
                if not self.breaker.allow(asyncio.get_running_loop().time()):
                    raise self._left_alone()
                permit.sending()
                return await self._call(correction, grant)
            finally:
                grant.settle(0)  # unless a ledger line said otherwise

    @asynccontextmanager
    async def _turn(self, correction: _Correction) -> AsyncIterator[Permit]:
        now = asyncio.get_running_loop().time()
        left_seconds = correction.ends - now
        if not self.breaker.would_allow(now):
            raise self._left_alone()
        if left_seconds <= 0:
            raise _UncorrectedError("the event's deadline leaves no time for it")
        if self.gate.shut_seconds >= left_seconds:
            raise _UncorrectedError("the chat model's limits let nothing through for now")
        try:
            turn = self.gate.turn(0.0, urgency=correction.wish.urgency, wait_at_most=left_seconds)
            async with turn as permit:
                yield permit
        except EventError as error:
            late = "its turn did not come in time; raise refine_requests_per_minute or refine_concurrency"
            raise _UncorrectedError(late) from error
        except ReasonedError as error:
            raise _UncorrectedError("the service stops") from error

    def _left_alone(self) -> _UncorrectedError:
        return _UncorrectedError(f"the chat model is left alone for now: {self.breaker.reason}")

    async def _call(self, correction: _Correction, grant: Grant) -> str:
        clock = asyncio.get_running_loop().time
        started, most_usd = clock(), correction.prompt.most_usd(self._price)
        try:
            answer = await self._request(correction)
        except asyncio.CancelledError:
            # nobody will read the answer, but the model may have worked on it
            self.breaker.abandon(clock(), sent_at=started)
            self._enter(correction, grant, started, Reason.ENGINE_FAILED, most_usd, "estimated")
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and correction.is_hurried:
                # it was cut off before its time: that says nothing of the model
                self.breaker.abandon(clock(), sent_at=started)
                self._enter(correction, grant, started, Reason.DEADLINE_EXCEEDED, most_usd, "estimated")
                raise _UncorrectedError("the event's deadline came first") from error
            if isinstance(error, APIStatusError):
                self.gate.heed(told_limits(error.response.headers))
            meaning = meaning_of(error, time.time(), self._api_key)
            self._failed(correction, grant, started, meaning)
            raise _UncorrectedError(self._said(error)) from error
        content = _content(answer)
        if content is None:
            self._failed(correction, grant, started, garbled("something else"))
            raise _UncorrectedError("the chat model answered 200 with something that is no whole answer")
        self.breaker.record_success(clock(), sent_at=started)
        usd = self._reported_usd(answer)
        source = "estimated" if usd is None else "reported"
        self._enter(correction, grant, started, "ok", most_usd if usd is None else usd, source)
        return content

    async def _request(self, correction: _Correction) -> object:
        if self._client is None:
            raise _UncorrectedError("the service stops")
        prompt = correction.prompt
        raw: LegacyAPIResponse[ChatCompletion]
        with calling(self._model, self._client.base_url, operation=CHAT) as call:
            async with asyncio.timeout_at(correction.ends):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
                    max_completion_tokens=prompt.output_tokens,
                )
            self.gate.heed(told_limits(raw.headers))
            answer = raw.parse()
            call.answered(answer, usable=_content(answer) is not None)
        return answer

    def _failed(self, correction: _Correction, grant: Grant, started: float, meaning: Meaning) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(meaning.error, SlowDownError):
            self.gate.hold(min(meaning.error.retry_after_seconds or _SLOW_DOWN_SECONDS, _LONGEST_HOLD_SECONDS))
            self.breaker.abandon(now, sent_at=started)
        elif meaning.blame is Blame.TRIP:
            self.breaker.trip("it refuses every request, or is out of credit", now)
        elif meaning.blame is Blame.FAILURE:
            self.breaker.record_failure(now, "no usable answer", sent_at=started)
        else:
            self.breaker.record_success(now, sent_at=started)  # it read the request and judged it
        usd = correction.prompt.most_usd(self._price) if meaning.maybe_billed else Decimal(0)
        self._enter(correction, grant, started, Reason.ENGINE_FAILED, usd, "estimated")

    def _enter(
        self, correction: _Correction, grant: Grant, started: float, outcome: str, usd: Decimal, source: str
    ) -> None:
        grant.settle(microusd(usd))
        correction.attempt = Attempt(
            engine=REFINER,
            model=self._model,
            outcome=outcome,
            audio_seconds=0.0,  # it reads, and hears nothing
            cost_usd=float(usd),
            price_version=self._price.version,
            usage_source=source,
            seconds=asyncio.get_running_loop().time() - started,
        )

    def _reported_usd(self, answer: object) -> Decimal | None:
        usage = getattr(answer, "usage", None)
        given, made = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if not isinstance(given, int) or not isinstance(made, int) or given < 0 or made < 0:
            return None
        return self._price.usd(given, made)

    def _said(self, error: Exception) -> str:
        if isinstance(error, _UncorrectedError):
            return str(error)
        if isinstance(error, APIStatusError):
            return f"the chat model answered {error.status_code} ({scrubbed(error.message, self._api_key)})"
        return f"the chat model gave no answer ({type(error).__name__})"


def _content(answer: object) -> str | None:
    """The text of an answer that is whole; the SDK checks little, and gives HTML as a str."""
    choices = entries(answer, "choices") if isinstance(answer, ChatCompletion) else []
    if not choices or getattr(choices[0], "finish_reason", None) in ("length", "content_filter"):
        return None
    content = getattr(getattr(choices[0], "message", None), "content", None)
    return writable(content) if isinstance(content, str) and content.strip() else None


def _lines(correction: _Correction) -> list[Attempt]:
    return [] if correction.attempt is None else [correction.attempt]


def _with(heard: Heard, refined_text: str | None, refined_by: str | None, warning: WarningCode | None) -> Heard:
    recognised = heard.recognised
    warnings = recognised.warnings if warning is None else [*recognised.warnings, warning]
    found = {"refined_text": refined_text, "refined_by": refined_by, "warnings": warnings}
    return replace(heard, recognised=recognised.model_copy(update=found))


def _log_change(old: BreakerState, new: BreakerState, why: str) -> None:
    level = logging.WARNING if new is BreakerState.OPEN else logging.INFO
    log.log(level, "breaker_%s: chat model, was %s: %s", new.value, old.value, why)
