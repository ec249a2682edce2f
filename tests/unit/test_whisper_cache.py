"""Which cache a Whisper decodes with: the quicker one by the clock, and none that fails."""

import pytest

from consumer.engines.whisper_cache import may_be_static, quicker


class Ways:
    """Two ways to decode that take so long in their first and their second run."""

    def __init__(self, dynamic: tuple[float, float], static: tuple[float, float]) -> None:
        self.now = 0.0
        self._seconds = {"dynamic": list(dynamic), "static": list(static)}

    def run(self, name: str) -> None:
        self.now += self._seconds[name].pop(0)

    def quicker(self) -> str:
        return quicker({"dynamic": lambda: self.run("dynamic"), "static": lambda: self.run("static")}, lambda: self.now)


def test_the_quicker_one_is_taken_whatever_compiling_took() -> None:
    assert Ways(dynamic=(1.0, 1.0), static=(60.0, 0.2)).quicker() == "static"
    assert Ways(dynamic=(1.0, 1.0), static=(0.1, 1.5)).quicker() == "dynamic"


def test_one_that_fails_is_out_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("no compiler here")

    assert quicker({"dynamic": lambda: None, "static": fail}, lambda: 0.0) == "dynamic"
    assert "no compiler here" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="no compiler"):
        quicker({"dynamic": fail, "static": lambda: None}, lambda: 0.0)


@pytest.mark.parametrize(("device", "worth_it"), [("cuda:1", True), ("cuda", True), ("cpu", False)])
def test_it_is_tried_on_a_gpu_alone(device: str, *, worth_it: bool) -> None:
    assert may_be_static(device) is worth_it
