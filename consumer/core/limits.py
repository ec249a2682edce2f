"""A limit on how much goes out in any stretch of time, as the receiver counts it; pure."""

import math
from collections import deque

_SHORTEST_WAIT_SECONDS = 1e-6


def counted_seconds(period_seconds: float) -> float:
    """How long a request counts, from just before it is sent, so that the receiver never counts too many.

    Two requests that leave a period apart may arrive a little less than that apart, on clocks that differ a little:
    2 % of the period, and up to 250 ms of jitter on the way. In 60 s that gives up 2.4 % of the limit.
    """
    return period_seconds * 1.02 + min(0.25, 0.1 * period_seconds)


class WindowLimit:
    """At most ``limit`` units in any window of ``period_seconds``, for instance audio-seconds a minute.

    A token bucket would let twice its rate through in the first window. An amount counts from ``take`` until a full
    period after ``sent``. What the receiver counts is when a request *arrives*: see ``counted_seconds``.
    """

    def __init__(self, limit: float, period_seconds: float = 60.0) -> None:
        self._limit = limit
        self._period = period_seconds
        self._in_flight = 0.0
        self._flights = 0
        self._past: deque[tuple[float, float]] = deque()
        self._past_sum = 0.0

    def take(self, amount: float, now: float) -> float:
        """0.0: taken, go. Otherwise nothing is taken, and the answer is the seconds to wait before asking again.

        ``inf``: only a ``sent`` or a ``refund`` can make room. An amount above the limit goes when nothing else counts.
        """
        self._forget(now)
        if self._fits(amount):
            self._in_flight += amount
            self._flights += 1
            return 0.0
        # 0.0 would say that it is taken, and rounding may come to that
        return max(_SHORTEST_WAIT_SECONDS, self._wait(amount, now))

    def sent(self, amount: float, now: float) -> None:
        """What was taken leaves now."""
        self._flights -= 1
        self._in_flight = self._in_flight - amount if self._flights else 0.0
        self._past.append((now, amount))
        self._past_sum += amount

    def refund(self, amount: float) -> None:
        """What was taken was never sent."""
        self._flights -= 1
        self._in_flight = self._in_flight - amount if self._flights else 0.0

    def change(self, limit: float, period_seconds: float) -> None:
        """Another limit from now on."""
        self._limit, self._period = limit, period_seconds

    def _fits(self, amount: float) -> bool:
        used = self._in_flight + self._past_sum
        return used + amount <= self._limit or (not self._flights and not self._past and self._limit > 0)

    def _wait(self, amount: float, now: float) -> float:
        over = self._in_flight + self._past_sum + amount - self._limit
        for moment, past in self._past:
            over -= past
            if over <= 0:
                return moment + self._period - now
        # too large to ever fit beside others: it waits until everything is gone
        return math.inf if self._flights or not self._past else self._past[-1][0] + self._period - now

    def _forget(self, now: float) -> None:
        while self._past and now - self._past[0][0] >= self._period:
            self._past_sum -= self._past.popleft()[1]
        if not self._past:
            self._past_sum = 0.0  # rounding must not add up


class Share:
    """This process's part of a limit that holds for its whole group.

    A part that shrank counts at once, one that grew only after a full period: until then, the process that had
    it before may have spent it. So a process that has just started waits too, but for what nobody ever had.
    """

    def __init__(self, period_seconds: float, value: float = 1.0) -> None:
        self._period = period_seconds
        self._value = value
        self._next = value
        self._next_at = 0.0
        self._is_shared = False

    def set(self, value: float, now: float) -> None:
        """The part from 0 to 1 that this process owns from now on; before the first time, nobody shares with it."""
        self._value = min(self.value(now), value) if self._is_shared else 0.0
        self._next, self._next_at, self._is_shared = value, now + self._period, True

    def add_new(self, part: float, now: float) -> None:
        """Of what it owns, so much had no owner before: it counts at once."""
        self._value = min(self._next, self.value(now) + part)

    def grows_in(self, now: float) -> float:
        """Seconds until more of it may be used; ``inf``: it waits for nothing."""
        return self._next_at - now if self.value(now) < self._next else math.inf

    def value(self, now: float) -> float:
        """The part that may be used now."""
        if now >= self._next_at:
            self._value = self._next
        return self._value
