"""The one honest read of a committed offset.

aiokafka hides OffsetFetch's top-level error: a wrong or loading coordinator looks like *no offset*, and everything
would be heard again, or lost. This read checks that code, asks the right coordinator, demands a row for the
partition, and retries. It is stable only after a fence: a new producer with the lane's transactional id completes
what its predecessor left open.
"""

import asyncio
import logging
from dataclasses import dataclass

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import CoordinatorNotAvailableError, KafkaError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import TopicPartition

from consumer.kafka.client import may_pass

log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed offset and the text beside it; ``offset`` is None where the group has none."""

    offset: int | None
    metadata: str = ""


class CommittedOffsets:
    """Reads the group's committed offsets over a client that its owner starts and stops."""

    def __init__(self, client: AIOKafkaClient, group_id: str) -> None:
        self._client = client
        self._group_id = group_id

    async def read(self, partition: TopicPartition) -> Committed:
        """The committed offset of a partition, or a proven absence of one.

        Waits for a coordinator that can tell (bounded by cancellation); raises what cannot pass by itself.
        """
        waiting = False
        while True:
            try:
                return await self._ask_coordinator(partition)
            except KafkaError as error:
                if not may_pass(error):
                    raise
                if not waiting:
                    log.warning("waiting for the coordinator of group %s: %r", self._group_id, error)
                    waiting = True
            await self._client.force_metadata_update()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _ask_coordinator(self, partition: TopicPartition) -> Committed:
        node = await self._client.coordinator_lookup(CoordinationType.GROUP, self._group_id)
        request = OffsetFetchRequest(self._group_id, [(partition.topic, [partition.partition])])
        response = await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        _demand_success(response.error_code)
        for topic, rows in response.topics:
            for number, offset, metadata, error_code in rows:
                if (topic, number) == partition:
                    _demand_success(error_code)
                    return Committed(None if offset < 0 else offset, metadata or "")
        raise CoordinatorNotAvailableError(f"the answer has no row for {partition}")


def _demand_success(error_code: int) -> None:
    if error_code:
        error: KafkaError = for_code(error_code)()
        raise error
