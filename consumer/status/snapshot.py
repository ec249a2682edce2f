"""The service at this moment as one JSON value: what the live page shows, and ``/events`` sends each second."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from consumer.core.budget import EVERYBODY
from consumer.core.ring import SLOTS
from consumer.core.shown import visible
from consumer.core.tally import Latest, Tally
from consumer.status.vitals import Vitals

VERSION = version("earwitness")


def snapshot(vitals: Vitals, tally: Tally) -> dict[str, Any]:
    """Everything that the page knows. Seconds, US dollars and Unix times; null where nothing is known."""
    now = time.time()
    events_per_second, audio_per_second = tally.per_second(now)
    lanes = vitals.lanes()
    lags = [lane.lag for lane in lanes if lane.lag is not None]
    latency = tally.latency(now)
    return {
        "at": now,
        "version": VERSION,
        "group_id": vitals.settings.group_id,
        "topic_prefix": vitals.settings.topic_prefix,
        "up_seconds": now - vitals.started_at,
        "state": vitals.state,
        "lanes": [asdict(lane) for lane in lanes],
        "lag": sum(lags) if lags else None,
        "in_flight_events": sum(lane.in_flight for lane in lanes),
        "in_flight_audio_seconds": vitals.audio_seconds_in_flight,
        "throughput": {
            "events_per_second": events_per_second,
            "audio_seconds_per_second": audio_per_second,
            "events_series": tally.events_series(now),
            "series_seconds": SLOTS - 1,
        },
        "latency": asdict(latency) if latency is not None else None,
        "engine": _engine(vitals),
        "budgets": [
            {
                "tenant": None if one.key.scope == EVERYBODY else visible(one.key.scope),
                "period": "day" if one.key.is_day else "month",
                "limit_usd": one.limit / 1e6,
                "left_usd": one.left / 1e6,
                "used_share": one.used_share,
            }
            for one in vitals.budgets()
        ],
        "breakers": [{"side": side, "state": state.value} for side, state in vitals.breakers().items()],
        "loop_block_seconds": vitals.loop_monitor.longest_of_minute_seconds,
        "totals": _totals(tally),
        "shows_texts": vitals.settings.http_show_texts,
        "transcripts": _latest(tally.transcripts),
        "dead_letters": _latest(tally.letters),
    }


def _engine(vitals: Vitals) -> dict[str, Any] | None:
    if vitals.engine is None:
        return None
    ref, load, minute = vitals.engine.primary.ref, vitals.load, vitals.minute
    return {
        "name": ref.name,
        "model": ref.model,
        "quantization": ref.quantization,
        "queued_audio_seconds": vitals.queued_audio_seconds,
        "batches": sum(load.batches.values()),
        "audio_seconds": load.audio_seconds,
        "busy_seconds": load.busy_seconds,
        "realtime_series": load.realtime_series(time.monotonic()),
        "minute": asdict(minute),
    }


def _totals(tally: Tally) -> dict[str, Any]:
    routes: dict[str, int] = {}
    for (route, _), count in tally.transcribed.items():
        routes[route.value] = routes.get(route.value, 0) + count
    return {
        "settled": tally.settled,
        "transcribed": sum(tally.transcribed.values()),
        "cached": sum(count for (_, cached), count in tally.transcribed.items() if cached),
        "dead_lettered": sum(tally.dead_letters.values()),
        "moved": tally.moved,
        "routes": routes,
        "reasons": {reason.value: count for reason, count in tally.dead_letters.items()},
        "audio_seconds": sum(tally.audio_seconds.values()),
        "cost_usd": float(sum(tally.cost_usd.values())),
        "wrong_words": tally.wrong_words,
        "reference_words": tally.reference_words,
    }


def _latest(outcomes: Iterable[Latest]) -> list[dict[str, Any]]:
    """The newest first. Names that anybody may have written hide nothing and turn nothing round."""
    return [
        {**outcome._asdict(), "event_id": _name(outcome.event_id), "tenant": _name(outcome.tenant)}
        for outcome in reversed(list(outcomes))
    ]


def _name(name: str | None) -> str | None:
    return None if name is None else visible(name)
