"""The verifier's eyes: they see what is committed, and a verifier with worse eyes would tell."""

import json

import pytest
from confluent_kafka import Producer

from tests.faults.load import Published
from tests.faults.plan import PlannedEvent, Shape
from tests.faults.reader import Reader, Seen
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
