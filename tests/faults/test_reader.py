"""The verifier's eyes: they see what is committed, and a verifier with worse eyes would tell."""

import json

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from tests.faults import reader as module
from tests.faults.load import Published
from tests.faults.plan import PlannedEvent, Shape
from tests.faults.reader import Lag, Reader, Seen
from tests.faults.verifier import Outputs, judge
from tests.support.kafka import Broker, make_topic, topic_names

pytestmark = pytest.mark.kafka


def write(kafka: Broker, topic: str, name: str, value: dict[str, object], *, commit: bool) -> None:
    """A record in a transaction of its own."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": name, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, json.dumps(value).encode(), b"key", 0)
    producer.flush(30)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def read(kafka: Broker, topic: str, isolation: str) -> list[Seen]:
    with Reader(kafka.bootstrap_servers, "nobody", isolation) as reader:
        return reader.read(topic)


def test_what_was_aborted_is_not_seen_and_a_verifier_that_saw_it_would_call_it_a_double(kafka: Broker) -> None:
    topic = f"reader-{len(topic_names(kafka.bootstrap_servers))}"
    make_topic(kafka.bootstrap_servers, topic, 2)
    digest = "0" * 64
    transcript: dict[str, object] = {
        "event_id": "e",
        "tenant": "acme",
        "sha256": digest,
        "cached": False,
        "text": "heard",
        "outcome": "transcribed",
    }
    write(kafka, topic, f"{topic}-1", transcript, commit=True)
    write(kafka, topic, f"{topic}-2", transcript, commit=False)
    event = Published(PlannedEvent(0.0, "e", Shape.KEYED, 0, "acme"), digest, "heard", 0, 0, 0.0)

    committed, everything = read(kafka, topic, "read_committed"), read(kafka, topic, "read_uncommitted")

    assert (len(committed), len(everything)) == (1, 2)
    assert judge([event], Outputs(committed, committed, [], []), [], [], []).doubled == 0
    assert judge([event], Outputs(everything, committed, [], []), [], [], []).doubled == 1


class Moving:
    """A connection to a group whose coordinator is on its way for the first two questions."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers

    def committed(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.answers:
            raise KafkaException(KafkaError(self.answers.pop(0)))
        return [TopicPartition(one.topic, one.partition, 7) for one in wanted]

    def get_watermark_offsets(self, _: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, 9


def test_a_coordinator_on_its_way_is_asked_again_and_a_refusal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(Reader, "_partitions", lambda *_: 1)
    moving = Moving([KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS])
    monkeypatch.setattr(module, "Consumer", lambda _: moving)
    assert Reader("nowhere", "group").lags("events") == [Lag(0, 7, 9)]
    moving.answers = [KafkaError.GROUP_AUTHORIZATION_FAILED]
    with pytest.raises(KafkaException):
        Reader("nowhere", "group").lags("events")
