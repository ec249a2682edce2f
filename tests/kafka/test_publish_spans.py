"""What ``earwitness publish`` tells a tracing backend."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from consumer.settings import PREFIX, Settings
from schemas.topics import Topics
from tests.support.audio_files import SPEECH


@pytest.mark.kafka
async def test_the_span_of_a_published_event_reaches_the_collector(kafka_settings: Settings, topics: Topics) -> None:
    received: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        received.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(collect, "127.0.0.1", 0) as collector:
        port = collector.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("earwitness"), "publish", SPEECH / "austen-0880.flac"),
            env={
                **os.environ,
                f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": kafka_settings.kafka_bootstrap_servers,
                f"{PREFIX}TOPIC_PREFIX": topics.prefix,
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            _, told = await process.communicate()

    assert process.returncode == 0, told.decode()
    (resource,) = ExportTraceServiceRequest.FromString(received[0]).resource_spans
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "earwitness-publish"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == [f"send {topics.events}"]
