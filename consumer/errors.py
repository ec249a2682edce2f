"""Errors, named by what the caller does next.

    EarwitnessError
    ├── ServiceError         stop the process, loudly: a promise cannot be kept
    │   └── LaneError        one lane cannot be opened or trusted; the process stops
    ├── FencedError          another owner has the lane: be silent, publish nothing
    ├── EventError           settle this event with a dead letter; the next event with the same bytes may do better
    │   ├── HoldError        nothing is wrong, but nothing can be done before a known time: wait, or park the event
    │   └── TransientError   try again with back-off, within attempts and deadline
    │       ├── SlowDownError  the other side asks for patience; nothing is broken
    │       └── MachineError   this machine is at fault (its disk): no event may pay for it
    └── RecordingError       the bytes are at fault: settle every event that carries them, and remember it

Every one of the last three carries a reason code and a detail that says what went wrong and what to do.
"""

import errno
import sqlite3
from typing import ClassVar

from schemas.codes import Hold, Reason
from schemas.models import Attempt


class EarwitnessError(Exception):
    """Base of all errors that the service raises on purpose."""


class ServiceError(EarwitnessError):
    """A promise cannot be kept; the process must stop and say why."""


class LaneError(ServiceError):
    """A lane cannot be opened, or its committed state cannot be trusted."""


class FencedError(EarwitnessError):
    """Another owner has taken the lane's transactional id."""


class ReasonedError(EarwitnessError):
    """An outcome in the making: ``reason`` and ``detail`` go into the dead letter as they are."""

    retriable: ClassVar[bool] = False

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.attempts: list[Attempt] = []
        """Ledger lines of the tries that led here: what failed may have cost money too."""
        self.tries = 1
        """How often it was tried, whatever that cost."""


class EventError(ReasonedError):
    """The event cannot be served: its address, its deadline, its wish."""


class HoldError(EventError):
    """Not before ``until`` (seconds since 1970); ``why`` says what for. ``reason`` counts if it cannot wait so long."""

    def __init__(self, why: Hold, reason: Reason, detail: str, *, until: float) -> None:
        super().__init__(reason, detail)
        self.why = why
        self.until = until


class TransientError(EventError):
    """May pass; ``retry_after_seconds`` is what the other side asked for, if it did."""

    retriable = True

    def __init__(self, reason: Reason, detail: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason, detail)
        self.retry_after_seconds = retry_after_seconds


class SlowDownError(TransientError):
    """A rate limit: wait and come back; says nothing against the health of the other side or of the recording."""


class MachineError(TransientError):
    """Any event would fail like this here and now: when no try helps, the service stops."""


class RecordingError(ReasonedError):
    """The bytes cannot be served, at whatever address and for whomever."""


def is_the_machines(error: Exception) -> bool:
    """Whether any event would fail like this: none of them must pay for it."""
    full_or_broken = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(error, sqlite3.Error | MemoryError) or (
        isinstance(error, OSError) and error.errno in full_or_broken
    )
