"""Says once when a broker leaves the cluster, and once when it is back."""

import logging

from aiokafka.cluster import ClusterMetadata

log = logging.getLogger(__name__)


class BrokerWatch:
    """Listens to the cluster's metadata; what each connection complains of is left to the client's own log."""

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._lost: set[str] = set()

    def __call__(self, cluster: ClusterMetadata) -> None:
        """The brokers have told who is there."""
        now = {f"{broker.nodeId} at {broker.host}:{broker.port}" for broker in cluster.brokers()}
        for broker in sorted(self._alive - now):
            log.warning("broker_lost %s: the others take over what it led", broker)
        for broker in sorted(self._lost & now):
            log.info("broker_back %s", broker)
        self._lost = (self._lost | self._alive) - now
        self._alive = now
