"""What is told of a batch once it is over."""

from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from consumer.core.batcher import Closed

T = TypeVar("T")


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
