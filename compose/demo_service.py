"""The real service as the demo's child: ``earwitness serve``, with its log in a file."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from compose.local_kafka import LAUNCHER as DIES_WITH_ITS_PARENT

READY_SECONDS = 180.0
STOP_SECONDS = 45.0
_TAIL_LINES = 15


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why in a few lines."""


class Service:
    """A running ``earwitness serve``."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self._process = process
        self._log_path = log_path
        self._lines: list[str] = []
        self._more = asyncio.Condition()
        self.reader = asyncio.create_task(self._read())

    async def until_said(self, pattern: str) -> None:
        """Wait until its log has said something. Raises DemoError if it ends before, or never says it."""
        try:
            async with asyncio.timeout(READY_SECONDS), self._more:
                while not any(re.search(pattern, line) for line in self._lines):
                    if self.reader.done():
                        raise self._failure("the service ended at its start")
                    await self._more.wait()
        except TimeoutError as error:
            raise self._failure(f"the service was not ready within {READY_SECONDS:.0f} s") from error

    async def watch(self) -> None:
        """Wait for an end that nobody asked for. Raises DemoError."""
        await asyncio.shield(self.reader)
        raise self._failure("the service ended while it was needed")

    async def stop(self) -> None:
        """SIGTERM, and wait for the drain. Raises DemoError unless it ends in order."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await self._process.wait()
                await self.reader
        except TimeoutError as error:
            raise self._failure(f"the service did not stop within {STOP_SECONDS:.0f} s") from error
        if code:
            raise self._failure(f"the service ended with exit code {code}")

    async def kill(self) -> None:
        """End it at once, if it is still there."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self.reader

    async def _read(self) -> None:
        assert self._process.stderr is not None
        with self._log_path.open("w", encoding="utf-8") as log:
            async for line in self._process.stderr:
                async with self._more:
                    self._lines.append(line.decode("utf-8", "replace").rstrip())
                    log.write(f"{self._lines[-1]}\n")
                    log.flush()
                    self._more.notify_all()
        async with self._more:
            self._more.notify_all()

    def _failure(self, what: str) -> DemoError:
        return DemoError("\n".join([f"{what}; its log is {self._log_path}:", *self._lines[-_TAIL_LINES:]]))


@asynccontextmanager
async def serving(environment: Mapping[str, str], log_path: Path) -> AsyncIterator[Service]:
    """Run the service for the length of the block; it dies with this process, however that ends."""
    command = Path(sys.executable).with_name("earwitness")
    if not command.exists():
        raise DemoError(f"{command} is missing; run `make install` first")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", DIES_WITH_ITS_PARENT, str(os.getpid())),
        *(str(command), "serve"),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the demo, which then stops the service in order
    )
    service = Service(process, log_path)
    try:
        yield service
    finally:
        await service.kill()
