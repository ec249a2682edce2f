"""Every topic: its name, its shape, and which partition owns a digest."""

from dataclasses import dataclass, field

from aiokafka.partitioner import murmur2


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What ``topics create`` makes and ``topics check`` demands."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics' names under one prefix."""

    prefix: str

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def transcripts(self) -> str:
        return f"{self.prefix}.transcripts"

    @property
    def metrics(self) -> str:
        return f"{self.prefix}.metrics"

    @property
    def dedup(self) -> str:
        return f"{self.prefix}.dedup"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}.dead-letters"

    @property
    def parked(self) -> str:
        """Events that wait long; each under a key of its own until it comes back, then a tombstone."""
        return f"{self.prefix}.parked"

    @property
    def budget(self) -> str:
        return f"{self.prefix}.budget"

    @property
    def alerts(self) -> str:
        return f"{self.prefix}.alerts"

    @property
    def review(self) -> str:
        """Which dead letters were handled: kept by whoever reviews them, made when the first one is."""
        return f"{self.prefix}.review"

    def specs(self, partitions: int, max_event_bytes: int) -> list[TopicSpec]:
        """The topics that the service needs, with the settings that its promises rest on.

        ``max_event_bytes`` bounds a record on the input topic. A dead letter carries its record in base64,
        so the others take 4/3 of that and some slack for the fields around it.
        """
        roomy = {"max.message.bytes": str(outcome_bytes(max_event_bytes))}
        return [
            TopicSpec(self.events, partitions, {"max.message.bytes": str(max_event_bytes)}),
            TopicSpec(self.transcripts, partitions, roomy),
            TopicSpec(self.metrics, partitions, roomy),
            # Tombstones mark who opened a lane; offsets of an idle group expire after 7 days, so the marks must
            # outlive them: 90 days.
            TopicSpec(
                self.dedup,
                partitions,
                {**roomy, "cleanup.policy": "compact", "delete.retention.ms": str(90 * 24 * 3600 * 1000)},
            ),
            TopicSpec(self.dead_letters, partitions, roomy),
            TopicSpec(self.parked, partitions, {**roomy, "cleanup.policy": "compact"}),
            # One key for each lane, written often while an API is paid: small segments are compacted soon.
            TopicSpec(
                self.budget, partitions, {**roomy, "cleanup.policy": "compact", "segment.bytes": str(8 * 1024 * 1024)}
            ),
            TopicSpec(self.alerts, partitions, {"cleanup.policy": "compact"}),
        ]


def outcome_bytes(max_event_bytes: int) -> int:
    """The largest outcome record: an event in base64 plus 64 KiB for what surrounds it."""
    return max_event_bytes * 4 // 3 + 64 * 1024


def digest_partition(digest: str, partitions: int) -> int:
    """The partition that owns a digest: Kafka's own murmur2 over its lower-case hex, as Java's producer has it."""
    hashed: int = murmur2(digest.encode("ascii"))
    return (hashed & 0x7FFFFFFF) % partitions
