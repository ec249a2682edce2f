"""What is done for the texts' sake beside hearing them, as the settings ask for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from consumer.core.breaker import Breaker
from consumer.core.model import Heard, Recording, Wish
from consumer.engines.choose import choose_shadow
from consumer.engines.hybrid import HybridEngine
from consumer.engines.openai_api import OpenAIEngine
from consumer.engines.refiner import Refiner
from consumer.engines.shadow import Shadow
from consumer.settings import Settings


@dataclass(frozen=True, slots=True)
class SecondLooks:
    """None of them can fail a recording."""

    shadow: Shadow | None = None
    refiner: Refiner | None = None
    breakers: dict[str, Breaker] = field(default_factory=dict)
    """Of those that it asks and that do not serve: ``shadow`` and ``refine``."""

    async def compare(self, heard: Heard, recording: Recording, wish: Wish) -> Heard:
        """What was heard, perhaps with how far a second engine disagrees."""
        return heard if self.shadow is None else await self.shadow.compare(heard, recording, wish)

    async def refine(self, heard: Heard, digest: str, wish: Wish) -> Heard:
        """What was heard, perhaps corrected."""
        return heard if self.refiner is None else await self.refiner.refine(heard, digest, wish)


NO_LOOKS = SecondLooks()


@asynccontextmanager
async def second_looks(settings: Settings, serving: HybridEngine) -> AsyncIterator[SecondLooks]:
    """Started for the length of the block. Raises ServiceError for settings that cannot work."""
    async with AsyncExitStack() as stack:
        refiner = shadow = None
        breakers: dict[str, Breaker] = {}
        if (engine := choose_shadow(settings, serving)) is not None:
            if is_own := engine is not serving.api:
                stack.push_async_callback(engine.stop)
                await engine.start()
                if isinstance(engine, OpenAIEngine):
                    serving.share_limits_with(engine.gate)
                    breakers["shadow"] = engine.breaker
            shadow = Shadow(engine, settings, is_own=is_own)
        if settings.refine_model is not None:
            refiner = Refiner(settings)
            stack.push_async_callback(refiner.stop)
            await refiner.start()
            serving.share_limits_with(refiner.gate)
            breakers["refine"] = refiner.breaker
        yield SecondLooks(shadow, refiner, breakers)
