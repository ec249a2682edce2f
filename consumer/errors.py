"""Errors, named by what the caller does next.

    EarwitnessError
    ├── ServiceError         stop the process, loudly: a promise cannot be kept
    │   └── LaneError        one lane cannot be opened or trusted; the process stops
    ├── FencedError          another owner has the lane: be silent, publish nothing
    ├── EventError           settle this event with a dead letter; the next event with the same bytes may do better
    │   ├── BudgetExhaustedError  serve it without an API, or not before a certain time
    │   └── TransientError   try again with back-off, within attempts and deadline
    │       ├── SlowDownError  the other side asks for patience; nothing is broken
    │       └── MachineError   this machine is at fault (its disk): no event may pay for it
    └── RecordingError       the bytes are at fault: settle every event that carries them, and remember it

Every one of the last three carries a reason code and a detail that says what went wrong and what to do.
"""

from datetime import datetime
from typing import ClassVar

from schemas.codes import Reason
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


class BudgetExhaustedError(EventError):
    """What it would cost is not left of a budget before ``until``, in ``wait_seconds``."""

    def __init__(self, detail: str, until: datetime, wait_seconds: float) -> None:
        super().__init__(Reason.BUDGET_EXHAUSTED, detail)
        self.until = until
        self.wait_seconds = wait_seconds


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
