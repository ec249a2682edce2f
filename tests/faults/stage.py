"""Which engine plays, and what it hears without faults: the texts to expect."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.faults.fleet import ROOT, clean_environment
from tests.support.fragile_ctc import FRAGILE
from tests.support.scripted_api import ScriptedApi

HEAR_SECONDS = 120.0


class Cast(StrEnum):
    """Who recognises."""

    SIMULATED = "simulated"
    LOCAL = "ctc"
    """A tiny CTC model with random weights, in an engine child that can be made to die."""
    API = "openai"
    """An API on loopback, which answers a checksum of the samples."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a cast needs."""

    settings: dict[str, str] = field(default_factory=dict)
    """More environment of the service processes."""
    recording_seconds: float = 0.1
    api: ScriptedApi | None = None


@asynccontextmanager
async def set_up(cast: Cast, folder: Path) -> AsyncIterator[Stage]:
    """Have everything that a cast needs for the length of the block."""
    match cast:
        case Cast.SIMULATED:
            yield Stage()
        case Cast.LOCAL:
            yield Stage(await asyncio.to_thread(_tiny_model, folder / "model"), 1.0)
        case Cast.API:
            async with ScriptedApi() as api:
                yield Stage(_api_settings(api), 0.5, api)


def _tiny_model(folder: Path) -> dict[str, str]:
    from transformers.utils import logging  # takes its seconds: only who needs it pays them

    from tests.support.tiny_ctc import build

    logging.disable_progress_bar()

    return {
        "EARWITNESS_ENGINE": "ctc",
        "EARWITNESS_MODEL": str(build(folder, "group")),
        "EARWITNESS_DEVICES": "cpu",
        "EARWITNESS_COMPUTE_TYPE": "float32",
        "EARWITNESS_ENGINE_THREADS": "1",
        "EARWITNESS_ENGINE_TIMEOUT_SECONDS": "3",
        "EARWITNESS_BATCH_MAX_CHUNKS": "4",
        "EARWITNESS_BREAKER_RESET_SECONDS": "2",
        "FAULTS_LOADER": FRAGILE,
    }


def _api_settings(api: ScriptedApi) -> dict[str, str]:
    return {
        "EARWITNESS_ENGINE": "openai",
        "EARWITNESS_API_MODEL": "whisper-1",
        "EARWITNESS_API_REQUESTS_PER_MINUTE": "6000",
        "EARWITNESS_API_TIMEOUT_SECONDS": "2",
        "EARWITNESS_API_ATTEMPTS": "50",  # a storm must not be mistaken for an event's own fault
        "EARWITNESS_BREAKER_RESET_SECONDS": "2",
        "OPENAI_BASE_URL": api.base_url,
        "OPENAI_API_KEY": "not-a-secret",
    }


async def fault_free_texts(settings: Mapping[str, str], recordings: Sequence[Path]) -> dict[str, str]:
    """Digest to text, as ``earwitness transcribe`` hears the recordings when nothing is broken."""
    command: list[Path | str] = [Path(sys.executable).with_name("earwitness"), "transcribe", "--format", "json"]
    process = await asyncio.create_subprocess_exec(
        *command, *recordings,
        env={**clean_environment(), **settings}, cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(HEAR_SECONDS):
        told, complaints = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the recordings cannot be heard without faults either: {complaints.decode()}")
    heard = [json.loads(line) for line in told.splitlines()]
    return {one["sha256"]: one["text"] for one in heard}
