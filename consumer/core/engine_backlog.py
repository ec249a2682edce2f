"""How much an engine has in hand, and how long that will take it; pure."""

_HALF_LIFE_SECONDS = 30.0
"""Of busy time: what was measured longer ago than that counts less than half."""


class EngineBacklog:
    """Audio in hand of one engine, and the rate at which it gets through audio while it is busy.

    Times are seconds on whatever clock the caller uses throughout. The rate is a moving average over busy time, so
    idle hours do not make an engine look slow; while it is not full, it is the least that the engine can do.
    """

    def __init__(self) -> None:
        self._open = {True: 0.0, False: 0.0}
        """Audio-seconds in hand, of critical events and of the others."""
        self._count = 0
        self._since = 0.0
        """Up to when busy time is accounted for."""
        self._busy_seconds = 0.0
        self._decayed_busy_seconds = 0.0
        self._decayed_audio_seconds = 0.0

    @property
    def is_idle(self) -> bool:
        """Nothing is in hand."""
        return self._count == 0

    @property
    def rate(self) -> float | None:
        """Audio-seconds heard in a second of busy time; None before the first measurement."""
        if self._decayed_busy_seconds <= 0 or self._decayed_audio_seconds <= 0:
            return None
        return self._decayed_audio_seconds / self._decayed_busy_seconds

    def took(self, audio_seconds: float, now: float, *, critical: bool) -> None:
        """The engine has been given a recording."""
        self._account(now)
        self._count += 1
        self._open[critical] += audio_seconds

    def done(self, audio_seconds: float, now: float, *, critical: bool, heard: bool) -> None:
        """It has answered; ``heard``: with words. ``critical`` as it was told to ``took``."""
        self._account(now)
        self._count -= 1
        self._open[critical] -= audio_seconds
        if self._count == 0:
            self._open = {True: 0.0, False: 0.0}  # rounding must not add up
        if heard:
            kept = 0.5 ** (self._busy_seconds / _HALF_LIFE_SECONDS)
            self._decayed_audio_seconds = self._decayed_audio_seconds * kept + audio_seconds
            self._decayed_busy_seconds = self._decayed_busy_seconds * kept + self._busy_seconds
            self._busy_seconds = 0.0

    def seconds_to_serve(self, audio_seconds: float, *, critical: bool) -> float | None:
        """How long until a recording that came now would be done; None: nothing has been measured yet.

        A critical one waits for critical ones alone.
        """
        rate = self.rate
        if rate is None:
            return None
        ahead = self._open[True] + (0.0 if critical else self._open[False])
        return (ahead + audio_seconds) / rate

    def _account(self, now: float) -> None:
        if self._count:
            self._busy_seconds += now - self._since
        self._since = now
