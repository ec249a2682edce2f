"""What this process has settled since its start: sums that only grow, and the latest outcomes; pure.

It is told of outcomes whose transaction is committed, and of nothing else: so its sums are those of the metrics topic.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

from consumer.core.outcomes import ELSEWHERE, DeadLettered, Moment, Settlement, Transcribed, Write
from consumer.core.ring import MinuteRing
from consumer.core.sketch import nearest_rank
from schemas.codes import Reason, Route
from schemas.models import Attempt

_LATEST = 20
_TEXT_CHARACTERS = 280
_LATENCIES = 1000
_LATENCY_SECONDS = 300.0


class Latest(NamedTuple):
    """An outcome as the page shows it."""

    at: float
    """Unix time."""
    event_id: str | None
    tenant: str | None
    latency_seconds: float
    code: Route | Reason
    """The route of a transcript, the reason of a dead letter."""
    audio_seconds: float | None = None
    cached: bool = False
    text: str | None = None
    """None where texts are not shown; of a dead letter, its detail."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Latencies from publishing to outcome, in seconds, of up to the last thousand events of the last five minutes."""

    count: int
    p50: float
    p95: float
    p99: float


class Tally:
    """One writer: whoever confirms outcomes."""

    def __init__(self, *, show_texts: bool = False) -> None:
        self._show_texts = show_texts
        self._minute = MinuteRing(2)
        self._latencies: deque[tuple[float, float]] = deque(maxlen=_LATENCIES)
        self.transcribed: Counter[tuple[Route, bool]] = Counter()
        """By route, and whether it came from memory."""
        self.dead_letters: Counter[Reason] = Counter()
        """By reason."""
        self.moved = 0
        self.sent: Counter[str] = Counter()
        """Records, by topic."""
        self.audio_seconds = {False: 0.0, True: 0.0}
        """Of transcripts: heard for the event, and from memory."""
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        """Ledger lines by engine, model and outcome."""
        self.cost_usd: dict[tuple[str, str], Decimal] = {}
        """By engine and model."""
        self.wrong_words = 0
        self.reference_words = 0
        self._transcripts: deque[tuple[float, float, Transcribed]] = deque(maxlen=_LATEST)
        self._letters: deque[tuple[float, float, DeadLettered]] = deque(maxlen=_LATEST)

    @property
    def settled(self) -> int:
        """Outcomes, each of which has a metric event."""
        return sum(self.transcribed.values()) + sum(self.dead_letters.values())

    @property
    def transcripts(self) -> list[Latest]:
        """The last ones, the oldest first."""
        return [
            Latest(
                at,
                outcome.notes.event.event_id,
                outcome.notes.event.tenant,
                latency_seconds,
                outcome.route,
                outcome.recognised.audio_seconds,
                outcome.cached,
                self._shown(outcome.recognised.text),
            )
            for at, latency_seconds, outcome in list(self._transcripts)
            if outcome.notes.event is not None
        ]

    @property
    def letters(self) -> list[Latest]:
        """The last dead letters, the oldest first."""
        return [
            Latest(
                at, outcome.event_id, outcome.tenant, latency_seconds, outcome.reason, text=self._shown(outcome.detail)
            )
            for at, latency_seconds, outcome in list(self._letters)
        ]

    def add(self, outcome: Settlement, moment: Moment, writes: list[Write], latency_seconds: float) -> None:
        """An outcome whose transaction is committed, with what was written for it, and how long it took in all."""
        for write in writes:
            self.sent[write.topic] += 1
        if isinstance(outcome, ELSEWHERE):
            self.moved += 1
            return
        at = moment.now.timestamp()
        self._latencies.append((at, latency_seconds))
        if isinstance(outcome, Transcribed):
            self._transcribed(outcome)
            self._transcripts.append((at, latency_seconds, outcome))
            self._minute.add(at, 1, outcome.recognised.audio_seconds)
        else:
            self.dead_letters[outcome.reason] += 1
            self._enter(outcome)
            self._letters.append((at, latency_seconds, outcome))
            self._minute.add(at, 1, 0.0)

    def per_second(self, now: float) -> tuple[float, float]:
        """Events and seconds of audio settled in a second, over the last minute. ``now`` in Unix time."""
        events, audio_seconds = self._minute.sums(now)
        return events / 60, audio_seconds / 60

    def events_series(self, now: float) -> list[float]:
        """Events settled in each of the last seconds, the oldest first."""
        return self._minute.series(now, 0)

    def latency(self, now: float) -> Quantiles | None:
        """None if nothing was settled lately."""
        recent = sorted(seconds for at, seconds in self._latencies if now - at <= _LATENCY_SECONDS)
        if not recent:
            return None
        p50, p95, p99 = (recent[nearest_rank(share, len(recent))] for share in (0.5, 0.95, 0.99))
        return Quantiles(len(recent), p50, p95, p99)

    def _transcribed(self, outcome: Transcribed) -> None:
        self.transcribed[outcome.route, outcome.cached] += 1
        self.audio_seconds[outcome.cached] += outcome.recognised.audio_seconds
        if outcome.attempts or outcome.notes.attempts:
            self._enter(outcome)
        if outcome.wer is not None:
            self.wrong_words += outcome.wer.errors
            self.reference_words += outcome.wer.words

    def _shown(self, text: str) -> str | None:
        return text[:_TEXT_CHARACTERS] if self._show_texts else None

    def _enter(self, outcome: Transcribed | DeadLettered) -> None:
        for attempt in attempts_of(outcome):
            self.attempts[attempt.engine, attempt.model, attempt.outcome] += 1
            payer = (attempt.engine, attempt.model)
            # a float's shortest decimal form is what the metric event says
            self.cost_usd[payer] = self.cost_usd.get(payer, Decimal(0)) + Decimal(repr(attempt.cost_usd))


def attempts_of(outcome: Transcribed | DeadLettered) -> Iterable[Attempt]:
    """All ledger lines of an event."""
    return chain(outcome.notes.attempts, outcome.attempts if isinstance(outcome, Transcribed) else ())
