"""The real service as a process of its own, to be waited for, stopped, and killed."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from consumer.settings import PREFIX, Settings

TIMEOUT_SECONDS = 60.0


class ServiceProcess:
    """A running ``earwitness serve``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._more = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._more:
                self.lines.append(line.decode().rstrip())
                self._more.notify_all()
        async with self._more:
            self._more.notify_all()

    async def until_log(self, pattern: str, times: int = 1, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until its log has said something that often."""
        async with asyncio.timeout(timeout_seconds), self._more:
            while self.said(pattern) < times:
                assert not self._reader.done(), "\n".join(self.lines)
                await self._more.wait()

    def said(self, pattern: str) -> int:
        """How often its log has said something."""
        return sum(re.search(pattern, line) is not None for line in self.lines)

    async def stop(self) -> int:
        """SIGTERM, and wait for the drain; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            code = await self.process.wait()
            await self._reader
        return code


@asynccontextmanager
async def serving(settings: Settings, *, command: Sequence[str] = (), **more: str) -> AsyncIterator[ServiceProcess]:
    """Run the service with these settings (those that differ from the defaults travel by environment).

    ``command`` is run in the place of ``earwitness serve``.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name in settings.model_fields_set:
            environment[PREFIX + name.upper()] = ",".join(value) if isinstance(value, list) else str(value)
    process = await asyncio.create_subprocess_exec(
        *(command or (Path(sys.executable).with_name("earwitness"), "serve")),
        env={**environment, "EARWITNESS_LOG_FORMAT": "text", **more},
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    service = ServiceProcess(process)
    try:
        yield service
    finally:
        if process.returncode is None:
            process.kill()
        await service.ended()
