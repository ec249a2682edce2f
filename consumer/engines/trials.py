"""What is run again after a batch failed, and when a chunk is to blame; pure.

A batch whose executor died is under suspicion, and so is every other that the executor held: each is run again in
halves with nothing beside it, until what kills is alone. A batch that failed while its executor lives is at fault
itself: its halves are run as any other batch.
"""

import logging
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from consumer.errors import ReasonedError, RecordingError, TransientError
from consumer.workers.worker import WorkerDiedError
from schemas.codes import Reason

DEATHS_ALONE = 2
"""An item over which the executor died so often while it was alone is poison: once may be somebody else's kill."""

CONDEMNED_IN_A_ROW = 3
"""So many verdicts of poison with no good batch between them, and it is the engine that is suspected."""

log = logging.getLogger(__name__)


class Accused(Protocol):
    """Somebody who waits for an answer."""

    def fail(self, error: ReasonedError) -> None: ...


A = TypeVar("A", bound=Accused)


@dataclass(frozen=True, slots=True)
class Part(Generic[A]):
    """What is to be run together."""

    members: list[A]
    suspect: bool = False
    """It was with an executor that died: nothing may run beside it."""
    deaths: int = 0
    """How often the executor died over just these, with nothing beside them."""

    def halves(self, *, suspect: bool) -> list["Part[A]"]:
        middle = len(self.members) // 2
        return [Part(self.members[:middle], suspect), Part(self.members[middle:], suspect)]


class Trials(Generic[A]):
    """The verdicts of one dispatcher."""

    def __init__(self) -> None:
        self._condemned = 0

    def acquitted(self) -> None:
        """A batch went through: the engine works."""
        self._condemned = 0

    def after_death(self, part: Part[A], error: WorkerDiedError) -> list[Part[A]]:
        """The executor died while it held ``part``; what to run now, in order. None: a member was failed."""
        log.warning("batch lost items=%d: %s", len(part.members), error.detail)
        if len(part.members) > 1:
            return part.halves(suspect=True)
        deaths = part.deaths + (error.lost_requests == 1)
        if deaths < DEATHS_ALONE:
            return [Part(part.members, suspect=True, deaths=deaths)]
        part.members[0].fail(self._condemn(f"the engine died {deaths} times over this chunk alone: {error.detail}"))
        return []

    def after_fault(self, part: Part[A], detail: str, verdict: ReasonedError | None = None) -> list[Part[A]]:
        """The executor lives but could not do ``part``; what to run now, in order. None: a member was failed."""
        log.warning("batch failed items=%d: %s", len(part.members), detail)
        if len(part.members) > 1:
            return part.halves(suspect=part.suspect)
        part.members[0].fail(verdict or self._condemn(f"the engine failed over this chunk alone: {detail}"))
        return []

    def _condemn(self, detail: str) -> ReasonedError:
        """Poison; unless so much was poison lately that no recording should be blamed for good."""
        self._condemned += 1
        if self._condemned > CONDEMNED_IN_A_ROW:
            return TransientError(
                Reason.ENGINE_FAILED, f"{self._condemned} chunks failed in a row, each alone; {detail}"
            )
        return RecordingError(Reason.POISON, f"{detail}; listen to the recording or leave it out")
