"""What is done for the texts' sake beside hearing them, as the settings ask for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from consumer.core.model import Heard, Wish
from consumer.engines.refiner import Refiner
from consumer.settings import Settings


@dataclass(frozen=True, slots=True)
class SecondLooks:
    """None of them can fail a recording."""

    refiner: Refiner | None = None

    async def refine(self, heard: Heard, digest: str, wish: Wish) -> Heard:
        """What was heard, perhaps corrected."""
        return heard if self.refiner is None else await self.refiner.refine(heard, digest, wish)


NO_LOOKS = SecondLooks()


@asynccontextmanager
async def second_looks(settings: Settings) -> AsyncIterator[SecondLooks]:
    """Started for the length of the block. Raises ServiceError for settings that cannot work."""
    async with AsyncExitStack() as stack:
        refiner = None
        if settings.refine_model is not None:
            refiner = Refiner(settings)
            stack.push_async_callback(refiner.stop)
            await refiner.start()
        yield SecondLooks(refiner)
