"""A lane's transactional producer: short transactions, whole, and read back.

Nothing slow happens inside one, every send is awaited before the commit (aiokafka commits although a send failed), and
whatever goes wrong has one answer: a new producer with the same transactional id, which fences the old one together
with any stray request of it, and then a look at what is committed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, ProducerFenced
from aiokafka.protocol.transaction import EndTxnRequest, TxnOffsetCommitRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from consumer.core.outcomes import Write
from consumer.errors import FencedError
from consumer.kafka.client import may_pass
from consumer.to_the_end import to_the_end
from consumer.turns import Turns

log = logging.getLogger(__name__)

_STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class OffsetCommit:
    """What a transaction says about the input partition."""

    partition: TopicPartition
    offset: int
    metadata: str


class DoubtfulError(Exception):
    """A transaction whose fate is unknown, or which failed: fence, read back, then decide.

    ``retriable``: the cause may pass by itself (a broker that is away).
    """

    def __init__(self, detail: str, *, retriable: bool) -> None:
        super().__init__(detail)
        self.retriable = retriable


class LaneProducer:
    """The transactional producer of one lane, replaceable under the same id."""

    def __init__(
        self,
        connection: Mapping[str, Any],
        *,
        transactional_id: str,
        group_id: str,
        timeout_seconds: float,
        max_request_bytes: int,
        committing: Callable[[], AbstractContextManager[None]] = nullcontext,
        turns: Turns | None = None,
    ) -> None:
        """``committing`` is entered around each transaction, to measure it."""
        self._turns = turns or Turns()
        self._committing = committing
        self._connection = dict(connection)
        self._transactional_id = transactional_id
        self._group_id = group_id
        self._timeout_seconds = timeout_seconds
        self._max_request_bytes = max_request_bytes
        self._producer: AIOKafkaProducer | None = None
        self._has_stray = False

    async def fence(self) -> None:
        """Take the id: whoever had it is fenced and its open transaction ends before this returns.

        Retries while the brokers are away; bounded by its caller.
        """
        await self.stop()
        producer = AIOKafkaProducer(
            **self._connection,
            transactional_id=self._transactional_id,
            transaction_timeout_ms=round(self._timeout_seconds * 1000),
            # above the transaction's own limit: an EndTxn that times out inside the client has then always
            # outlasted the commit around it, and cannot be repeated behind our back
            request_timeout_ms=round(self._timeout_seconds * 1000) + 5000,
            max_request_size=self._max_request_bytes,
            linger_ms=0,
        )
        try:
            await producer.start()
        except BaseException:
            await to_the_end(_discard(producer))
            raise
        self._producer = producer
        self._has_stray = False
        self._watch_for_strays(producer)

    async def commit(self, writes: list[Write], commit: OffsetCommit | None) -> list[int]:
        """All or nothing: the writes and the offset. Returns the offsets at which the writes landed.

        Bounded by the transaction time-out.

        Raises FencedError when another owner has the id; DoubtfulError in every other case: the producer must then
        be replaced before anything else is begun.
        """
        producer = self._producer
        if producer is None:
            raise DoubtfulError("there is no producer", retriable=True)
        pending: list[asyncio.Future[Any]] = []
        try:
            with self._committing():
                async with asyncio.timeout(self._timeout_seconds):
                    await producer.begin_transaction()
                    for write in writes:
                        pending.append(await _send(producer, write))
                        await self._turns.time_left()  # a send that need not wait gives nobody else a turn
                    landed = await asyncio.gather(*pending)
                    if commit is not None:
                        position = OffsetAndMetadata(commit.offset, commit.metadata)
                        await producer.send_offsets_to_transaction({commit.partition: position}, self._group_id)
                    await producer.commit_transaction()
        except ProducerFenced as error:
            await self._give_up(pending)
            raise FencedError(f"{self._transactional_id} has another owner") from error
        except (KafkaError, IllegalOperation, AssertionError, TimeoutError) as error:
            # the client asserts on states that a failure elsewhere in it has just changed
            await self._give_up(pending)
            retriable = not isinstance(error, KafkaError) or may_pass(error)
            raise DoubtfulError(f"{type(error).__name__}: {error}", retriable=retriable) from error
        if self._has_stray:  # committed, but an earlier request of it may still arrive, and count for a later one
            await self.stop()
        return [record.offset for record in landed]

    async def stop(self) -> None:
        """Let go of the producer; an open transaction is ended by whoever takes the id next."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await to_the_end(_discard(producer))

    async def _give_up(self, pending: list[asyncio.Future[Any]]) -> None:
        for future in pending:
            future.add_done_callback(_retrieve)  # its failure is known already
        await self.stop()

    def _watch_for_strays(self, producer: AIOKafkaProducer) -> None:
        # aiokafka repeats a request whose connection broke, with only a log line: an EndTxn, delayed, can end a later
        # transaction (Jepsen showed it), and an offset commit can overwrite that one's offset
        client = producer.client
        send = client.send

        async def watched(node_id: int, request: Any, **kwargs: Any) -> Any:
            try:
                return await send(node_id, request, **kwargs)
            except KafkaError:
                if isinstance(request, EndTxnRequest | TxnOffsetCommitRequest):
                    self._has_stray = True
                raise

        client.send = watched


async def _send(producer: AIOKafkaProducer, write: Write) -> asyncio.Future[Any]:
    sent: asyncio.Future[Any] = await producer.send(
        write.topic,
        value=write.value,
        key=write.key,
        partition=write.partition,
        headers=write.headers or [],
        timestamp_ms=write.timestamp_ms,
    )
    return sent


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _unwatched(producer: AIOKafkaProducer) -> list[asyncio.Future[Any]]:
    """What a failing sender marks as failed inside the client, where nobody waits: asyncio would complain of each."""
    accumulator, ending = producer._message_accumulator, producer._txn_manager.wait_for_transaction_end()  # noqa: SLF001
    batches = [*chain.from_iterable(accumulator._batches.values()), *accumulator._pending_batches]  # noqa: SLF001
    return [*([ending] if ending is not None else []), *(batch._drain_waiter for batch in batches)]  # noqa: SLF001


async def _discard(producer: AIOKafkaProducer) -> None:
    for future in _unwatched(producer):
        future.add_done_callback(_retrieve)
    # A flush towards a broker that is away would last; what was not confirmed is not wanted any more.
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.warning("a producer did not stop in order: %r", error)
        if (sender := producer._sender.sender_task) is not None:  # noqa: SLF001 (it would try for ever)
            sender.cancel()
        with suppress(KafkaError):
            await producer.client.close()
