"""Names in PromQL: what an expression asks for, and what the service's own ``/metrics`` offers."""

import re
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Observation
from prometheus_client import CollectorRegistry

from consumer.telemetry.catalogue import INSTRUMENTS, Kind
from consumer.telemetry.meter import measuring

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAMES = re.compile(r"\b[A-Za-z_:][\w:]*\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "inf", "nan"}


def metrics_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    return set(_NAMES.findall(_LABELS.sub(" ", _STRINGS.sub("", expression)))) - _WORDS


def exported() -> set[str]:
    """Every sample's name that the instruments of the catalogue have on ``/metrics``."""
    registry = CollectorRegistry()
    with measuring("test", lambda data: data, registry=registry) as meter:
        for one in INSTRUMENTS:
            if one.kind is Kind.HISTOGRAM:
                meter.create_histogram(one.name, one.unit, one.text).record(1.0)
            elif one.kind is Kind.COUNTER:
                meter.create_observable_counter(one.name, [_one], one.unit, one.text)
            else:
                meter.create_observable_gauge(one.name, [_one], one.unit, one.text)
        return {sample.name for family in registry.collect() for sample in family.samples}


def _one(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(1)]
