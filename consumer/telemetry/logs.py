"""Logs: an event name and what belongs to it, for people on a terminal and as JSON elsewhere."""

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from consumer.core.shown import encodable
from consumer.settings import Settings
from consumer.telemetry.spans import current_ids

_REPEAT_SECONDS = 60.0
_NOISY = ("aiokafka", "kafka", "opentelemetry")


class SaidOnce(logging.Filter):
    """Lets clients say the same thing once a minute: a lost broker or collector is news, not a flood."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it; the next one that is written tells how many were not."""
        if not record.name.startswith(_NOISY):
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        since, dropped = self._said.get(key, (-_REPEAT_SECONDS, 0))
        if now - since < _REPEAT_SECONDS:
            self._said[key] = (since, dropped + 1)
            return False
        self._said[key] = (now, 0)
        if dropped:
            record.msg = f"{record.msg} (and {dropped} times more in the last minute)"
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line, with the ids of the current trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": encodable(record.getMessage()),
        }
        if (ids := current_ids()) is not None:
            line["trace_id"], line["span_id"] = ids
        if record.exc_info:
            line["exception"] = encodable(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def set_up_logs(settings: Settings) -> None:
    """Log to standard error as the settings say."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S") if as_text else JsonLines()
    )
    handler.addFilter(SaidOnce())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in _NOISY:
        # below a warning the Kafka client tells of every join and every metadata update
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
