"""What a lane is made of and whom it talks to."""

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka.structs import TopicPartition

from consumer.core.model import Record
from consumer.core.outcomes import Moment, Write
from consumer.dedup.store import DedupSlices
from consumer.kafka.opening import Opens
from consumer.settings import Settings
from consumer.turns import Turns
from schemas.topics import Topics


class LaneState(enum.Enum):
    """Where a lane is in its life."""

    OPENING = "opening"
    SERVING = "serving"
    CLOSED = "closed"


class StalledError(Exception):
    """Outcomes were in hand and could not be committed for longer than the settings allow."""


@asynccontextmanager
async def stalled_after(limit_seconds: float, what: str) -> AsyncIterator[asyncio.Timeout]:
    """Bound the block; whoever gets on within it may put the limit off. Raises StalledError."""
    try:
        async with asyncio.timeout(limit_seconds) as scope:
            yield scope
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise StalledError(f"{what} for {limit_seconds:g} s") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an event may have eaten the memory: that does tell on what is on trial."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_out_of_memory(each) for each in error.exceptions)
    return isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)


class Host(Protocol):
    """The consumer as a lane sees it."""

    def is_assigned(self, partition: TopicPartition) -> bool: ...

    def begin(self, partition: TopicPartition, offset: int) -> None:
        """Give records from this offset on."""
        ...

    def changed(self) -> None:
        """A lane wants records that did not before, or the other way round."""
        ...


class Decided(Protocol):
    """An event's outcome: what to publish for it, and whom to tell how that went."""

    @property
    def offset(self) -> int:
        """The input record's."""
        ...

    @property
    def since(self) -> float:
        """When it was decided, on the event loop's clock."""
        ...

    def writes(self, topics: Topics, moment: Moment, limit_bytes: int) -> list[Write]: ...

    def confirmed(self, writes: list[Write]) -> None: ...

    def dropped(self) -> None: ...


class Work(Protocol):
    """Decides events. Raises only what must stop the process."""

    async def settle(self, record: Record) -> Decided: ...

    async def condemn(self, record: Record) -> Decided:
        """The outcome of an event that has ended the process each time it was tried."""
        ...


@dataclass(frozen=True, slots=True)
class LaneParts:
    """A lane's collaborators."""

    settings: Settings
    host: Host
    work: Work
    slices: DedupSlices
    opens: Opens
    limit_bytes: int
    """Largest record that a producer may send."""
    trials: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while one lane of the process tries an event that may be a killer."""
    turns: Turns = field(default_factory=Turns)
