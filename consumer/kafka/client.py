"""How every Kafka client of the service connects: one place for addresses, TLS and passwords."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from aiokafka.helpers import create_ssl_context

from consumer.errors import ServiceError
from consumer.settings import Settings

_RETRY_BACKOFF_MS = 250
"""Each lane has a producer, and each of them knocks on a dead broker's door so often."""


def _mend_writes() -> None:
    """A write to a connection that has just been closed: uvloop raises RuntimeError where aiokafka foresees OSError.

    Unmended it ends whichever background task of aiokafka was writing: metadata grow old, fetching stops.
    """
    send = AIOKafkaConnection.send

    def mended(connection: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:
        try:
            return send(connection, request, expect_response)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"connection to {connection.host}:{connection.port} broken: {error}") from error

    AIOKafkaConnection.send = mended


_mend_writes()


def may_pass(error: BaseException) -> bool:
    """Whether waiting may mend it.

    aiokafka calls its own time-outs final, and wraps what broke a coordinator's connection in a bare KafkaError.
    """
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, KafkaTimeoutError) or (isinstance(at, KafkaError) and at.retriable):
            return True
        at = at.__cause__
    return False


def connection(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that aiokafka's consumers, producers and admin clients share.

    Raises ServiceError when the settings contradict each other or the CA file cannot be read.
    """
    protocol = settings.kafka_security_protocol
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": protocol,
        "retry_backoff_ms": _RETRY_BACKOFF_MS,
    }
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = _tls(settings)
    if protocol.startswith("SASL"):
        if not settings.kafka_sasl_username or settings.kafka_sasl_password is None:
            raise ServiceError(f"{protocol} needs kafka_sasl_username and kafka_sasl_password")
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments["sasl_plain_username"] = settings.kafka_sasl_username
        arguments["sasl_plain_password"] = settings.kafka_sasl_password
    return arguments


def _tls(settings: Settings) -> Any:
    try:
        return create_ssl_context(cafile=settings.kafka_ssl_ca_file)
    except OSError as error:
        raise ServiceError(f"kafka_ssl_ca_file {settings.kafka_ssl_ca_file}: {error}") from error


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client for the length of the block; raises ServiceError when no broker answers."""
    client = AIOKafkaAdminClient(**connection(settings), request_timeout_ms=10_000)
    try:
        try:
            await client.start()
        except KafkaError as error:
            raise ServiceError(
                f"no Kafka broker answers at {settings.kafka_bootstrap_servers} ({settings.kafka_security_protocol}): "
                f"{type(error).__name__}; set EARWITNESS_KAFKA_BOOTSTRAP_SERVERS or start one"
            ) from error
        yield client
    finally:
        await client.close()
