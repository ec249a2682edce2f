"""What a dispatcher tells: an answer to whoever submitted, a batch to whoever watches."""

from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from consumer.core.batcher import Closed

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Served(Generic[R]):
    """An answer and its times, on the dispatcher's clock."""

    value: R
    submitted: float
    started: float
    """When the batch that brought the answer began."""
    finished: float
    engine_seconds: float
    """Its share of the batch's run, by audio."""


@dataclass(frozen=True, slots=True)
class BatchReport(Generic[T]):
    """A batch that went through, or failed as a whole; ``closed`` is None for a part of one that had failed so."""

    items: list[T]
    closed: Closed | None
    audio_seconds: float
    padded_seconds: float
    """What the model computed: every item as long as the longest, or a full window each."""
    seconds: float
    contexts: Sequence[Context] = ()
    """Those in which the items were submitted: by them a trace finds its batches."""
    slots: int = 1
    """How many such batches can run side by side."""
    failed: str | None = None
    """The kind of error that ended it."""
