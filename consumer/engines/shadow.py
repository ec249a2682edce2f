"""A second engine hears some recordings too: only how far it is off, and its cost, are published."""

import asyncio
import logging
from dataclasses import replace

from consumer.core.model import Engine, Heard, Recording, Urgency, Wish
from consumer.core.prices import total_usd
from consumer.core.quality import word_errors
from consumer.core.shares import is_chosen
from consumer.errors import ReasonedError
from consumer.settings import Settings
from schemas.models import Attempt, Disagreement, EngineRef

log = logging.getLogger(__name__)

_COMMIT_SECONDS = 0.5
"""An event with a deadline keeps so much of it for its commit."""


class Shadow:
    """Follows the engine that serves: it is asked afterwards, once, and waited for within a limit."""

    def __init__(self, engine: Engine, settings: Settings, *, is_own: bool = True) -> None:
        """``is_own``: it is not one of the engines that serve."""
        self._engine = engine
        self._is_own = is_own
        self._share = settings.shadow_share
        self._timeout_seconds = settings.shadow_timeout_seconds

    async def compare(self, heard: Heard, recording: Recording, wish: Wish) -> Heard:
        """What was heard, with ``second`` and ``disagreement`` if the recording is in the share and the second engine
        answered, and with the ledger lines of whatever it tried.
        """
        served_by, ref = heard.recognised.engine, self._engine.ref
        if not is_chosen("shadow", recording.digest, self._share) or (not self._is_own and served_by == ref):
            return heard
        clock = asyncio.get_running_loop().time
        began, lines, disagreement, second = clock(), list[Attempt](), None, None
        try:
            second = await self._hear(recording, self._second_wish(heard, wish, lines, began))
            lines += second.attempts
            disagreement = await asyncio.to_thread(disagreement_between, heard, second, served_by, ref)
        except TimeoutError:
            log.warning("shadow_late: %s did not answer within %g s", ref.name, clock() - began)
        except ReasonedError as error:
            lines += error.attempts
            log.warning("shadow_failed: %s: %s", error.reason, error.detail)
        except asyncio.CancelledError:
            wish.spent([*heard.attempts, *lines])
            raise
        return replace(
            heard,
            attempts=[*heard.attempts, *lines],
            cost_usd=total_usd((heard.cost_usd, *(line.cost_usd for line in lines))),
            shadow_seconds=clock() - began,
            disagreement=disagreement,
            second=None if second is None else second.recognised,
        )

    def _second_wish(self, heard: Heard, wish: Wish, lines: list[Attempt], began: float) -> Wish:
        ends = began + self._timeout_seconds
        return replace(
            wish,
            language=heard.recognised.language or wish.language,
            urgency=Urgency(),  # it goes behind whatever is served there
            deadline=ends if wish.deadline is None else min(ends, wish.deadline - _COMMIT_SECONDS),
            spent=lines.extend,
        )

    async def _hear(self, recording: Recording, wish: Wish) -> Heard:
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(wish.deadline):
            second = await self._engine.transcribe(recording, wish)
        if second.attempts:
            return second
        line = Attempt(
            engine=self._engine.ref.name,
            model=self._engine.ref.model,
            outcome="ok",
            audio_seconds=recording.audio_seconds,
            cost_usd=second.cost_usd,
            usage_source="measured",
            seconds=asyncio.get_running_loop().time() - started,
        )
        return replace(second, attempts=[line])


def disagreement_between(first: Heard, second: Heard, served_by: EngineRef, ref: EngineRef) -> Disagreement | None:
    """The second text's word errors, with the first as its reference; None if the first has no words."""
    recognised = first.recognised
    counts = word_errors(recognised.text, second.recognised.text, recognised.language)
    if counts is None:
        return None
    against = ref.name if ref.name != served_by.name else f"{ref.name}/{ref.model}"
    return Disagreement(errors=counts.errors, words=counts.words, against=against)
