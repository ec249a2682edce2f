"""A child that is gone is a broken connection, whatever the event loop calls it."""

import asyncio

import pytest
import uvloop

from consumer.workers.channel import send


def test_sending_to_a_child_whose_pipe_has_closed_is_a_connection_error() -> None:
    async def sends_late() -> None:
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        assert process.stdin is not None
        process.kill()
        await process.wait()
        process.stdin.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await send(process.stdin, {"id": 1})

    uvloop.run(sends_late())
