"""The words of the design as values: what passes from step to step on the data path."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from consumer.core.budget import UNLIMITED, Purse
from schemas.models import Attempt, Disagreement, EngineRef, Recognised

SAMPLE_RATE = 16_000
"""Hertz. Every engine hears 16 kHz mono."""
SAMPLE_BYTES = 2
"""Decoded samples are 16-bit: a telephone, a microphone and every model's training data have no more."""


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record as it was given."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    def header(self, name: str) -> bytes | None:
        """The last value under a header name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


class Urgency:
    """How urgent the work on a recording is. It can grow while the work waits for its turn, and never shrinks: whoever
    has it in a queue listens.
    """

    def __init__(self, *, critical: bool = False) -> None:
        self._critical = critical
        self._listeners: list[Callable[[], None]] = []

    @property
    def critical(self) -> bool:
        """Whether it goes before what is not."""
        return self._critical

    def raise_to_critical(self) -> None:
        """Somebody who cannot wait wants it too; tells the listeners if that is news."""
        if not self._critical:
            self._critical = True
            for raised in list(self._listeners):
                raised()

    @contextmanager
    def listen(self, raised: Callable[[], None]) -> Iterator[None]:
        """Within the block ``raised`` is called, once, when the work becomes critical; never if it was so before."""
        self._listeners.append(raised)
        try:
            yield
        finally:
            self._listeners.remove(raised)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a recording, besides its words."""

    language: str | None = None
    urgency: Urgency = field(default_factory=Urgency, compare=False)
    """That of the most urgent event that wants it; may grow while an engine has it."""
    deadline: float | None = None
    """On the service's monotonic clock, in seconds."""
    tenant: str = "default"
    """Whose event it is, for the routing rules and the budget."""
    deferred: bool = False
    """It may wait, and has waited, for the cheap hours or an idle engine."""
    begins: Callable[[], None] = field(default=lambda: None, compare=False)
    """Called by an engine whenever it begins what costs something: a batch, a request. Until then work can be called
    off for nothing."""
    spent: Callable[[list[Attempt]], None] = field(default=lambda _: None, compare=False)
    """Told the ledger lines of work that was cut off, which nobody will get with words or an error."""

    purse: Purse = field(default=UNLIMITED, compare=False)
    """Pays for it where that costs money: an engine asks before it spends."""

    @property
    def critical(self) -> bool:
        """Its urgency at this moment."""
        return self.urgency.critical


@dataclass(frozen=True, slots=True)
class Recording:
    """A decoded recording: raw little-endian int16 samples, 16 kHz mono, in a file of the spool."""

    digest: str
    pcm_path: Path
    samples: int

    @property
    def audio_seconds(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine made of a recording, and what that took."""

    recognised: Recognised
    cost_usd: float
    attempts: list[Attempt] = field(default_factory=list)
    queue_seconds: float | None = None
    infer_seconds: float | None = None
    refine_seconds: float | None = None
    """What a correction took, whatever came of it; None: nobody was asked for one."""
    shadow_seconds: float | None = None
    """What was waited for a second engine, whatever came of it; None: none was asked."""
    disagreement: Disagreement | None = None
    second: Recognised | None = None
    """What the second engine heard: for its own word errors, and published nowhere."""


class Engine(Protocol):
    """Something that turns recordings into words. Two kinds exist: local models and APIs (and the simulated one).

    ``transcribe`` raises TransientError when it may be tried again or elsewhere (``engine_failed``, a rate limit,
    a time-out), RecordingError when the bytes are at fault (``poison``, ``api_rejected``), EventError when this
    engine cannot fulfil the wish (``unsupported_language``).
    """

    @property
    def ref(self) -> EngineRef: ...

    def language_of(self, wish: Wish) -> str | None:
        """The model's own code for the wished language (``None``: it will detect).

        Raises EventError ``unsupported_language`` if this engine cannot serve it. A model of one language
        always answers with that one when none is wished.
        """
        ...

    async def start(self) -> None:
        """Load and warm up; returns when the engine is ready."""
        ...

    async def transcribe(self, recording: Recording, wish: Wish) -> Heard: ...

    async def stop(self) -> None:
        """Release everything; every pending ``transcribe`` is resolved first (an error counts)."""
        ...
