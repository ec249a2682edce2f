"""A scripted API at its worst, with books and a clock of its own."""

import random
from collections.abc import Callable, Sequence
from decimal import Decimal

from consumer.core.prices import api_model
from tests.support.scripted_api import Call, Reply, ScriptedApi, failed, hang, out_of_money, too_fast

SLOW_DOWN, BREAK, HANG = 0.30, 0.20, 0.05
"""Of all calls."""


class Storm:
    """Answers by dice: some calls are asked for patience, some fail, some hang; for a while there is no credit."""

    def __init__(self, api: ScriptedApi, *, billing_fails: range, model: str, **patience: str) -> None:
        """``billing_fails``: calls, by number. ``patience``: headers, as ``too_fast`` takes them."""
        self._api = api
        self._billing_fails = billing_fails
        self._model = api_model(model)
        self._patience = patience
        self._dice = random.Random(6)
        self.billed_usd = Decimal(0)
        self.answers = dict.fromkeys(("heard", "too fast", "broken", "hung", "no credit"), 0)
        """How many of each were given."""
        api.always(self._decide)

    def _decide(self, call: Call) -> Reply:
        if len(self._api.calls) in self._billing_fails:
            return self._give("no credit", out_of_money())
        toss = self._dice.random()
        if toss < SLOW_DOWN:
            return self._give("too fast", too_fast(**self._patience))
        if toss < SLOW_DOWN + BREAK:
            return self._give("broken", failed(503))
        self.billed_usd += self._model.usd_for_seconds(call.audio_seconds)  # what hangs has been worked on
        return self._give("hung", hang()) if toss < SLOW_DOWN + BREAK + HANG else self._give("heard", Reply())

    def _give(self, what: str, reply: Reply) -> Reply:
        self.answers[what] += 1
        return reply


def most_in_a_window(
    calls: Sequence[Call], period_seconds: float, weigh: Callable[[Call], float] = lambda _: 1.0
) -> float:
    """The fullest window that starts at any request, as the server saw them: how many, or how much they weigh."""
    return max(sum(weigh(call) for call in calls if start.at <= call.at < start.at + period_seconds) for start in calls)
