"""Posts alerts to an address; a failure is logged and counted, and stops nothing."""

import asyncio
import logging

import httpx2

from schemas.codec import encode
from schemas.models import Alert

TIMEOUT_SECONDS = 10.0

log = logging.getLogger(__name__)


class Webhook:
    """Tells of each alert that it is given; ``failures`` counts those that did not get through."""

    def __init__(self, address: str | None, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """None: nobody is told."""
        # each request would be a line at INFO, with its address
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        self._address = address
        self._timeout_seconds = timeout_seconds
        self.failures = 0

    async def tell(self, alert: Alert) -> None:
        """Post it as JSON. Bounded, raises nothing."""
        if self._address is None:
            return
        try:
            async with asyncio.timeout(self._timeout_seconds), httpx2.AsyncClient() as client:
                answer = await client.post(
                    self._address, content=encode(alert), headers={"content-type": "application/json"}
                )
            failure = "" if answer.is_success else f"HTTP {answer.status_code}"
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            # its text may hold the address, and that may be a secret
            failure = type(error).__name__
        if failure:
            self.failures += 1
            log.warning("alert_webhook_failed %s %s failures=%d", alert.name, failure, self.failures)
