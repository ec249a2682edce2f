"""The values on the topics as models; field names are the contract.

Unknown fields are ignored, so that a newer publisher can talk to an older service.
Times are RFC 3339 in UTC. Durations carry their unit in their names, money is US dollars.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from schemas.codes import SCHEMA_VERSION, Outcome, Reason, Route


def utc_now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is outside of the years 1 to 9999 in UTC") from error


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]
"""SHA-256 of a recording's bytes as 64 lower-case hex digits."""
EventId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Uri = Annotated[str, StringConstraints(pattern=r"^(file|https?|s3|gs|az)://.+", max_length=8192)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Model(BaseModel):
    """Common ground of all contract models."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_enum_values=False)


class AudioEvent(Model):
    """*This recording is at this address*, and what is wanted of it."""

    schema_version: Literal[1] = 1
    event_id: EventId
    uri: Uri
    sha256: Digest | None = None
    tenant: Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f]{1,128}$")] = "default"
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{1,8}([-_][A-Za-z0-9]{1,8})*$")] | None = None
    critical: bool = False
    defer: bool = False
    deadline_seconds: Annotated[float, Field(gt=0)] | None = None
    """Counted from ``published_at``."""
    reference_text: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    published_at: Moment | None = None
    """Absent: the record's own timestamp counts."""


class Segment(Model):
    """A stretch of the recording and the words heard in it."""

    start_seconds: float
    end_seconds: float
    text: str


class Word(Segment):
    """One word, with how sure the engine was of it (0 to 1, null where it cannot tell)."""

    confidence: float | None = None


class EngineRef(Model):
    """Who recognised: enough to tell two texts of different makers apart."""

    name: str
    model: str
    revision: str | None = None
    quantization: str | None = None


class Recognised(Model):
    """What recognition found out about a recording: the part that every event with the same bytes shares."""

    text: str
    refined_text: str | None = None
    refined_by: str | None = None
    """The chat model that made ``refined_text``."""
    language: str | None = None
    segments: list[Segment] = Field(default_factory=list)
    words: list[Word] | None = None
    confidence: float | None = None
    """0 to 1. CTC: by entropy. Whisper: exp of the mean token log-probability. null: the engine cannot tell."""
    engine: EngineRef
    audio_seconds: float
    warnings: list[str] = Field(default_factory=list)


class Transcript(Recognised):
    """What was said, for one event."""

    schema_version: Literal[1] = SCHEMA_VERSION
    event_id: EventId
    sha256: Digest
    tenant: str
    route: Route
    cached: bool
    cost_usd: float
    metadata: dict[str, str] = Field(default_factory=dict)
    published_at: Moment
    completed_at: Moment


class WordErrors(Model):
    """Counts rather than a rate, so that sums over events are right."""

    errors: int
    words: int


class Disagreement(WordErrors):
    """How far a second engine's text is from the published one."""

    against: str
    """The second engine's name; with its model, as ``ctc/some/model``, where both engines have one name."""


class EngineWordErrors(WordErrors):
    """The word errors of an engine whose text is published nowhere."""

    engine: EngineRef


class LatencySeconds(Model):
    """Where an event's time went; null where a stage did not happen."""

    total: float
    fetch: float | None = None
    decode: float | None = None
    queue: float | None = None
    infer: float | None = None
    shadow: float | None = None
    refine: float | None = None
    commit: float | None = None


class Attempt(Model):
    """A ledger line: one try of one engine, whatever came of it."""

    engine: str
    model: str
    outcome: str
    """``ok`` or a reason code."""
    audio_seconds: float
    cost_usd: float
    price_version: str | None = None
    usage_source: str | None = None
    """``measured`` (our clock), ``reported`` (the API said so) or ``estimated``."""
    seconds: float


class TranscriptionMetric(Model):
    """One for each settled event."""

    schema_version: Literal[1] = SCHEMA_VERSION
    event_id: str | None
    """null only where the record could not be read."""
    tenant: str
    outcome: Outcome
    reason: Reason | None = None
    route: Route | None = None
    engine: EngineRef | None = None
    cached: bool = False
    critical: bool = False
    audio_seconds: float | None = None
    language: str | None = None
    """Of the transcript."""
    latency_seconds: LatencySeconds
    cost_usd: float = 0.0
    wer: WordErrors | None = None
    disagreement: Disagreement | None = None
    shadow_wer: EngineWordErrors | None = None
    """The second engine's own, where the event carried ``reference_text``."""
    confidence: float | None = None
    attempts: list[Attempt] = Field(default_factory=list)
    breakers_open: list[str] = Field(default_factory=list)
    """Engines that the process left alone when this was written, or since its outcome before: ``primary``,
    ``fallback``, ``shadow``, ``refine``."""
    completed_at: Moment


class Origin(Model):
    """Where a record came from, whole enough to publish it again."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key_base64: str | None = None
    headers: list[tuple[str, str]] = Field(default_factory=list)
    """Names with their values in base64, in the record's order."""


class DeadLetter(Model):
    """An event that cannot be served, why, and the record itself."""

    schema_version: Literal[1] = SCHEMA_VERSION
    event_id: str | None
    tenant: str | None
    reason: Reason
    detail: str
    """What went wrong and what to do about it; never a secret."""
    attempts: int
    origin: Origin
    payload_base64: str | None
    failed_at: Moment


class DedupEntry(Recognised):
    """What the compacted topic remembers under ``<scope>/<sha256>/<fingerprint>``; a null value forgets it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    first_event_id: str
    completed_at: Moment


class BudgetAccount(Model):
    """What one lane has made of one budget in one period. Money is whole millionths of a US dollar."""

    scope: str
    """``*``: what everybody spends together; else a tenant's name."""
    period: str
    """A UTC day as ``2026-11-25``, or a month as ``2026-11``."""
    spent_microusd: int
    reserved_microusd: int
    """What the lane may have spent by the time of its next entry; whoever takes the lane over counts it as spent."""
    given_microusd: dict[str, int] = Field(default_factory=dict)
    """What it has given of its share to other lanes, by their numbers, since the period began."""
    wanted_microusd: int = 0
    """What it asks the other lanes to have given it since the period began; 0: it asks for nothing."""


class BudgetEntry(Model):
    """A lane's word on its part of the budgets; the topic remembers the last under ``<group>/<partition>``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    partition: int
    accounts: list[BudgetAccount]
    at: Moment


AlertName = Literal[
    "latency_high",
    "error_rate_high",
    "quality_drop",
    "budget_low",
    "month_budget_low",
    "tenant_budget_low",
    "breaker_open",
    "lag_growing",
    "dead_letters",
]


class Alert(Model):
    """A threshold crossed, or met again."""

    name: AlertName
    state: Literal["raised", "cleared"]
    value: float
    threshold: float
    window_seconds: float
    detail: str
    at: Moment


CONTRACT: dict[str, type[Model]] = {
    "audio-event": AudioEvent,
    "transcript": Transcript,
    "transcription-metric": TranscriptionMetric,
    "dead-letter": DeadLetter,
    "dedup-entry": DedupEntry,
    "budget-entry": BudgetEntry,
    "alert": Alert,
}
"""Every value on a topic, by the name of its JSON Schema."""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a contract value, for its readers."""
    model = CONTRACT[name]
    mode: Literal["validation", "serialization"] = "validation" if model is AudioEvent else "serialization"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:earwitness:{name}:{SCHEMA_VERSION}",
        **model.model_json_schema(mode=mode),
    }
