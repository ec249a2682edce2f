"""What every bench says of itself: its command, its machine, its figures as JSON."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The machine that the figures are of."""
    return {"cores": len(os.sched_getaffinity(0)), "cpu": _cpu(), "platform": platform.platform()}


def write_json(path: Path, module: str, arguments: Sequence[str] | None, figures: dict[str, Any]) -> None:
    """Write figures with the command that made them; ``arguments`` None: those of this process."""
    command = " ".join(["python", "-m", module, *(sys.argv[1:] if arguments is None else arguments)])
    path.parent.mkdir(parents=True, exist_ok=True)
    written = {"command": command, "machine": machine(), **figures}
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def _cpu() -> str:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return named[0].partition(":")[2].strip() if named else platform.machine()
