"""Instruments that are read where the state lives, whenever somebody collects."""

from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.util.types import AnyValue

from consumer.core.breaker import BreakerState
from consumer.core.budget import EVERYBODY, Key
from consumer.core.tally import Tally
from consumer.status.vitals import Vitals
from consumer.telemetry import catalogue
from consumer.telemetry.catalogue import Instrument, Kind

Reading = Callable[[], Iterable[Observation]]


def observe(meter: Meter, vitals: Vitals, tally: Tally) -> None:
    """Make every instrument of the catalogue that is not a histogram: those come with the measures."""
    for instrument, reading in {**_sums(tally, vitals), **_states(vitals)}.items():
        make = meter.create_observable_counter if instrument.kind is Kind.COUNTER else meter.create_observable_gauge
        make(instrument.name, [_callback(reading)], instrument.unit, instrument.text)


def _callback(reading: Reading) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _options: list(reading())


def _sums(tally: Tally, vitals: Vitals) -> dict[Instrument, Reading]:
    load, topics, group = vitals.load, vitals.settings.topics, vitals.settings.group_id
    kafka = {messaging.MESSAGING_SYSTEM: "kafka"}
    consumed = {
        **kafka,
        messaging.MESSAGING_OPERATION_NAME: "poll",
        messaging.MESSAGING_DESTINATION_NAME: topics.events,
        messaging.MESSAGING_CONSUMER_GROUP_NAME: group,
    }
    sent = {**kafka, messaging.MESSAGING_OPERATION_NAME: "send"}
    return {
        catalogue.CONSUMED: lambda: [Observation(vitals.records_given, consumed)],
        catalogue.SENT: lambda: [
            Observation(count, {**sent, messaging.MESSAGING_DESTINATION_NAME: topic})
            for topic, count in list(tally.sent.items())
        ],
        catalogue.EVENTS: lambda: _events(tally),
        catalogue.DEAD_LETTERS: lambda: [
            Observation(count, {"earwitness.reason": reason.value})
            for reason, count in list(tally.dead_letters.items())
        ],
        catalogue.DEDUP_HITS: lambda: [
            Observation(sum(count for (_, cached), count in list(tally.transcribed.items()) if cached))
        ],
        catalogue.AUDIO: lambda: [
            Observation(seconds, {"earwitness.cached": cached}) for cached, seconds in tally.audio_seconds.items()
        ],
        catalogue.ATTEMPTS: lambda: [
            Observation(count, {**_engine(engine, model), "earwitness.attempt.outcome": outcome})
            for (engine, model, outcome), count in list(tally.attempts.items())
        ],
        catalogue.COST: lambda: [
            Observation(float(usd), _engine(*payer)) for payer, usd in list(tally.cost_usd.items())
        ],
        catalogue.WER_ERRORS: lambda: [Observation(tally.wrong_words)],
        catalogue.WER_WORDS: lambda: [Observation(tally.reference_words)],
        catalogue.BATCHES: lambda: [
            Observation(count, {"earwitness.batch.closed": closed}) for closed, count in list(load.batches.items())
        ],
        catalogue.CHUNKS: lambda: [Observation(load.chunks)],
        catalogue.ENGINE_AUDIO: lambda: [Observation(load.audio_seconds)],
        catalogue.ENGINE_PADDED: lambda: [Observation(load.padded_seconds)],
        catalogue.ENGINE_BUSY: lambda: [Observation(load.busy_seconds)],
    }


def _states(vitals: Vitals) -> dict[Instrument, Reading]:
    return {
        catalogue.LAG: lambda: [
            Observation(
                lane.lag,
                {
                    messaging.MESSAGING_DESTINATION_NAME: vitals.settings.topics.events,
                    messaging.MESSAGING_DESTINATION_PARTITION_ID: str(lane.partition),
                },
            )
            for lane in vitals.lanes()
            if lane.lag is not None
        ],
        catalogue.LANES: lambda: [
            Observation(count, {"earwitness.lane.state": state}) for state, count in vitals.lane_states().items()
        ],
        catalogue.READY: lambda: [Observation(int(vitals.ready))],
        catalogue.IN_FLIGHT_EVENTS: lambda: [Observation(sum(lane.in_flight for lane in vitals.lanes()))],
        catalogue.IN_FLIGHT_AUDIO: lambda: [Observation(vitals.audio_seconds_in_flight)],
        catalogue.QUEUE_AUDIO: lambda: _known(vitals.queued_audio_seconds),
        catalogue.BATCH_FILL: lambda: _known(vitals.minute.chunks_per_batch),
        catalogue.PADDING: lambda: _known(vitals.minute.padding_ratio),
        catalogue.UTILIZATION: lambda: [Observation(vitals.minute.busy_ratio)],
        catalogue.REALTIME: lambda: [Observation(vitals.minute.realtime_factor)],
        catalogue.BREAKER: lambda: [
            Observation(int(state is found), {"earwitness.engine.side": side, "earwitness.breaker.state": state.value})
            for side, found in vitals.breakers().items()
            for state in BreakerState
        ],
        catalogue.BUDGET_LIMIT: lambda: [Observation(one.limit / 1e6, _budget(one.key)) for one in vitals.budgets()],
        catalogue.BUDGET_LEFT: lambda: [Observation(one.left / 1e6, _budget(one.key)) for one in vitals.budgets()],
        catalogue.LOOP_BLOCK: lambda: [Observation(vitals.loop_monitor.longest_of_minute_seconds)],
    }


def _events(tally: Tally) -> Iterator[Observation]:
    for (route, cached), count in list(tally.transcribed.items()):
        labels: dict[str, AnyValue] = {
            "earwitness.outcome": "transcribed",
            "earwitness.route": route,
            "earwitness.cached": cached,
        }
        yield Observation(count, labels)
    yield Observation(sum(tally.dead_letters.values()), {"earwitness.outcome": "dead_lettered"})
    yield Observation(tally.moved, {"earwitness.outcome": "moved"})


def _engine(engine: str, model: str) -> dict[str, str]:
    return {"earwitness.engine.name": engine, "earwitness.engine.model": model}


def _budget(key: Key) -> dict[str, str]:
    labels = {"earwitness.budget.period": "day" if key.is_day else "month"}
    if key.scope == EVERYBODY:
        return {**labels, "earwitness.budget.scope": "global"}
    return {**labels, "earwitness.budget.scope": "tenant", "earwitness.tenant": key.scope}


def _known(value: float | None) -> list[Observation]:
    return [] if value is None else [Observation(value)]
