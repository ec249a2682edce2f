"""The engine that asks OpenAI's transcription API, or any server that speaks like it."""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx2
from openai import AsyncOpenAI

from consumer.core.backoff import RetryPolicy
from consumer.core.breaker import Breaker
from consumer.core.languages import is_known, primary_code
from consumer.core.model import Heard, Recording, Wish
from consumer.core.prices import api_model, spent_usd
from consumer.engines.api_answer import HeardPart, joined
from consumer.engines.api_call import ApiCaller, Ask, Ledger
from consumer.engines.api_gate import ApiGate
from consumer.engines.api_upload import UPLOADS, Part, plan_parts, refused_format
from consumer.engines.breakers import new_breaker
from consumer.errors import EventError, ReasonedError, ServiceError, TransientError
from consumer.retrying import AttemptsExhaustedError, retrying
from consumer.settings import Settings
from schemas.codes import Reason
from schemas.models import EngineRef

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 120.0
"""For a longer one that the API asks for, it is left alone."""
_LONGEST_HOLD_SECONDS = 3600.0
_REMEMBERED_RECORDINGS = 256


class OpenAIEngine:
    """Calls the API within its limits; every try is a ledger line, and every failure is told to ``breaker``.

    A recording above the model's limits goes in parts. A part that was paid for is kept while another part of the
    same recording fails, so that the next ``transcribe`` of it does not pay again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        breaker: Breaker | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        period_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._model = api_model(settings.api_model, settings.api_usd_per_minute)
        self._upload = UPLOADS[settings.api_upload_format]
        self._clock = clock
        self._sleep = sleep
        self._base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or ""
        # nothing is waited out here that an event is not held for
        longest_wait_seconds = min(_LONGEST_WAIT_SECONDS, settings.max_hold_seconds)
        self._policy = RetryPolicy(attempts=settings.api_attempts, longest_wait_seconds=longest_wait_seconds)
        self.breaker = breaker or new_breaker(settings, probe_lease_seconds=2 * settings.api_timeout_seconds)
        self.gate = ApiGate(
            requests_per_minute=settings.api_requests_per_minute,
            audio_seconds_per_minute=settings.api_audio_seconds_per_minute,
            concurrency=settings.api_concurrency,
            period_seconds=period_seconds,
            clock=clock,
        )
        self._client: AsyncOpenAI | None = None
        self._caller: ApiCaller | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._paid: OrderedDict[tuple[str, str | None], dict[Part, HeardPart]] = OrderedDict()

    @property
    def ref(self) -> EngineRef:
        return EngineRef(name="openai", model=self._model.name)

    def language_of(self, wish: Wish) -> str | None:
        """ISO 639 code; None: the API detects. Raises EventError ``unsupported_language``."""
        tag = wish.language or self._settings.language
        if tag is None:
            return None
        code = primary_code(tag)
        if not self._model.any_language and not is_known(code):
            raise EventError(
                Reason.UNSUPPORTED_LANGUAGE, f"{self._model.name} does not know {tag!r}; publish the event without it"
            )
        return code

    async def start(self) -> None:
        """Build the client and start the dispatcher. Raises ServiceError if no key is set for the public API, or the
        model does not take ``api_upload_format``.
        """
        if not self._api_key and self._base_url is None:
            raise ServiceError("OPENAI_API_KEY is not set; set it, or OPENAI_BASE_URL for a server that needs no key")
        if (refusal := refused_format(self._model, self._settings.api_upload_format)) is not None:
            raise ServiceError(refusal)
        if (warning := self._model.shutdown_warning(datetime.now(UTC).date())) is not None:
            log.warning("api_model_ends: %s", warning)
        client = await asyncio.to_thread(self._new_client)  # loads certificates: tens of milliseconds
        self._client = client
        self._caller = ApiCaller(
            client,
            self._model,
            self.gate,
            self.breaker,
            settings=self._settings,
            api_key=self._api_key,
            longest_wait_seconds=self._policy.longest_wait_seconds,
            clock=self._clock,
        )
        self._dispatcher = asyncio.create_task(self.gate.run(), name="api-dispatcher")

    def _new_client(self) -> AsyncOpenAI:
        timeout_seconds = self._settings.api_timeout_seconds
        client = AsyncOpenAI(
            api_key=self._api_key or "none",
            base_url=self._base_url,
            max_retries=0,
            # connecting ends well before the wall clock does, or it would look like a request that was worked on
            timeout=httpx2.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds / 2)),
        )
        _ = client.audio.transcriptions  # imported on first use
        return client

    async def stop(self) -> None:
        """End the calls that run (they raise TransientError), then the dispatcher and the connections."""
        client, self._client, self._caller = self._client, None, None
        if client is None:
            return
        for call in list(self._calls):
            call.reschedule(0.0)
        await self._idle.wait()
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.cancel()
            await asyncio.wait([dispatcher])
        await client.close()

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard:
        """Hear a recording, part by part. The errors it raises carry the ledger lines of all tries."""
        caller = self._caller
        if caller is None:
            raise _stopped()
        ledger = Ledger()
        scope = asyncio.timeout(None)
        self._calls.add(scope)
        self._idle.clear()
        try:
            async with scope:
                return await self._hear(caller, recording, wish, ledger)
        except ReasonedError as error:
            error.attempts = ledger.attempts
            raise
        except asyncio.CancelledError:
            wish.spent(ledger.attempts)
            raise
        except TimeoutError as error:
            stopped = _stopped()
            stopped.attempts = ledger.attempts
            raise stopped from error
        finally:
            self._calls.discard(scope)
            if not self._calls:
                self._idle.set()

    async def _hear(self, caller: ApiCaller, recording: Recording, wish: Wish, ledger: Ledger) -> Heard:
        language = self.language_of(wish)
        key = (recording.digest, language)
        parts = await asyncio.to_thread(plan_parts, recording, self._model, self._upload)
        heard = self._paid_parts(key)
        for part in parts:
            if part not in heard:
                heard[part] = await self._persist(caller, Ask(recording, part, language, wish), ledger)
        self._paid.pop(key, None)
        return Heard(
            recognised=joined([heard[part] for part in parts], language, self.ref, recording.audio_seconds),
            cost_usd=spent_usd(ledger.attempts),
            attempts=ledger.attempts,
            queue_seconds=ledger.queue_seconds,
            infer_seconds=ledger.infer_seconds,
        )

    async def _persist(self, caller: ApiCaller, ask: Ask, ledger: Ledger) -> HeardPart:
        try:
            return await retrying(
                lambda: caller.hear(ask, ledger),
                self._policy,
                deadline=ask.wish.deadline,
                on_retry=_log_retry,
                clock=self._clock,
                sleep=self._sleep,
            )
        except AttemptsExhaustedError as error:
            asked = error.last.retry_after_seconds
            # without a try it is the breaker's own wait, which says nothing new of the API
            if error.tries and asked is not None and asked > self._policy.longest_wait_seconds:
                hold = min(asked, _LONGEST_HOLD_SECONDS)
                self.breaker.trip(f"the API asks for {asked:.0f} s of patience", self._clock(), hold)
            # the caller may go elsewhere, or come back when the breaker lets it
            kind = type(error.last)
            raise kind(error.reason, error.detail, retry_after_seconds=asked) from error

    def _paid_parts(self, key: tuple[str, str | None]) -> dict[Part, HeardPart]:
        parts = self._paid.setdefault(key, {})
        self._paid.move_to_end(key)
        while len(self._paid) > _REMEMBERED_RECORDINGS:
            self._paid.popitem(last=False)
        return parts


def _stopped() -> TransientError:
    return TransientError(Reason.ENGINE_FAILED, "the API engine is not running")


def _log_retry(error: TransientError, tries: int, delay: float) -> None:
    log.warning("api_retry: try %d failed, next in %.1f s: %s", tries, delay, error.detail)
