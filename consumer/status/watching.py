"""Puts the watching together: measures, the meter's readers and the HTTP port, as far as somebody wants them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from consumer.settings import Settings
from consumer.status.app import make_app
from consumer.status.instruments import observe
from consumer.status.server import listening
from consumer.status.vitals import Vitals
from consumer.telemetry.export import is_wanted
from consumer.telemetry.loop_monitor import LoopMonitor
from consumer.telemetry.measures import Measures
from consumer.telemetry.meter import measuring

log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@asynccontextmanager
async def watched(settings: Settings, loop_monitor: LoopMonitor) -> AsyncIterator[Vitals]:
    """The service's vitals, shown for the length of the block; nothing is counted if nobody asked to see it.

    Raises ServiceError if the HTTP port cannot be had.
    """
    if not settings.http_port and not is_wanted("metrics"):
        yield Vitals(settings, loop_monitor, None)
        return
    measures = Measures(settings.topics.events, settings.group_id, show_texts=settings.http_show_texts)
    vitals = Vitals(settings, loop_monitor, measures)
    registry = CollectorRegistry() if settings.http_port else None
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(measuring("earwitness", measures.added_to, registry=registry))
        observe(meter, vitals, measures.tally)
        if registry is not None:
            if settings.http_host not in _LOOPBACK and settings.http_token is None:
                log.warning("http_is_open on %s: anybody who reaches it can look; set http_token", settings.http_host)
            stopping = asyncio.Event()
            app = make_app(vitals, measures.tally, registry, stopping, settings.http_token)
            await stack.enter_async_context(listening(app, settings.http_host, settings.http_port, stopping))
        yield vitals
