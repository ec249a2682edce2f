"""Every instrument, once: its name, kind, unit and meaning. The conventions' own where they have one."""

from dataclasses import dataclass
from enum import StrEnum

from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as gen_ai
from opentelemetry.semconv._incubating.metrics import messaging_metrics as messaging


class Kind(StrEnum):
    """How its values go together."""

    COUNTER = "counter"
    """Only grows."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One name on ``/metrics`` and in OTLP."""

    name: str
    kind: Kind
    unit: str
    text: str


PROCESS_DURATION = Instrument(
    messaging.MESSAGING_PROCESS_DURATION, Kind.HISTOGRAM, "s", "From beginning with an event to its commit."
)
CLIENT_DURATION = Instrument(
    messaging.MESSAGING_CLIENT_OPERATION_DURATION, Kind.HISTOGRAM, "s", "One transaction with its offset, by outcome."
)
CONSUMED = Instrument(
    messaging.MESSAGING_CLIENT_CONSUMED_MESSAGES, Kind.COUNTER, "{message}", "Records given to lanes; some twice."
)
SENT = Instrument(
    messaging.MESSAGING_CLIENT_SENT_MESSAGES, Kind.COUNTER, "{message}", "Records of committed outcomes, by topic."
)
ENGINE_DURATION = Instrument(
    gen_ai.GEN_AI_CLIENT_OPERATION_DURATION, Kind.HISTOGRAM, "s", "One attempt of an engine at a recording."
)
EVENT_DURATION = Instrument(
    "earwitness.event.duration", Kind.HISTOGRAM, "s", "From publishing to the outcome, as in the metric event."
)
STAGE_DURATION = Instrument(
    "earwitness.stage.duration", Kind.HISTOGRAM, "s", "One stage of an event, as in the metric event."
)
EVENTS = Instrument(
    "earwitness.events", Kind.COUNTER, "{event}", "Committed outcomes, by route; moved and parked ones apart."
)
DEAD_LETTERS = Instrument("earwitness.dead_letters", Kind.COUNTER, "{event}", "Committed dead letters, by reason.")
DEDUP_HITS = Instrument("earwitness.dedup.hits", Kind.COUNTER, "{event}", "Transcripts that came from memory.")
AUDIO = Instrument("earwitness.audio.transcribed", Kind.COUNTER, "s", "Audio of committed transcripts.")
ATTEMPTS = Instrument(
    "earwitness.engine.attempts", Kind.COUNTER, "{attempt}", "Ledger lines; all but `ok` were failures, and retried."
)
COST = Instrument("earwitness.cost", Kind.COUNTER, "{USD}", "What committed outcomes cost, in US dollars.")
BUDGET_LIMIT = Instrument(
    "earwitness.budget.limit",
    Kind.GAUGE,
    "{USD}",
    "A budget of the group, by scope and period; every process tells it.",
)
BUDGET_LEFT = Instrument("earwitness.budget.left", Kind.GAUGE, "{USD}", "What is not spent of it, by all processes.")
WER_ERRORS = Instrument("earwitness.wer.errors", Kind.COUNTER, "{word}", "Word errors against reference texts.")
WER_WORDS = Instrument("earwitness.wer.words", Kind.COUNTER, "{word}", "Words of reference texts.")
LAG = Instrument("earwitness.lane.lag", Kind.GAUGE, "{message}", "Offsets between what is committed and the end.")
LANES = Instrument("earwitness.lanes", Kind.GAUGE, "{lane}", "Lanes of this process, by state.")
READY = Instrument("earwitness.ready", Kind.GAUGE, "{process}", "1 when all lanes of this process serve.")
IN_FLIGHT_EVENTS = Instrument("earwitness.in_flight.events", Kind.GAUGE, "{event}", "Given, and not yet committed.")
IN_FLIGHT_AUDIO = Instrument("earwitness.in_flight.audio", Kind.GAUGE, "s", "Decoded audio that is being worked on.")
QUEUE_AUDIO = Instrument("earwitness.engine.queue.audio", Kind.GAUGE, "s", "Audio that waits for the local engine.")
BATCHES = Instrument("earwitness.engine.batches", Kind.COUNTER, "{batch}", "Batches, by why they were closed.")
CHUNKS = Instrument("earwitness.engine.chunks", Kind.COUNTER, "{chunk}", "Chunks in batches.")
ENGINE_AUDIO = Instrument("earwitness.engine.audio", Kind.COUNTER, "s", "Audio in batches.")
ENGINE_PADDED = Instrument("earwitness.engine.padded", Kind.COUNTER, "s", "What the model computed for it.")
ENGINE_BUSY = Instrument("earwitness.engine.busy", Kind.COUNTER, "s", "Time in batches, summed over devices.")
BATCH_FILL = Instrument("earwitness.engine.batch_fill", Kind.GAUGE, "{chunk}", "Chunks in a batch, last minute.")
PADDING = Instrument("earwitness.engine.padding", Kind.GAUGE, "1", "Padding in what the model computed, last minute.")
UTILIZATION = Instrument("earwitness.engine.utilization", Kind.GAUGE, "1", "Share of time in batches, last minute.")
REALTIME = Instrument(
    "earwitness.engine.realtime_factor", Kind.GAUGE, "{second}", "Seconds of audio heard in a second, last minute."
)
BREAKER = Instrument("earwitness.breaker.state", Kind.GAUGE, "{state}", "1 for the state that a breaker is in, else 0.")
LOOP_BLOCK = Instrument("earwitness.event_loop.block", Kind.GAUGE, "s", "Longest block of the event loop, last minute.")

INSTRUMENTS = tuple(value for value in list(globals().values()) if isinstance(value, Instrument))
