"""Every knob of the service, data only.

Each comes from a flag, the environment (``EARWITNESS_<NAME>``), a TOML file (``EARWITNESS_CONFIG``, else
``earwitness.toml`` in the working folder if it is there), or the default here, in that order.
Standard names stay standard: ``OPENAI_API_KEY``, ``OPENAI_BASE_URL``, ``OTEL_*`` and the cloud SDKs' own.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from consumer.quality_settings import QualitySettings
from schemas.topics import Topics

PREFIX = "EARWITNESS_"
_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?")
"""``host:port`` or ``[IPv6]:port``; without a port, Kafka's own."""
_ROUTE_RULE = re.compile(
    r"(?:tenant=[^/]+|language=[A-Za-z]{2,8}|priority=(?:critical|deferred)|(?:longer|shorter)_than=\d+(?:\.\d+)?)"
    r":(?:local|api)"
)
_HOURS = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)(?: ([\w/+-]+))?")


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _servers(value: str) -> str:
    servers = _split(value)
    for server in servers:
        found = _SERVER.fullmatch(server)
        if found is None or not 0 < int(found[1] or 9092) < 65_536:
            raise ValueError(f"{server!r} is not host:port, as in localhost:9092")
    if not servers:
        raise ValueError("names no broker; give host:port, as in localhost:9092")
    return ",".join(servers)


def _route_rules(rules: list[str]) -> list[str]:
    for rule in rules:
        if _ROUTE_RULE.fullmatch(rule) is None:
            raise ValueError(
                f"{rule!r} is not a rule such as tenant=acme:api, language=de:api, priority=deferred:local, "
                "longer_than=3600:local or shorter_than=5:api"
            )
    return rules


def _hours(value: str | None) -> str | None:
    if value is None:
        return None
    found = _HOURS.fullmatch(value.strip())
    if found is None or found[1] == found[2]:
        raise ValueError(f"{value!r} is not like 22:00-06:00, or 22:00-06:00 Europe/Berlin")
    try:
        ZoneInfo(found[3] or "UTC")
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"no time zone is named {found[3]!r} here, as Europe/Berlin is") from error
    return value.strip()


Servers = Annotated[str, AfterValidator(_servers)]
"""Brokers, `host:port`, comma-separated."""
Names = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""A list; in the environment comma-separated."""


def _tenant_budgets(value: list[str]) -> list[str]:
    for entry in value:
        tenant, equals, usd = entry.rpartition("=")
        if not (equals and tenant and re.fullmatch(r"\d+(\.\d+)?", usd)):
            raise ValueError(f"{entry!r} is not TENANT=USD, as in acme=5")
    return value


TenantBudgets = Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_tenant_budgets)]
"""`tenant=usd`, a list; in the environment comma-separated."""


class Settings(QualitySettings):
    """Everything that can be set; ``earwitness config`` prints it with where each value came from."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True)

    # Kafka
    kafka_bootstrap_servers: Servers = "localhost:9092"
    """Brokers to ask first, `host:port`, comma-separated."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """librdkafka's `security.protocol`."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """librdkafka's `sasl.mechanism`."""
    kafka_sasl_username: str | None = None
    """librdkafka's `sasl.username`."""
    kafka_sasl_password: str | None = Field(default=None, repr=False)
    """librdkafka's `sasl.password`; never printed."""
    kafka_ssl_ca_file: Path | None = None
    """librdkafka's `ssl.ca.location`; absent: the system's."""
    group_id: str = "earwitness"
    """Consumer group, and the first part of every lane's transactional id: services that share it share the work."""
    group_instance_id: str | None = None
    """Static membership: a restart within the session time-out causes no rebalance; must differ in each process."""
    partition_assignor: Literal["range", "roundrobin", "sticky"] = "sticky"
    """`sticky` keeps lanes where they are when processes come and go; the same in the whole group."""
    topic_prefix: str = "audio"
    """Its topics: `<prefix>.events`, `.transcripts`, `.metrics`, `.dedup`, `.dead-letters`, `.alerts` and others."""
    partitions: PositiveInt = 12
    """Partitions of each topic when `topics create` makes them; the upper limit of processes that share the work."""
    replication_factor: int = Field(default=-1, ge=-1)
    """Copies of each topic when `topics create` makes them; -1: the broker's default. Production wants 3."""
    max_event_bytes: int = Field(default=1_048_576, ge=1024, le=64 * 1024 * 1024)
    """Largest record on the input topic; the output topics take 4/3 of it, since a dead letter carries its record."""
    start_at: Literal["earliest", "latest"] = "earliest"
    """Where the very first opening of a partition begins; later a missing offset stops the service instead."""
    session_timeout_ms: int = Field(default=10_000, ge=1000)
    """A process silent for so long loses its partitions: shorter recovers faster, longer forgives pauses."""
    heartbeat_interval_ms: PositiveInt = 1000
    """At most a third of the session time-out."""
    rebalance_timeout_ms: int = Field(default=30_000, ge=5000)
    """How long a rebalance waits for a process to hand over; bounds `revoke_drain_seconds`."""
    revoke_drain_seconds: NonNegativeFloat = 5.0
    """How long a rebalance may wait for finished outcomes to be committed; below the rebalance time-out."""
    transaction_timeout_ms: int = Field(default=10_000, ge=1000, le=10_000)
    """A stalled transaction holds up every read_committed reader for so long."""
    commit_interval_ms: int = Field(default=100, ge=0)
    """Longest wait of an outcome for company in its transaction: longer is cheaper, shorter is quicker."""
    commit_batch: PositiveInt = 500
    """Outcomes in one transaction at most."""
    commit_stall_seconds: PositiveFloat = 300.0
    """Outcomes in hand for so long without a commit: the lane opens anew, and the second time the process stops."""
    lane_in_flight: PositiveInt = 200
    """Events of one partition that are worked on at once; the partition pauses above it."""

    # Recordings
    fetch_allow: Names = Field(default_factory=list)
    """Address prefixes that may be fetched, comma-separated (`file:///data/,https://media.example/`); none: nothing."""
    fetch_timeout_seconds: PositiveFloat = 60.0
    """Wall time of one fetch."""
    fetch_concurrency: PositiveInt = 16
    """Fetches, and so sockets, open at once."""
    fetch_attempts: PositiveInt = 8
    """Tries of a fetch that failed for a passing reason; eight take about half a minute in all."""
    max_audio_bytes: PositiveInt = 1024 * 1024 * 1024
    """Largest recording, as it is stored."""
    max_audio_seconds: PositiveFloat = 4 * 3600.0
    """Longest recording, once decoded."""
    decode_timeout_seconds: PositiveFloat = 300.0
    """Wall time of one decoding; the decoder is killed after it."""
    decode_workers: NonNegativeInt = 0
    """Decoder processes; 0: one for each core, at least two."""
    state_dir: Path = Path(".earwitness/state")
    """Scratch space: spooled recordings and the dedup slices; nothing in it need survive a restart."""
    spool_bytes: PositiveInt = 8 * 1024 * 1024 * 1024
    """Disk for recordings in flight; fetching waits while it is full."""

    # Recognition
    engine: Literal["ctc", "whisper", "ctranslate2", "openai", "simulated"] = "ctc"
    """The primary engine."""
    model: str = "facebook/wav2vec2-large-960h"
    """Hub id or local folder; for `openai` the API's model name comes from `api_model`."""
    model_revision: str | None = None
    """Commit or tag on the hub; pin it in production, since it is part of the dedup key."""
    devices: Names = Field(default_factory=lambda: ["auto"])
    """`auto` (every GPU, else the CPU), `cpu`, or a list such as `cuda:0,cuda:1`."""
    compute_type: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """`auto`: int8 for ctc and ctranslate2 on a CPU, bfloat16 on a GPU, else float32."""
    ctc_cuda_graphs: Literal["off", "auto"] = "off"
    """`auto`: CTC on a GPU tries CUDA graphs of fixed shapes and keeps those that are quicker; costs GPU memory."""
    engine_threads: NonNegativeInt = 0
    """CPU threads of the engine; 0: all cores."""
    language: str | None = None
    """The language when an event names none; absent: the model detects, or has only one."""
    chunk_seconds: float = Field(default=20.0, ge=5.0, le=30.0)
    """Longest chunk of a recording for CTC; Whisper always works on windows of 30 s."""
    chunk_overlap_seconds: float = Field(default=2.0, ge=0.5, le=5.0)
    """What neighbouring chunks share where no pause is found to cut in."""
    silence_gate: Literal["auto", "on", "off"] = "auto"
    """Where nobody speaks for 2 s no model is asked; `auto`: so for Whisper, it invents words; `off`: in silence."""
    whisper_prompt: str | None = None
    """Names and terms in their spelling, which Whisper is told were said before; the last 223 tokens of it count."""
    word_times: bool = False
    """Whisper: time every word, at some cost; CTC does so for nothing."""
    batch_audio_seconds: PositiveFloat = 320.0
    """Padded audio in one batch at most."""
    batch_max_chunks: PositiveInt = 64
    """Chunks in one batch at most."""
    batch_wait_ms: NonNegativeInt = 30
    """Longest wait of a chunk for company when the engine is idle."""
    queue_audio_seconds: PositiveFloat = 7200.0
    """Audio that waits for the engine at most; beyond it, partitions pause."""
    engine_timeout_seconds: PositiveFloat = 120.0
    """A batch that takes longer means a hung engine: its process is replaced."""
    engine_recycle_rss_bytes: NonNegativeInt = 4 * 1024 * 1024 * 1024
    """An engine process that has grown by so much since it was warm is replaced between batches; 0: never."""
    simulated_realtime_factor: PositiveFloat = 100.0
    """Seconds of audio that one slot of the simulated engine hears in a second."""
    simulated_concurrency: PositiveInt = 4
    """Slots of the simulated engine."""
    simulated_usd_per_minute: NonNegativeFloat = 0.0
    """What the simulated engine says it costs."""
    local_usd_per_hour: NonNegativeFloat = 0.0
    """Price of an hour of the machine's engine time; local cost is engine seconds at this price."""

    # Fallback API
    fallback: Literal["openai", "none"] = "none"
    """Who serves while the primary engine is down."""
    api_model: str = "gpt-transcribe"
    """Model of the API."""
    api_requests_per_minute: PositiveInt = 500
    """Requests to the API, for the whole group."""
    api_audio_seconds_per_minute: PositiveFloat = 36_000.0
    """Audio sent to the API, for the whole group."""
    api_concurrency: PositiveInt = 8
    """Requests to the API open at once, for the whole group (but one for each process that owns partitions)."""
    api_timeout_seconds: PositiveFloat = 120.0
    """Wall time of one call to the API."""
    api_attempts: PositiveInt = 4
    """Tries of an API call that failed for a passing reason."""
    api_upload_format: Literal["flac", "opus"] = "flac"
    """`flac` keeps every sample; `opus` is about a fifth of the bytes, and may cost a word here and there."""
    api_usd_per_minute: NonNegativeFloat | None = None
    """Overrides the built-in price of `api_model`; needed for models that the price table does not know."""
    critical_route: Literal["local", "api"] = "local"
    """Who serves events marked `critical`."""
    budget_usd_per_day: NonNegativeFloat | None = None
    """What the group may pay to APIs in a UTC day, crashes included; alerts at 80 and 100 % of it; absent: no limit."""
    budget_usd_per_month: NonNegativeFloat | None = None
    """The same for a UTC month."""
    tenant_budget_usd_per_day: TenantBudgets = Field(default_factory=list)
    """What may be paid for a tenant in a UTC day, comma-separated (`acme=5,beta=0.50`); others have none of theirs."""
    route_rules: Annotated[Names, AfterValidator(_route_rules)] = Field(default_factory=list)
    """Who serves which events, the first that fits counts: `tenant=acme:api,language=de:api,longer_than=3600:local`."""
    off_peak_hours: Annotated[str | None, AfterValidator(_hours)] = None
    """`22:00-06:00` (UTC) or `22:00-06:00 Europe/Berlin`: events marked `defer` wait for it or an idle engine."""
    max_hold_seconds: NonNegativeFloat = 120.0
    """An event that must wait longer, for cheap hours, the budget or an API, is parked: its place goes to others."""
    breaker_failures: PositiveInt = 5
    """Failures after which an engine is left alone, if they are `breaker_failure_rate` of its latest answers."""
    breaker_failure_rate: float = Field(default=0.5, gt=0.0, le=1.0)
    """The rate looks at the latest `breaker_failures / breaker_failure_rate` answers; 1: failures in a row only."""
    breaker_slow_seconds: PositiveFloat = 60.0
    """An answer that takes longer than this, and than its audio lasts, is slow."""
    breaker_slow_rate: float = Field(default=0.8, gt=0.0, le=1.0)
    """As much of the latest answers slow: the engine is left alone too, if another one can serve."""
    breaker_reset_seconds: PositiveFloat = 15.0
    """How long until one request tries it again."""

    # Alerts
    watch_metrics: bool = True
    """`serve` watches the metrics topic too, one process of the group at a time, and publishes alerts."""
    alert_latency_p95_seconds: PositiveFloat = 60.0
    """`latency_high`: 95 % of events take up to more than this, from publication to commit."""
    alert_error_rate: float = Field(default=0.05, gt=0, lt=1)
    """`error_rate_high`: a larger share of events became dead letters."""
    alert_quality_drop: PositiveFloat = 0.2
    """`quality_drop`: WER or disagreement is worse than in the week before by a larger share of that."""
    alert_dead_letters: NonNegativeInt = 0
    """`dead_letters`: more of them came within an hour."""
    alert_lag_growth: PositiveInt = 100
    """`lag_growing`: the events that wait grew by more within 5 minutes."""
    alert_min_events: PositiveInt = 20
    """A window with fewer events raises neither `latency_high` nor `error_rate_high`; a longer one decides."""
    alert_min_words: PositiveInt = 5000
    """A window or a baseline with fewer reference words raises no `quality_drop`."""
    alert_webhook: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = Field(default=None, repr=False)
    """Address that each alert is posted to as JSON, at least once if it answers; never printed, it may be a secret."""

    # Service
    dedup_scope: Literal["tenant", "global"] = "tenant"
    """`tenant`: a hit needs no fetch. `global`: tenants share results, and each must show that it has the bytes."""
    recording_failure_ttl_seconds: NonNegativeFloat = 300.0
    """How long a recording that cannot be decoded is remembered as such."""
    shutdown_grace_seconds: NonNegativeFloat = 30.0
    """How long SIGTERM waits for what is in flight."""
    http_port: int = Field(default=0, ge=0, le=65_535)
    """Port of the live page, `/metrics`, `/livez`, `/readyz` and `/version`; 0: none of it."""
    http_host: str = "127.0.0.1"
    """Address that it listens on; with any other than the loopback, set `http_token` too."""
    http_token: str | None = Field(default=None, min_length=1, repr=False)
    """Bearer token, or the password of a browser's login, for all but `/livez` and `/readyz`; never printed."""
    http_show_texts: bool = False
    """The live page shows what was said, and what went wrong in words; else only codes and figures."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log line that is written."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""

    _toml: ClassVar[Path | None] = None

    @model_validator(mode="after")
    def _times_fit_together(self) -> Self:
        if 3 * self.heartbeat_interval_ms > self.session_timeout_ms:
            raise ValueError(
                f"heartbeat_interval_ms ({self.heartbeat_interval_ms}) is more than a third of session_timeout_ms "
                f"({self.session_timeout_ms}): two lost heartbeats would cost the partitions; lower the first, or "
                "raise the second"
            )
        if 1000 * self.revoke_drain_seconds >= self.rebalance_timeout_ms:
            raise ValueError(
                f"revoke_drain_seconds ({self.revoke_drain_seconds:g}) is not below rebalance_timeout_ms "
                f"({self.rebalance_timeout_ms}): the group would go on without this process; lower the first, or "
                "raise the second"
            )
        return self

    @property
    def topics(self) -> Topics:
        return Topics(self.topic_prefix)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the library's signature)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path | None:
    """The TOML file that counts, if there is one."""
    named = os.environ.get(f"{PREFIX}CONFIG")
    path = Path(named or "earwitness.toml")
    return path if named or path.is_file() else None
