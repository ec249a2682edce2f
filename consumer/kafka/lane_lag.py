"""How far each lane is behind the end of its partition.

The consumer itself knows the end as of its last fetch, and fetches nothing for a lane that has enough to do: just when
the lag grows. So the ends are asked for.
"""

import asyncio
import logging

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumer.kafka.intake import Intake
from consumer.kafka.lane_parts import LaneState

LOOK_SECONDS = 2.0

log = logging.getLogger(__name__)


class LagWatch:
    """Looks every few seconds while ``run`` runs."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._ends: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Look until cancelled; a broker that does not answer leaves the last look as it was."""
        while True:
            if self._intake.lanes:
                try:
                    self._ends = await self._intake.ends()
                except KafkaError as error:
                    log.debug("ends_unknown: %r", error)
            await asyncio.sleep(LOOK_SECONDS)

    def of(self, partition: TopicPartition) -> int | None:
        """Offsets between what is settled for good and the end as of the last look, the markers of transactions among
        them; None while the lane does not serve, or before the first look.
        """
        lane, end = self._intake.lanes.get(partition), self._ends.get(partition)
        if lane is None or end is None or lane.state is not LaneState.SERVING:
            return None
        return max(0, end - lane.committed.offset)
