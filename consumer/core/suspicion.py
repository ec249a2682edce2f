"""What deaths of the process say about the events that were in flight: one that kills must not kill for ever.

An ownership that ends without its last word was a death. After one, a lane goes on as usual. If it dies again before it
has got past the events that were in flight then, they are under suspicion, and taken a few at a time. If it dies over
a few, those are tried alone, each named in a commit before it is. One that dies twice alone is condemned, and becomes a
dead letter without being tried again. (A few at a time, since processes that are killed again and again for other
reasons must get on too.)
"""

from dataclasses import dataclass, replace

CAREFUL_AFTER_DEATHS = 2
CONDEMNED_AFTER_TRIES = 2
SUSPECTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A lane's memory of deaths; travels in the commit metadata."""

    deaths: int = 0
    until: int = 0
    """Events below this offset may be the killer."""
    alone_until: int = 0
    """Of them, those below this offset were among the few over which it died: they are tried alone."""
    tried: int = -1
    """The event that was tried alone last; -1: none."""
    tries: int = 0
    """How often it has killed alone."""
    on_trial: bool = False
    """It is being tried just now: a death from here on is its doing."""

    def after_death(self, offset: int, suspects_end: int, few_end: int) -> "Suspicion":
        """The next owner's view of a lane that died with ``offset`` committed and nothing in flight from
        ``suspects_end`` on; below ``few_end`` if it was taking suspects a few at a time.
        """
        known = self.deaths > 0 and self.until > offset
        until = self.until if known else suspects_end
        careful = known and self.deaths >= CAREFUL_AFTER_DEATHS
        killed = self.on_trial and self.tried >= offset
        after = replace(
            self.called_off(),
            deaths=self.deaths + 1,
            until=until,
            alone_until=max(self.alone_until, min(few_end, until)) if careful else self.alone_until,
            tries=self.tries + killed,
        )
        return after.past(offset)

    def called_off(self) -> "Suspicion":
        """The lane was closed in order, whatever was being tried: that says nothing against it."""
        return replace(self, on_trial=False)

    def is_suspect(self, offset: int) -> bool:
        """Whether the event must be taken among few."""
        return self.deaths >= CAREFUL_AFTER_DEATHS and offset < self.until

    def must_be_alone(self, offset: int) -> bool:
        """Whether the event must be tried alone, and named before."""
        return self.is_suspect(offset) and offset < self.alone_until

    def is_condemned(self, offset: int) -> bool:
        """Whether the event has killed alone, twice."""
        return offset == self.tried and self.tries >= CONDEMNED_AFTER_TRIES

    def trying(self, offset: int) -> "Suspicion":
        """The event is about to be tried alone."""
        return replace(self, tried=offset, tries=self.tries if offset == self.tried else 0, on_trial=True)

    def past(self, offset: int) -> "Suspicion":
        """Everything below ``offset`` is settled."""
        return NO_SUSPICION if offset >= self.until else self


NO_SUSPICION = Suspicion()


class Caution:
    """What a lane may begin, given its suspicion: suspects a few at a time or alone, so that a death says something."""

    def __init__(self, suspicion: Suspicion = NO_SUSPICION) -> None:
        self.suspicion = suspicion
        self.alone: int | None = None
        """The event beside which nothing may be begun; its trial ends by setting it to None."""
        self._places = 0
        """How many more suspects may join those that were begun together."""

    def allows(self, offset: int, unsettled: int) -> bool:
        """Whether the event may be begun beside so many that are not settled."""
        if self.alone is not None:
            return False
        if not self.suspicion.is_suspect(offset):
            return True
        if not unsettled:
            self._places = SUSPECTS_AT_ONCE
            return True
        return self._places > 0 and not self.suspicion.must_be_alone(offset)

    def begins(self, offset: int) -> bool:
        """The event is begun; whether alone."""
        self._places -= 1
        if self.suspicion.must_be_alone(offset):
            self.alone = offset
        return self.alone is not None
