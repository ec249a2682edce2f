"""Runs the command line in the test's own process."""

import sys

import pytest

from consumer.cli import main


class Earwitness:
    """The command; ``code``, ``out`` and ``err`` are those of the last run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.code, self.out, self.err = -1, "", ""

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr(sys, "argv", ["earwitness", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        self.code = int(ended.value.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return self.code
