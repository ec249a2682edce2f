"""A pool of persistent decode children: a codec that crashes, hangs or swells takes only its child with it."""

import asyncio
import logging
import os
from functools import partial

from consumer.audio.spool import Fetched, Spool
from consumer.core.model import SAMPLE_BYTES, Recording
from consumer.errors import RecordingError, TransientError
from consumer.settings import Settings
from consumer.workers.supervisor import Supervisor
from consumer.workers.worker import WorkerDiedError, WorkerFaultError
from schemas.codes import Reason

START_TIMEOUT_SECONDS = 120.0
"""Warm in 1.5 s; at the very first start numba compiles for librosa, 12 s of a core for each decoder."""
MOST_DEATHS = 2
"""One death may be bad luck (memory was short); at the second, on whichever decoder is next, it is the recording."""
CHILD_RSS_BYTES = 1024**3
"""A decoder needs about 300 MB, most of it librosa's; one above this has leaked and is replaced."""


log = logging.getLogger(__name__)


class DecoderPool:
    """Decodes recordings side by side, first come first served, on at least two children."""

    def __init__(self, settings: Settings, spool: Spool, *, module: str = "consumer.workers.decode_child") -> None:
        self._spool = spool
        self._timeout_seconds = settings.decode_timeout_seconds
        size = settings.decode_workers or max(2, os.cpu_count() or 2)
        self._children = [
            Supervisor(
                module,
                {"max_seconds": settings.max_audio_seconds, "cache_dir": str(settings.state_dir / "numba")},
                name=f"decoder-{number}",
                start_timeout_seconds=START_TIMEOUT_SECONDS,
                max_rss_bytes=CHILD_RSS_BYTES,
            )
            for number in range(size)
        ]
        self._free: asyncio.Queue[Supervisor] = asyncio.Queue()
        """Each child that is not at work; whoever waits longest gets the next."""
        self._stopping = False
        self._running: set[asyncio.Task[Recording]] = set()

    @property
    def children(self) -> tuple[Supervisor, ...]:
        """For health: states, restarts, ages of the last good replies."""
        return tuple(self._children)

    async def start(self) -> None:
        """Start all children, warm. Raises ReasonedError if one cannot start: nothing is left behind."""
        started = await asyncio.gather(*(child.start() for child in self._children), return_exceptions=True)
        if failure := next((result for result in started if isinstance(result, BaseException)), None):
            await self.stop()
            raise failure
        for child in self._children:
            self._free.put_nowait(child)

    async def stop(self) -> None:
        """End all children; decodings under way fail with TransientError."""
        self._stopping = True
        await asyncio.gather(*(child.stop() for child in self._children))
        await asyncio.gather(*self._running, return_exceptions=True)

    async def decode(self, fetched: Fetched) -> Recording:
        """The samples of a leased recording; they stay as long as its lease. Nothing is decoded twice while it stays.

        Raises RecordingError for the bytes' own faults (``decode_limit``: too slow or too large to decode;
        ``poison``: it ended two decoders), TransientError when decoders cannot be had.
        """
        if (path := self._spool.pcm_path(fetched.digest)) is not None:
            return Recording(fetched.digest, path, path.stat().st_size // SAMPLE_BYTES)
        deaths: list[WorkerDiedError] = []
        while len(deaths) < MOST_DEATHS:
            try:
                return await self._on_a_child(fetched)
            except WorkerDiedError as error:
                if error.timed_out:
                    raise self._too_slow() from error
                if self._stopping:
                    raise
                deaths.append(error)
                log.warning("decoder died digest=%s: %s", fetched.digest, error.detail)
        ends = ", then ".join(death.detail for death in deaths)
        raise RecordingError(Reason.POISON, f"decoding it: {ends}; convert it to FLAC and send that") from deaths[-1]

    async def _on_a_child(self, fetched: Fetched) -> Recording:
        child = await self._free.get()
        task = asyncio.create_task(self._ask(child, fetched), name=f"decode {fetched.digest[:12]}")
        self._running.add(task)
        task.add_done_callback(partial(self._finished, child))
        # a caller that is cancelled does not free the child: it is busy, and writes, until it has answered or is killed
        return await asyncio.shield(task)

    async def _ask(self, child: Supervisor, fetched: Fetched) -> Recording:
        with self._spool.lease(fetched.digest) as held, self._spool.scratch() as scratch:
            if held is None:
                raise TransientError(Reason.FETCH_FAILED, "the recording has left the spool; it must be fetched again")
            request = {"path": str(held.path), "out_path": str(scratch)}
            try:
                answer, _ = await child.request(request, timeout_seconds=self._timeout_seconds)
            except WorkerFaultError as error:
                if error.fault == "MemoryError":
                    detail = "decoding it takes more memory than is allowed; convert it to FLAC and send that"
                    raise RecordingError(Reason.DECODE_LIMIT, detail) from error
                detail = f"no decoder can make sense of it: {error.detail}"
                raise RecordingError(Reason.CORRUPT_AUDIO, detail) from error
            return Recording(held.digest, self._spool.keep_pcm(held.digest, scratch), int(answer["samples"]))

    def _finished(self, child: Supervisor, task: asyncio.Task[Recording]) -> None:
        self._free.put_nowait(child)
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may have been cancelled meanwhile

    def _too_slow(self) -> RecordingError:
        detail = f"decoding took longer than {self._timeout_seconds:g} s and was stopped; cut it, or convert it to FLAC"
        return RecordingError(Reason.DECODE_LIMIT, detail)
