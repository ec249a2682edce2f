"""Runs the command line in the test's own process."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumer.cli import main
from consumer.settings import Settings


class Earwitness:
    """The command; ``code``, ``out`` and ``err`` are those of the last run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.code, self.out, self.err = -1, "", ""

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["earwitness", *arguments])
        with logging_put_back(), pytest.raises(SystemExit) as ended:
            main()
        self.code = int(ended.value.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return self.code


def on_broker(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Earwitness:
    """The command in a folder of its own, on the broker and the topics of ``settings``."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EARWITNESS_KAFKA_BOOTSTRAP_SERVERS", settings.kafka_bootstrap_servers)
    monkeypatch.setenv("EARWITNESS_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("EARWITNESS_PARTITIONS", "4")
    return Earwitness(monkeypatch, capsys)


@contextmanager
def logging_put_back() -> Iterator[None]:
    """A command sets logging up for its whole process; here it would go on writing to a captured, closed stderr."""
    loggers = [logging.getLogger(name) for name in (None, "aiokafka", "kafka")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, (level, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers[:] = handlers
