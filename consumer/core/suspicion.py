"""What deaths of the process say about the events that were in flight: one that kills must not kill for ever.

An ownership that ends without its last word was a death. After one, a lane goes on as usual. If it dies again before it
has got past the events that were in flight then, whatever it begins is under suspicion until it has: tried a few at a
time, named in a commit before. If it dies over a few, those are tried alone. One that dies three times alone is
condemned, and becomes a dead letter without being tried again. (Three times, since the killer may be in another lane:
after two deaths that one is careful too, and lanes try in turns.) A death while nothing was on trial blames nobody:
processes that are killed again and again for other reasons must get on too.
"""

from dataclasses import dataclass, replace

CAREFUL_AFTER_DEATHS = 2
CONDEMNED_AFTER_TRIES = 3
SUSPECTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A lane's memory of deaths; travels in the commit metadata."""

    deaths: int = 0
    until: int = 0
    """Once this offset is committed, whatever was in flight at the first death is settled."""
    alone_until: int = 0
    """Of them, those below this offset were among the few over which it died: they are tried alone."""
    tried: int = -1
    """The event that was tried alone last; -1: none."""
    tries: int = 0
    """How often it has killed alone."""
    trial_end: int = 0
    """What is being tried just now lies below this offset: a death from here on is its doing. 0: nothing is."""

    def after_death(self, offset: int, suspects_end: int) -> "Suspicion":
        """The next owner's view of a lane that died with ``offset`` committed, and nothing in flight from
        ``suspects_end`` on.
        """
        known = self.deaths > 0 and self.until > offset
        after = replace(self.called_off(), deaths=self.deaths + 1, until=self.until if known else suspects_end)
        if self.trial_end > offset:
            killed_alone = self.tried == self.trial_end - 1
            after = replace(
                after,
                until=max(after.until, self.trial_end),
                alone_until=max(self.alone_until, self.trial_end),
                tries=self.tries + killed_alone,
            )
        return after.past(offset)

    def called_off(self) -> "Suspicion":
        """The lane was closed in order, whatever was being tried: that says nothing against it."""
        return replace(self, trial_end=0)

    @property
    def is_careful(self) -> bool:
        """Whether whatever is begun is a suspect."""
        return self.deaths >= CAREFUL_AFTER_DEATHS

    def must_be_alone(self, offset: int) -> bool:
        """Whether the event must be tried alone."""
        return self.is_careful and offset < self.alone_until

    def is_condemned(self, offset: int) -> bool:
        """Whether the event has killed alone, often enough."""
        return offset == self.tried and self.tries >= CONDEMNED_AFTER_TRIES

    def trying(self, first: int, last: int) -> "Suspicion":
        """The events from ``first`` to ``last`` are about to be tried."""
        tried = first if first == last else -1
        return replace(self, tried=tried, tries=self.tries if tried == self.tried else 0, trial_end=last + 1)

    def past(self, offset: int) -> "Suspicion":
        """Everything below ``offset`` is settled."""
        return NO_SUSPICION if offset >= self.until else self


NO_SUSPICION = Suspicion()


class Caution:
    """What a lane may begin, given its suspicion: one trial at a time, so that a death says something."""

    def __init__(self, suspicion: Suspicion = NO_SUSPICION) -> None:
        self.suspicion = suspicion
        self.is_trying = False
        """A trial is on: nothing may be begun beside it."""

    def allows(self, unsettled: int) -> bool:
        """Whether an event may be begun beside so many that are not settled."""
        return not self.is_trying and not (unsettled and self.suspicion.is_careful)

    def may_join(self, offset: int, first: int, size: int) -> bool:
        """Whether the event may be tried in the company of so many, of which ``first`` is the first."""
        alone = self.suspicion.must_be_alone
        return size < SUSPECTS_AT_ONCE and not alone(first) and not alone(offset)
