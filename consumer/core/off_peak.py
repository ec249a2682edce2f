"""The cheap hours, in which deferred events are heard; pure."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class CheapHours:
    """From ``start`` to ``end`` of every day on the clocks of ``zone``; over midnight if ``end`` is earlier."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> "CheapHours":
        """``22:00-06:00`` in UTC, or ``22:00-06:00 Europe/Berlin``; the settings have checked its form."""
        hours, _, zone = text.partition(" ")
        start, _, end = hours.partition("-")
        return cls(time.fromisoformat(start), time.fromisoformat(end), ZoneInfo(zone or "UTC"))

    def hold(self, moment: datetime) -> bool:
        """Whether ``moment`` (with its zone) is within them."""
        now = moment.astimezone(self.zone).time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end

    def next_start(self, moment: datetime) -> datetime:
        """When they begin next, after ``moment``; in UTC offset of their zone on that day."""
        local = moment.astimezone(self.zone)
        start = datetime.combine(local.date(), self.start, self.zone)
        # compared as instants: two times of one zone would be compared by their clocks
        if start.timestamp() <= moment.timestamp():
            start = datetime.combine(local.date() + timedelta(days=1), self.start, self.zone)
        return start
