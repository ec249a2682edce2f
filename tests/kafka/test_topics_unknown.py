"""A broker that has just come back may not know yet what another one has made: it is asked again."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from consumer.kafka import topics
from consumer.settings import Settings

pytestmark = pytest.mark.kafka


async def test_making_topics_waits_for_a_broker_that_does_not_know_them_yet(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = topics._partition_counts, list[int]()

    async def forgetful(admin: AIOKafkaAdminClient) -> dict[str, int]:
        looks.append(len(looks))
        counts = await look(admin)
        return {} if len(looks) in (2, 5) else counts

    monkeypatch.setattr(topics, "_partition_counts", forgetful)

    made = await topics.create(kafka_settings)

    assert {topic.partitions for topic in made} == {kafka_settings.partitions}
    assert len(looks) > 5
