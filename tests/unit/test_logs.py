"""Logs that can be read by people and by machines, and that do not flood."""

import json
import logging
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from consumer.telemetry.logs import JsonLines, SaidOnce


def _record(name: str = "consumer.service", message: str = "hello %s", *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments or ("you",), None)


def test_a_line_is_one_json_object() -> None:
    line = json.loads(JsonLines().format(_record()))
    assert (line["level"], line["logger"], line["message"]) == ("WARNING", "consumer.service", "hello you")
    assert line.keys() == {"at", "level", "logger", "message"}


def test_a_line_says_when_in_utc_to_the_millisecond_as_rfc_3339_wants_it() -> None:
    record = _record()
    record.created = 1_767_225_599.25
    assert json.loads(JsonLines().format(record))["at"] == "2025-12-31T23:59:59.250Z"


def test_an_exception_stays_in_its_line() -> None:
    record = _record()
    try:
        dict[str, str]()["gone"]
    except KeyError:
        record.exc_info = sys.exc_info()
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "KeyError: 'gone'" in json.loads(text)["exception"]


def test_a_name_that_is_no_utf8_does_not_cost_its_line() -> None:
    record = _record("x", "at %s", "caf\udce9.wav")
    record.exc_info = (ValueError, ValueError(record.getMessage()), None)
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "at caf\\udce9.wav"
    assert line["exception"] == "ValueError: at caf\\udce9.wav"


def test_a_line_within_a_span_names_its_trace() -> None:
    provider = TracerProvider()
    with provider.get_tracer("test").start_as_current_span("x") as span:
        line = json.loads(JsonLines().format(_record()))
    assert line["trace_id"] == trace.format_trace_id(span.get_span_context().trace_id)
    assert line["span_id"] == trace.format_span_id(span.get_span_context().span_id)
    provider.shutdown()


def test_the_kafka_client_says_the_same_thing_once_a_minute_and_how_often_it_was_meant() -> None:
    now = 0.0
    once = SaidOnce(clock=lambda: now)
    assert [once.filter(_record("aiokafka.conn", "lost %s", number)) for number in range(5)] == [True] + [False] * 4
    now = 60.0
    again = _record("aiokafka.conn", "lost %s", 9)
    assert once.filter(again)
    assert again.getMessage() == "lost 9 (and 4 times more in the last minute)"


def test_the_kafka_clients_different_complaints_are_each_said() -> None:
    once = SaidOnce(clock=lambda: 0.0)
    assert once.filter(_record("aiokafka.conn", "lost %s"))
    assert once.filter(_record("aiokafka.client", "lost %s"))
    assert once.filter(_record("aiokafka.conn", "found %s"))


def test_the_services_own_lines_are_never_held_back() -> None:
    once = SaidOnce(clock=lambda: 0.0)
    assert all(once.filter(_record()) for _ in range(5))
